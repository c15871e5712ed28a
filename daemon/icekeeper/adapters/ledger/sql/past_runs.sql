-- The runs of the installation $2 of slots from $1 on, oldest first. A task in flight is one that was begun and has no row.
SELECT run_id, slot, trigger, started_at, outcome, coalesce(host, '') AS host, settings_hash,
       coalesce(stages, '{}') AS stages, coalesce(tables, '{}') AS tables,
       CASE WHEN NOT ended.it THEN in_flight_stage END AS in_flight_stage,
       CASE WHEN NOT ended.it THEN in_flight_table END AS in_flight_table
FROM maintenance_runs AS run
CROSS JOIN LATERAL (
  SELECT EXISTS (
    SELECT FROM maintenance_tasks AS task
    WHERE task.run_id = run.run_id AND task.stage = in_flight_stage AND task.iceberg_table = in_flight_table
  ) AS it
) AS ended
WHERE installation_id = $2 AND trigger <> 'manual' AND slot >= $1
ORDER BY started_at, run_id
