SELECT
{audit_columns}
FROM maintenance_audit_log
WHERE run_id = $1
ORDER BY run_timestamp, iceberg_table, window_start
