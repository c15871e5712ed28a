-- The installation $1 takes the rows of before of its runs in the table {table}; where the run is gone, or there was none
-- (repairs that the offload is asked for), those of the tables $2. An audit without a run is another job's.
UPDATE maintenance_{table} AS mine SET installation_id = $1
WHERE installation_id IS NULL AND (run_id IS NOT NULL OR '{table}' = 'repairs') AND (
  run_id IN (SELECT run_id FROM maintenance_runs WHERE installation_id = $1)
  OR iceberg_table::text = ANY($2::text[])
    AND NOT EXISTS (SELECT FROM maintenance_runs AS run WHERE run.run_id = mine.run_id)
)
