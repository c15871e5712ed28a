-- Whether `run` answers for a night; the same rule as in core/run_history.py. An operator's run does if it was not
-- stopped, did all stages ($1) on all enabled tables ($2), and audited the UTC day of its slot (perhaps older ones, too).
-- The casts serve adopted tables: see store_audit.sql. The session's zone is UTC.
(run.trigger <> 'manual' OR (
  run.outcome NOT IN ('cancelled', 'interrupted')
  AND run.stages @> $1::text[] AND run.tables @> $2::text[]
  AND NOT EXISTS (
    SELECT FROM maintenance_audit_log AS audit
    WHERE audit.run_id = run.run_id AND audit.worse IS NULL
      AND (audit.window_start::timestamptz <> date_trunc('day', run.slot) - interval '1 day'
           OR audit.window_end::timestamptz <> date_trunc('day', run.slot))
  )
))
