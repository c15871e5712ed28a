"""The servers of a sandbox as processes: S3, PostgreSQL, ClickHouse. What is in them is not their business."""
