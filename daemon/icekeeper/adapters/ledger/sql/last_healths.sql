-- The health of each of the tables $1 after the last task of the installation $2 that recorded one.
SELECT name AS "table", task.started_at, task.after
FROM unnest($1::text[]) AS name
CROSS JOIN LATERAL (
  SELECT started_at, after
  FROM maintenance_tasks AS task
  WHERE iceberg_table = name AND after IS NOT NULL AND {of_installation} $2
  ORDER BY started_at DESC
  LIMIT 1
) AS task
