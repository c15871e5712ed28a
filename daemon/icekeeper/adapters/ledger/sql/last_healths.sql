-- The health of each of the tables $1 after the last task that recorded one.
SELECT name AS "table", task.started_at, task.after
FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
  SELECT started_at, after
  FROM maintenance_tasks
  WHERE iceberg_table = name AND after IS NOT NULL
  ORDER BY started_at DESC
  LIMIT 1
) AS task
