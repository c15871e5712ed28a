-- The newest slot from $1 on that was answered, by the last run of it that no operator ordered: one that is under way
-- does not answer yet, nor does what it goes on from.
SELECT run.run_id, run.slot, run.trigger, run.outcome, run.started_at, run.finished_at, run.duration_s,
       run.settings_hash, coalesce(run.stages, '{}') AS stages, coalesce(run.tables, '{}') AS tables, run.host
FROM maintenance_runs AS run
WHERE run.slot >= $1 AND run.trigger <> 'manual' AND run.outcome IS NOT NULL
  AND NOT EXISTS (
    SELECT FROM maintenance_runs AS later
    WHERE later.slot = run.slot AND later.trigger <> 'manual'
      AND (later.started_at > run.started_at OR later.started_at = run.started_at AND later.run_id < run.run_id)
  )
ORDER BY run.slot DESC
LIMIT 1
