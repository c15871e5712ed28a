-- By what the days are certified now that the run $1 audited as a whole. The session's zone is UTC.
WITH audited AS MATERIALIZED (
  SELECT installation_id, iceberg_table::text AS name, window_start::timestamptz::date AS day,
         window_start::timestamptz AS window_start, window_end::timestamptz AS window_end
  FROM maintenance_audit_log
  WHERE run_id = $1 AND {whole_day}
)
SELECT name AS iceberg_table, window_start, window_end, certificate.certified_by
FROM audited
CROSS JOIN LATERAL (
  SELECT certified_by FROM maintenance_certificates
  WHERE iceberg_table = audited.name AND day = audited.day AND revoked_at IS NULL
    AND installation_id = audited.installation_id
  OFFSET 0  -- so that the view is asked for these days only
) AS certificate
