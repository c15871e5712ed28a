-- The last run that answered for a night of the slots from $3 on of the installation $4, in the order of last_nights.sql: one that is under
-- way does not answer yet, nor does what it goes on from.
SELECT run_id, slot, trigger, outcome, started_at, finished_at, duration_s, settings_hash,
       coalesce(stages, '{}') AS stages, coalesce(tables, '{}') AS tables, host, actor
FROM (
  SELECT DISTINCT ON (slot) run.*
  FROM maintenance_runs AS run
  WHERE installation_id = $4 AND slot >= $3 AND
{answered}
  ORDER BY slot DESC, started_at DESC, run_id
) AS last
WHERE outcome IS NOT NULL
ORDER BY date_trunc('day', slot) DESC, started_at DESC
LIMIT 1
