-- The open findings of the tables $1 of the installation $2: windows that lack rows, could not be counted, or have bad files, and are not
-- acknowledged. A window has two findings where both rows and files are bad: `of_files` tells them apart.
--
-- What a window's audits say of its rows, taken together:
-- * Only the installation's own audits are considered: other writers of the table count by other rules.
-- * The newest that could count is the verdict. One that could not (error) is a finding only where no audit ever
--   could: a day that was proven stays proven, and one that lacked rows still lacks them.
-- * An `ok` because ClickHouse holds no row (source_empty) proves nothing: its TTL may have taken them.
-- * A status that icekeeper does not know, entered by hand, closes the window.
-- * An `ok` of a longer window on the same UTC day closes it, too. One of several days doesn't: 1 % of a week may be a
--   whole hour of a day.
-- * Two that overlap in time have no order: see newer.sql.
-- What they say of its files: bad ones (an error with bad_file_rows) are a finding, whatever was counted before, until an
-- audit counts the window, or a longer one on the same UTC day, by the same proof or a stronger one, whatever its verdict
-- on the rows is.
-- An acknowledgement closes a window for as many missing rows as were known then, or for the bad files of then and their
-- rows: finding no more of them opens nothing, finding more does. It ends when the window is proven in between.
--
-- The casts give the columns of adopted tables one type: see store_audit.sql.
WITH audits AS NOT MATERIALIZED (
  SELECT iceberg_table, window_start, window_end, run_id, run_timestamp, status, reason, delta, iceberg_row_count, proof,
         bad_files, bad_file_rows,
         -- An icekeeper of before 0005 may have replaced such an error, and left this column as it was.
         audit.bad_file_rows IS NOT NULL AND audit.status::text = 'error' AS of_files,
         CASE WHEN audit.status::text = 'error' THEN 0 ELSE {rows_that_differ} END AS rows_missing,
         coalesce(began_at, run_timestamp::timestamptz) AS began_at,
         -- An ok closes what was found before it began, whatever few rows it lacks itself.
         CASE WHEN status::text = 'ok' THEN coalesce(began_at, run_timestamp::timestamptz)
              ELSE run_timestamp::timestamptz END AS newer
  FROM maintenance_audit_log AS audit
  WHERE audit.iceberg_table = ANY($1::text[]) AND audit.installation_id = $2
), verdict AS (
  SELECT DISTINCT ON (audit.iceberg_table, audit.window_start, audit.window_end, audit.of_files)
         audit.iceberg_table::text AS iceberg_table,
         audit.window_start::timestamptz AS window_start, audit.window_end::timestamptz AS window_end,
         audit.status::text AS status, audit.delta::bigint AS delta, audit.reason,
         audit.of_files, audit.proof, CASE WHEN audit.of_files THEN audit.bad_files END AS bad_files,
         CASE WHEN audit.of_files THEN audit.bad_file_rows END AS bad_file_rows,
         audit.rows_missing, audit.run_id, audit.run_timestamp::timestamptz AS audited_at
  FROM audits AS audit
  WHERE audit.reason IS DISTINCT FROM 'source_empty'
  ORDER BY audit.iceberg_table, audit.window_start, audit.window_end, audit.of_files,
           audit.status::text = 'error', audit.newer DESC, audit.run_timestamp DESC, audit.run_id DESC
)
SELECT verdict.*, coalesce(first.found_at, verdict.audited_at) AS since
FROM verdict
-- The longest window that a verdict on this one may come from.
CROSS JOIN LATERAL (
  SELECT date_trunc('day', verdict.window_start) AS day_start,
         greatest(verdict.window_end, date_trunc('day', verdict.window_start) + interval '1 day') AS day_end
) AS longest
CROSS JOIN LATERAL (
  SELECT coalesce(max(good.began_at), '-infinity') AS at
  FROM audits AS good
  WHERE good.iceberg_table = verdict.iceberg_table
    AND CASE WHEN verdict.of_files
               THEN good.iceberg_row_count IS NOT NULL AND good.bad_file_rows IS NULL
                 AND CASE good.proof WHEN 'rows' THEN 2 WHEN 'files' THEN 1 WHEN 'lengths' THEN 1 ELSE 0 END
                  >= CASE verdict.proof WHEN 'rows' THEN 2 WHEN 'files' THEN 1 ELSE 0 END
             ELSE good.status::text = 'ok' AND good.reason IS DISTINCT FROM 'source_empty' END
    AND good.window_start BETWEEN longest.day_start AND verdict.window_start
    AND good.window_end BETWEEN verdict.window_end AND longest.day_end
) AS proven
CROSS JOIN LATERAL (
  SELECT coalesce(max(coalesce(ack.bad_file_rows, ack.rows_missing)), -1) AS rows
  FROM maintenance_acks AS ack
  WHERE ack.iceberg_table = verdict.iceberg_table AND ack.installation_id = $2 AND ack.audited_at > proven.at
    AND ack.bad_file_rows IS NOT NULL = verdict.of_files
    AND jsonb_path_query_array(coalesce(verdict.bad_files, '[]'), '$[*].path')
     <@ jsonb_path_query_array(coalesce(ack.bad_files, '[]'), '$[*].path')
    AND ack.window_start BETWEEN longest.day_start AND verdict.window_start
    AND ack.window_end BETWEEN verdict.window_end AND longest.day_end
) AS acked
-- When it was first found: since the window was last proven, and beyond what was acknowledged.
CROSS JOIN LATERAL (
  SELECT min(bad.run_timestamp)::timestamptz AS found_at
  FROM audits AS bad
  WHERE bad.iceberg_table = verdict.iceberg_table
    AND bad.window_start = verdict.window_start AND bad.window_end = verdict.window_end
    AND bad.of_files = verdict.of_files
    AND bad.status::text <> 'ok' AND (bad.status::text <> 'error' OR verdict.status = 'error')
    AND bad.run_timestamp > proven.at
    AND CASE WHEN verdict.of_files THEN bad.bad_file_rows ELSE bad.rows_missing END > acked.rows
) AS first
WHERE verdict.status IN ('warning', 'missing_data', 'error')
  AND verdict.audited_at > proven.at
  AND coalesce(verdict.bad_file_rows, verdict.rows_missing) > acked.rows
