-- The findings of the tables $1, of windows that end after $2: of each window those of its newest audit that could count,
-- and those of its newest that found bad files; of so many ($3) audits of the installation $4. The casts: see store_audit.sql.
SELECT * FROM (
  SELECT DISTINCT ON (iceberg_table, window_start, window_end, of_files)
         iceberg_table::text AS iceberg_table, run_id, run_timestamp::timestamptz AS run_timestamp, status::text AS status,
         window_start::timestamptz AS window_start, window_end::timestamptz AS window_end, of_files, findings
  FROM maintenance_audit_log
  CROSS JOIN LATERAL (SELECT bad_file_rows IS NOT NULL AND status::text = 'error' AS of_files) AS what
  WHERE iceberg_table = ANY($1::text[]) AND installation_id = $4 AND window_end::timestamptz > $2
    AND (status::text <> 'error' OR of_files) AND reason IS DISTINCT FROM 'source_empty'
  ORDER BY iceberg_table, window_start, window_end, of_files, {newer} DESC, run_timestamp DESC, run_id DESC
) AS audit
WHERE jsonb_array_length(findings) > 0
ORDER BY window_start DESC, iceberg_table, of_files
LIMIT $3
