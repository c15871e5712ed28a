-- The health of the table $1 of the installation $4 after each run since $2, oldest first: as the run's last task saw it. Of more than $3 runs
-- only every second, third, ... from the newest back: as many as a chart can show.
SELECT run_id, slot, at, after
FROM (
  SELECT seen.*, row_number() OVER (ORDER BY at DESC) AS number, count(*) OVER () AS of
  FROM (
    SELECT DISTINCT ON (task.run_id) task.run_id, run.slot, task.started_at AS at, task.after
    FROM maintenance_tasks AS task
    JOIN maintenance_runs AS run ON run.run_id = task.run_id AND run.installation_id = $4
    WHERE task.iceberg_table = $1 AND task.started_at >= $2 AND task.after IS NOT NULL
    ORDER BY task.run_id, task.position DESC
  ) AS seen
) AS counted
WHERE (number - 1) % ((of + $3 - 1) / $3) = 0
ORDER BY at
