-- The newest $3 runs of the installation $5 that answered for a night, with the outcome $4 (NULL: any). The newest UTC day of a slot comes
-- first, and within it the run that began last.
WITH answered AS NOT MATERIALIZED (
  SELECT run_id, slot, outcome, started_at, finished_at
  FROM maintenance_runs AS run
  WHERE installation_id = $5 AND outcome IS NOT NULL AND ($4::text IS NULL OR outcome = $4) AND
{answered}
), newest AS (
  -- By slot and not by day, to use the index on slot.
  SELECT slot FROM answered ORDER BY slot DESC LIMIT $3
), run AS (
  SELECT *
  FROM answered
  WHERE slot >= (SELECT date_trunc('day', min(slot)) FROM newest)
  ORDER BY date_trunc('day', slot) DESC, started_at DESC
  LIMIT $3
)
SELECT run.*, audit.audited, audit.found, audit.older
FROM run
CROSS JOIN LATERAL (
  SELECT coalesce(array_agg(iceberg_table::text) FILTER (WHERE worse IS NULL), '{}') AS audited,
         coalesce(array_agg(iceberg_table::text)
                  FILTER (WHERE status::text IN ('missing_data', 'error') AND worse IS NULL), '{}') AS found,
         coalesce(array_agg(DISTINCT iceberg_table::text)
                  FILTER (WHERE status::text IN ('missing_data', 'error') AND worse), '{}') AS older
  FROM maintenance_audit_log
  WHERE maintenance_audit_log.run_id = run.run_id
) AS audit
ORDER BY date_trunc('day', run.slot) DESC, run.started_at DESC
