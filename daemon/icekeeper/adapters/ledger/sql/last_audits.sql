-- The last audit of each of the newest $2 UTC days of each of the tables $1 of the installation $3. The session's zone is UTC.
-- The casts make one shape of what adopted tables hold: see store_audit.sql.
SELECT name AS "table", audit.*
FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
  SELECT DISTINCT ON (window_start) window_start::timestamptz AS day, run_timestamp::timestamptz AS at, status::text AS status,
         ch_row_count::bigint AS clickhouse, iceberg_row_count::bigint AS iceberg
  FROM maintenance_audit_log
  WHERE iceberg_table = name AND installation_id = $3
    AND {whole_day}
    -- Older days than these are not looked for among all that a table has.
    AND window_start > (
      SELECT max(newest.window_start) FROM maintenance_audit_log AS newest
      WHERE newest.iceberg_table = name AND newest.installation_id = $3
    ) - interval '90 days'
  ORDER BY window_start DESC, run_timestamp DESC
  LIMIT $2
) AS audit
