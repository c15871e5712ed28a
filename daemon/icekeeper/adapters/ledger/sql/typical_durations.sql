-- The median duration (s) of the tasks since $2 that had something to do, by stage and table, of the tables $1 of the
-- installation $3.
SELECT stage, iceberg_table AS "table",
       percentile_cont(0.5) WITHIN GROUP (ORDER BY duration_s) AS duration_s
FROM maintenance_tasks AS task
WHERE iceberg_table = ANY($1::text[]) AND started_at >= $2 AND outcome = 'done'
  AND {of_installation} $3
GROUP BY stage, iceberg_table
