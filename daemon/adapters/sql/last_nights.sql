-- The newest $3 runs that answered for a night, newest first; of a given outcome where $4 names one.
-- An operator's run did if it went through all stages ($1) on all tables that are enabled ($2).
SELECT run.run_id, run.slot, run.outcome, run.started_at, run.finished_at, audit.audited, audit.found
FROM (
  SELECT run_id, slot, outcome, started_at, finished_at
  FROM maintenance_runs
  WHERE outcome IS NOT NULL AND ($4::text IS NULL OR outcome = $4)
    AND (trigger <> 'manual' OR (stages @> $1::text[] AND tables @> $2::text[]))
  ORDER BY started_at DESC
  LIMIT $3
) AS run
CROSS JOIN LATERAL (
  SELECT coalesce(array_agg(iceberg_table::text), '{}') AS audited,
         coalesce(array_agg(iceberg_table::text) FILTER (WHERE status::text IN ('missing_data', 'error')), '{}') AS found
  FROM maintenance_audit_log
  WHERE maintenance_audit_log.run_id = run.run_id
) AS audit
ORDER BY run.started_at DESC
