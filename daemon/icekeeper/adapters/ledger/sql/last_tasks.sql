-- How each stage ended last in each night (the UTC day of a slot) on each of the tables $1 of the installation $3, as far back as $2 before a
-- table's newest task; operators' tasks beside those of the nights. What was stopped in the middle is done again, and
-- says nothing.
SELECT task.run_id, task.stage, name AS "table", task.outcome, task.reason, task.started_at, task.slot, task.manual,
       task.not_held
FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
  SELECT started_at - $2::interval AS since
  FROM maintenance_tasks AS task
  WHERE iceberg_table = name AND reason IS DISTINCT FROM 'cancelled' AND {of_installation} $3
  ORDER BY started_at DESC
  LIMIT 1
) AS kept
CROSS JOIN LATERAL (
  SELECT DISTINCT ON (stage, date_trunc('day', slot), manual) *
  FROM (
    SELECT one.run_id, one.stage, one.outcome, one.reason, one.started_at, run.slot, run.trigger = 'manual' AS manual,
           -- When the last task of the stage began that ends a hold: see holds in core/run_history.py.
           max(one.started_at) FILTER (WHERE one.outcome IN ('done', 'skipped') OR one.reason = 'observing')
             OVER (PARTITION BY one.stage) AS not_held
    FROM maintenance_tasks AS one
    -- OFFSET keeps it from becoming a join that for a few hundred tasks might read all runs.
    CROSS JOIN LATERAL (
      SELECT slot, trigger FROM maintenance_runs WHERE run_id = one.run_id AND installation_id = $3 OFFSET 0
    ) AS run
    WHERE one.iceberg_table = name AND one.started_at > kept.since AND one.reason IS DISTINCT FROM 'cancelled'
  ) AS one
  ORDER BY stage, date_trunc('day', slot), manual, started_at DESC
) AS task
