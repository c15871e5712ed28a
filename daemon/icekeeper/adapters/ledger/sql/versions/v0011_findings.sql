-- The casts give the columns of adopted tables one type: see ../store_audit.sql.
CREATE OR REPLACE VIEW maintenance_findings AS
SELECT audit.iceberg_table::text AS iceberg_table,
       (finding->>'start')::timestamptz AS window_start, (finding->>'end')::timestamptz AS window_end,
       finding->>'kind' AS kind, (finding->>'rows')::bigint AS rows,
       (finding->>'clickhouse')::bigint AS ch_row_count, (finding->>'iceberg')::bigint AS iceberg_row_count,
       finding->>'explanation' AS explanation, finding->>'evidence' AS evidence,
       finding->'sample_keys' AS sample_keys, finding->'files' AS files,
       audit.run_id, audit.run_timestamp::timestamptz AS run_timestamp, audit.status::text AS status,
       audit.window_start::timestamptz AS audit_window_start, audit.window_end::timestamptz AS audit_window_end,
       finding->>'id' AS finding_id,
       installation.name AS installation
FROM maintenance_audit_log AS audit
CROSS JOIN LATERAL jsonb_array_elements(audit.findings) AS finding
LEFT JOIN maintenance_installations AS installation USING (installation_id);
COMMENT ON VIEW maintenance_findings IS 'where both sides differ: a row for each part of an audited window and kind';
