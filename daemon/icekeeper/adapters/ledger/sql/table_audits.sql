-- The audits of the table $1 of the installation $4, of windows from $2 on, of each the one that it is judged by, oldest first. Of more than $3 only every second, third, ... from the
-- newest back, and all that were not ok. The casts: see store_audit.sql.
SELECT run_id, window_start, window_end, ch_row_count, iceberg_row_count, delta, delta_pct, status, reason
FROM (
  SELECT run_id, run_timestamp::timestamptz AS run_timestamp,
         window_start::timestamptz AS window_start, window_end::timestamptz AS window_end,
         ch_row_count::bigint AS ch_row_count, iceberg_row_count::bigint AS iceberg_row_count,
         delta::bigint AS delta, delta_pct::numeric AS delta_pct, status::text AS status, reason,
         row_number() OVER (ORDER BY window_start DESC, run_timestamp DESC) AS number, count(*) OVER () AS of
  FROM (
    SELECT DISTINCT ON (window_start, window_end) *
    FROM maintenance_audit_log
    WHERE iceberg_table = $1 AND window_start >= $2 AND installation_id = $4
    ORDER BY window_start, window_end, {judging_first}
  ) AS judging
) AS counted
WHERE (number - 1) % ((of + $3 - 1) / $3) = 0 OR status <> 'ok'
ORDER BY window_start, run_timestamp
