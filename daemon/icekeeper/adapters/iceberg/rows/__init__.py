"""The rows of a snapshot, in the thread of the session: counts with Spark SQL, and the fingerprints of their keys."""
