-- How many rows the open findings of the tables $1 of the installation $2 are of, by table and kind.
WITH open AS (
{open_windows}
)
SELECT open.iceberg_table, finding->>'kind' AS kind, sum((finding->>'rows')::bigint)::bigint AS rows
FROM open
JOIN maintenance_audit_log AS audit ON audit.run_id = open.run_id AND audit.iceberg_table = open.iceberg_table
  AND audit.window_start = open.window_start AND audit.window_end = open.window_end
CROSS JOIN LATERAL jsonb_array_elements(audit.findings) AS finding
GROUP BY 1, 2
