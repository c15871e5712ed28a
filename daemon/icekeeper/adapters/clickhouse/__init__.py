"""ClickHouse over HTTP: the connection, counting, the settings that keep a count whole, and a table's TTL."""
