"""The Spark session: launching its JVM, its options, errors and logs. Tables live in adapters/iceberg."""
