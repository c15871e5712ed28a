-- The newest $2 tasks of each of the tables $1.
SELECT task.run_id, task.stage, task.iceberg_table AS "table", task.outcome, task.reason, task.started_at,
       -- Not a join: for a few hundred of them it might read all runs.
       (SELECT slot FROM maintenance_runs AS run WHERE run.run_id = task.run_id) AS slot
FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
  SELECT run_id, stage, iceberg_table, outcome, reason, started_at
  FROM maintenance_tasks
  WHERE iceberg_table = name
  ORDER BY started_at DESC
  LIMIT $2
) AS task
