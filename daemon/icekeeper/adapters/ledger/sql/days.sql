-- Each UTC day since $2 of each of the tables $1 of the installation $3, as the newest of its audits that could count has it, or that found bad
-- files; of a day that none could count: the newest. With its certificate, or why its newest one was revoked. The
-- session's zone is UTC.
-- The casts make one shape of what adopted tables hold: see store_audit.sql.
WITH certificate AS (
  SELECT DISTINCT ON (iceberg_table, day)
         iceberg_table, day, CASE WHEN revoked_at IS NULL THEN certified_by END AS certified_by, revoked_reason
  FROM maintenance_certificates
  WHERE iceberg_table = ANY($1::text[]) AND day >= $2::timestamptz::date AND installation_id = $3
  ORDER BY iceberg_table, day, revoked_at DESC NULLS FIRST
)
SELECT audit.*, certificate.certified_by, certificate.revoked_reason
FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
  SELECT DISTINCT ON (window_start) name AS "table", window_start::timestamptz::date AS day, run_id, status::text AS status, reason,
         ch_row_count::bigint AS ch_row_count, iceberg_row_count::bigint AS iceberg_row_count, proof
  FROM maintenance_audit_log
  WHERE iceberg_table = name AND installation_id = $3 AND window_start >= date_trunc('day', $2::timestamptz)
    AND {whole_day}
  ORDER BY window_start, {judging_first}
) AS audit
LEFT JOIN certificate ON certificate.iceberg_table = name AND certificate.day = audit.day
ORDER BY name, audit.day
