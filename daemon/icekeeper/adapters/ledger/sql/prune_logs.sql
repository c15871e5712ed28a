-- Deletes the lines of the oldest $2 runs of the installation $3, or of none, that began before $1: a few runs at a time,
-- so that no lock is held for long.
DELETE FROM maintenance_logs
WHERE run_id IN (
  SELECT run_id
  FROM maintenance_runs AS run
  WHERE (installation_id = $3 OR installation_id IS NULL) AND started_at < $1
    AND outcome IS NOT NULL
    AND EXISTS (SELECT 1 FROM maintenance_logs AS line WHERE line.run_id = run.run_id)
  ORDER BY started_at
  LIMIT $2
)
