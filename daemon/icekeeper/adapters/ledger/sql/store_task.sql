INSERT INTO maintenance_tasks AS task
  (run_id, stage, iceberg_table, position, outcome, reason, note, attempts, started_at, duration_s, before, after, error,
   engine_log)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::jsonb, $12::jsonb, $13, $14)
ON CONFLICT (run_id, stage, iceberg_table) DO UPDATE SET
  position = excluded.position,
  outcome = excluded.outcome,
  reason = excluded.reason,
  note = excluded.note,
  attempts = excluded.attempts,
  started_at = excluded.started_at,
  duration_s = excluded.duration_s,
  before = excluded.before,
  after = excluded.after,
  error = excluded.error,
  engine_log = excluded.engine_log
