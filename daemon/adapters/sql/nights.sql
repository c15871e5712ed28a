-- How the slots from $1 on were answered, newest first: the last run of each that no operator ordered.
SELECT DISTINCT ON (slot) slot, run_id, trigger, outcome, started_at, duration_s
FROM maintenance_runs
WHERE slot >= $1 AND trigger <> 'manual'
ORDER BY slot DESC, started_at DESC, run_id
