SELECT stage, iceberg_table AS "table", outcome, reason, note, attempts, started_at, duration_s, before, after, error,
       engine_log
FROM maintenance_tasks
WHERE run_id = $1
ORDER BY position
