ALTER TABLE maintenance_tasks ADD COLUMN engine_log text;

COMMENT ON COLUMN maintenance_tasks.engine_log IS 'what Spark wrote to its log while the task was under way, if the task failed: its last lines';

-- A table's past, newest first.
CREATE INDEX maintenance_tasks_iceberg_table ON maintenance_tasks (iceberg_table, started_at DESC);
