-- How the slots of the installation $4 from $3 on were answered, newest first: the last run of each that answers for a night, or will.
SELECT DISTINCT ON (slot) slot, run_id, trigger, outcome, started_at, duration_s
FROM maintenance_runs AS run
WHERE installation_id = $4 AND slot >= $3 AND
{answered}
ORDER BY slot DESC, started_at DESC, run_id
