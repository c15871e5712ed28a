-- When the last task of each stage began that ends a hold (core/run_history.py: holds), on each of the tables $1, as far
-- back as $2 before a table's newest task.
SELECT task.stage, name AS "table", task.at
FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
  SELECT max(started_at) - $2::interval AS since
  FROM maintenance_tasks
  WHERE iceberg_table = name AND reason IS DISTINCT FROM 'cancelled'
) AS kept
CROSS JOIN LATERAL (
  SELECT stage, max(started_at) AS at
  FROM maintenance_tasks
  WHERE iceberg_table = name AND started_at > kept.since AND reason IS DISTINCT FROM 'cancelled'
    AND (outcome IN ('done', 'skipped') OR reason = 'observing')
  GROUP BY stage
) AS task
