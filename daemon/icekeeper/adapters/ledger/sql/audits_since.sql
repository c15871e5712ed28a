-- Every audit whose window ended since $1, those of another job (run_id IS NULL), too, in the order of their making.
-- The casts: see store_audit.sql.
SELECT run_id, run_timestamp::timestamptz AS run_timestamp, iceberg_table::text AS "table",
       window_start::timestamptz AS window_start, window_end::timestamptz AS window_end,
       ch_row_count::bigint AS clickhouse, iceberg_row_count::bigint AS iceberg,
       status::text AS status, reason, coalesce(notes, '')::text AS notes, ch_query, iceberg_query, ch_final, watermark
FROM maintenance_audit_log
WHERE window_end >= $1
ORDER BY run_timestamp
