-- The last audit of each of the newest $2 UTC days of each of the tables $1. The session's zone is UTC.
-- The casts make one shape of what adopted tables hold: see store_audit.sql.
SELECT name AS "table", audit.*
FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
  SELECT DISTINCT ON (window_start) window_start::timestamptz AS day, run_timestamp::timestamptz AS at, status::text AS status,
         ch_row_count::bigint AS clickhouse, iceberg_row_count::bigint AS iceberg
  FROM maintenance_audit_log
  WHERE iceberg_table = name AND run_id IS NOT NULL
    AND window_start = date_trunc('day', window_start) AND window_end = window_start + interval '1 day'
  ORDER BY window_start DESC, run_timestamp DESC
  LIMIT $2
) AS audit
