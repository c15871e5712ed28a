-- The newest $3 tasks of the table $1 of the installation $4 since $2, oldest first.
SELECT run_id, slot, stage, outcome, reason, started_at, duration_s
FROM (
  SELECT task.run_id, run.slot, task.stage, task.outcome, task.reason, task.started_at, task.duration_s, task.position
  FROM maintenance_tasks AS task
  JOIN maintenance_runs AS run ON run.run_id = task.run_id AND run.installation_id = $4
  WHERE task.iceberg_table = $1 AND task.started_at >= $2
  ORDER BY task.started_at DESC, task.position DESC
  LIMIT $3
) AS newest
ORDER BY started_at, position
