-- How each stage ended last in each night (the UTC day of a slot) on each of the tables $1, as far back as $2 before a
-- table's newest task. What was stopped in the middle is done again, and says nothing.
SELECT task.run_id, task.stage, name AS "table", task.outcome, task.reason, task.started_at, task.slot
FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
  SELECT max(started_at) - $2::interval AS since
  FROM maintenance_tasks
  WHERE iceberg_table = name AND reason IS DISTINCT FROM 'cancelled'
) AS kept
CROSS JOIN LATERAL (
  SELECT DISTINCT ON (stage, date_trunc('day', slot)) *
  FROM (
    SELECT run_id, stage, outcome, reason, started_at,
           -- Not a join: for a few hundred of them it might read all runs.
           (SELECT slot FROM maintenance_runs AS run WHERE run.run_id = one.run_id) AS slot
    FROM maintenance_tasks AS one
    WHERE iceberg_table = name AND started_at > kept.since AND reason IS DISTINCT FROM 'cancelled'
    OFFSET 0 -- else each slot is looked up twice
  ) AS one
  ORDER BY stage, date_trunc('day', slot), started_at DESC
) AS task
