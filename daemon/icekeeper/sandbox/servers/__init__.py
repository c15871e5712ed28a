"""The servers of a sandbox as processes: S3, PostgreSQL, ClickHouse. They know no tables."""
