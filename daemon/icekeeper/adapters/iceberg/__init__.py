"""Iceberg tables through the session's JVM: metadata, rewriting, expiry, counting."""
