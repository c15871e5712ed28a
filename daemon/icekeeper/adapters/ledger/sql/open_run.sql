-- A run that begins. Stored late, after the run's end, it adds only what the report does not hold.
INSERT INTO maintenance_runs AS run
  (run_id, slot, trigger, started_at, settings_hash, stages, tables, host, actor, installation_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, nullif($8, ''), $9, $10)
ON CONFLICT (run_id) DO UPDATE SET
  stages = excluded.stages,
  tables = excluded.tables,
  host = excluded.host,
  actor = excluded.actor,
  installation_id = coalesce(run.installation_id, excluded.installation_id)
