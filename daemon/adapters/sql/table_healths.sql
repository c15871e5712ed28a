-- How the table $1 was when a run was done with it, of runs since $2, oldest first: what the run's last task saw.
SELECT run_id, slot, at, after
FROM (
  SELECT DISTINCT ON (task.run_id) task.run_id, run.slot, task.started_at AS at, task.after
  FROM maintenance_tasks AS task
  JOIN maintenance_runs AS run ON run.run_id = task.run_id
  WHERE task.iceberg_table = $1 AND task.started_at >= $2 AND task.after IS NOT NULL
  ORDER BY task.run_id, task.position DESC
) AS seen
ORDER BY at
