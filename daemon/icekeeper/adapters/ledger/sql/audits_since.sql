-- Every audit of the installation $2 whose window ended since $1, those of another job (run_id IS NULL), too, in the order of
-- their making.
-- The casts make one shape of what adopted tables hold: see store_audit.sql.
SELECT run_id, slot, trigger, run_timestamp::timestamptz AS run_timestamp,
       iceberg_table::text AS iceberg_table, ch_source::text AS ch_source, layer::text AS layer,
       audit_window_hours::bigint AS audit_window_hours,
       window_start::timestamptz AS window_start, window_end::timestamptz AS window_end,
       ch_row_count::bigint AS ch_row_count, iceberg_row_count::bigint AS iceberg_row_count,
       delta::bigint AS delta, delta_pct::numeric AS delta_pct,
       status::text AS status, reason, coalesce(notes, '')::text AS notes,
       snapshot_id, ch_query, iceberg_query, ch_final, watermark, missing_hours, proof, bad_files, bad_file_rows,
       key_comparison, findings, worse
FROM maintenance_audit_log
WHERE window_end::timestamptz >= $1::timestamptz AND (run_id IS NULL OR installation_id = $2)
ORDER BY run_timestamp
