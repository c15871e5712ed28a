-- The run as it ended, and whose it is. What a run was opened with (stages, tables) stays as it is.
INSERT INTO maintenance_runs AS run
  (run_id, slot, trigger, outcome, started_at, finished_at, duration_s, settings_hash, older_days, installation_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::jsonb, $10)
ON CONFLICT (run_id) DO UPDATE SET
  outcome = excluded.outcome,
  started_at = excluded.started_at,
  finished_at = excluded.finished_at,
  duration_s = excluded.duration_s,
  older_days = excluded.older_days,
  installation_id = coalesce(run.installation_id, excluded.installation_id)
RETURNING installation_id
