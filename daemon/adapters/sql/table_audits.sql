-- What audits said of the table $1, of windows from $2 on, oldest first. The casts: see store_audit.sql.
SELECT run_id, slot, run_timestamp::timestamptz AS run_timestamp,
       window_start::timestamptz AS window_start, window_end::timestamptz AS window_end,
       ch_row_count::bigint AS ch_row_count, iceberg_row_count::bigint AS iceberg_row_count,
       delta::bigint AS delta, delta_pct::numeric AS delta_pct, status::text AS status, reason
FROM maintenance_audit_log
WHERE iceberg_table = $1 AND window_start >= $2 AND run_id IS NOT NULL
ORDER BY window_start, run_timestamp
