-- Every audit of the tables $1 whose window ended since $2, those of another job (run_id IS NULL), too, oldest first.
-- The casts: see store_audit.sql.
SELECT run_id, run_timestamp::timestamptz AS run_timestamp, iceberg_table::text AS "table",
       window_start::timestamptz AS window_start, window_end::timestamptz AS window_end,
       ch_row_count::bigint AS clickhouse, iceberg_row_count::bigint AS iceberg,
       status::text AS status, reason, coalesce(notes, '')::text AS notes, ch_query, iceberg_query, ch_final, watermark
FROM maintenance_audit_log
WHERE iceberg_table = ANY($1::text[]) AND window_end >= $2
ORDER BY run_timestamp
