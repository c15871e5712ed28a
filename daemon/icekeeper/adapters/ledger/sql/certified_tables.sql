-- Of each of the tables $1: the end of its newest certified day (of more than a year), and when at $2 the source's TTL takes
-- the first rows of the oldest day of which it has not taken all, and which is neither certified nor acknowledged
-- as its newest audit has it, or that was never audited though an earlier one is certified. Days that can't be certified as
-- they were audited (no key of a source that merges rows, a part of it, a weak proof, an icekeeper of before) are left out,
-- and those of which the source holds no row. $3: the days that nights should have audited by now.
-- All of the installation $4.
-- The session's zone is UTC. The casts: see store_audit.sql.
WITH kept AS MATERIALIZED (
  SELECT name, ttl.keeps, greatest(ttl.keeps, interval '400 days') + interval '1 day' AS back
  FROM unnest($1::text[]) AS name
  LEFT JOIN LATERAL (
    SELECT source_ttl_s * interval '1 second' AS keeps
    FROM maintenance_audit_log
    WHERE iceberg_table = name AND installation_id = $4 AND ch_row_count IS NOT NULL
    ORDER BY window_start DESC, run_timestamp DESC LIMIT 1
  ) AS ttl ON true
), certified AS MATERIALIZED (
  SELECT kept.name, certificate.day
  FROM kept
  CROSS JOIN LATERAL (
    SELECT day FROM maintenance_certificates
    WHERE iceberg_table = kept.name AND day >= ($2::timestamptz - kept.back)::date AND revoked_at IS NULL
      AND installation_id = $4
    OFFSET 0  -- so that the view is asked for each table's days only
  ) AS certificate
)
SELECT kept.name AS "table", uncertified.day + kept.keeps AS expires,
       (SELECT max(day)::timestamptz + interval '1 day' FROM certified WHERE certified.name = kept.name) AS until
FROM kept
LEFT JOIN LATERAL (
  SELECT min(open.day) AS day
  FROM (
    SELECT audited.day
    FROM (
      SELECT DISTINCT ON (window_start) window_start::timestamptz AS day, run_timestamp::timestamptz AS at,
             status::text AS status, reason, ch_merges, proof, key_comparison, bad_file_rows,
             {rows_that_differ} AS rows_missing
      FROM maintenance_audit_log AS audit
      WHERE iceberg_table = kept.name AND installation_id = $4
        AND window_start > $2::timestamptz - kept.keeps - interval '1 day'
        AND {whole_day}
      ORDER BY window_start, {judging_first}
    ) AS audited
    WHERE reason IS DISTINCT FROM 'source_empty'
      AND (status = 'error' OR proof IN ('files', 'rows')
           AND NOT (ch_merges AND (key_comparison IS NULL OR key_comparison->>'sample' IS NOT NULL)))
      AND audited.day::date NOT IN (SELECT certified.day FROM certified WHERE certified.name = kept.name)
      -- As in the acknowledgements of a run's audits: made on this audit, or on an earlier one that found as much.
      AND NOT EXISTS (
        SELECT FROM maintenance_acks AS ack
        WHERE ack.iceberg_table = kept.name AND ack.installation_id = $4
          AND ack.window_start = audited.day AND ack.window_end = audited.day + interval '1 day'
          AND (ack.bad_file_rows IS NULL) = (audited.bad_file_rows IS NULL)
          AND (ack.audited_at >= audited.at
               OR audited.bad_file_rows <= ack.bad_file_rows
               OR audited.rows_missing BETWEEN 1 AND ack.rows_missing))
    UNION ALL
    SELECT skipped.day::timestamptz
    FROM unnest($3::date[]) AS skipped(day)
    WHERE skipped.day::timestamptz > $2::timestamptz - kept.keeps - interval '1 day'
      AND skipped.day > (SELECT min(day) FROM certified WHERE certified.name = kept.name)
      AND skipped.day NOT IN (SELECT certified.day FROM certified WHERE certified.name = kept.name)
      AND NOT EXISTS (
        SELECT FROM maintenance_audit_log
        WHERE iceberg_table = kept.name AND installation_id = $4 AND window_start = skipped.day AND {whole_day})
  ) AS open
) AS uncertified ON true
