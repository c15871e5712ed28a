-- A page of at most $6 runs with counts of their results (without older days that are no worse), newest first, after the run ($1, $2); NULL: from the newest on.
-- $7: the installation; NULL for all.
-- $3 outcome, $4 trigger, $5 table: NULL for any. A run under way has no outcome: its filter is 'running'.
SELECT run.run_id, slot, trigger, outcome, started_at, finished_at, duration_s, settings_hash,
       coalesce(stages, '{}') AS stages, coalesce(tables, '{}') AS tables, host, actor,
       (SELECT name FROM maintenance_installations AS one WHERE one.installation_id = run.installation_id) AS installation,
       task.done AS tasks_done, task.skipped AS tasks_skipped, task.held AS tasks_held, task.failed AS tasks_failed,
       audit.ok AS audits_ok, audit.warning AS audits_warning, audit.missing_data AS audits_missing_data,
       audit.error AS audits_error
FROM (
  SELECT * FROM maintenance_runs
  WHERE ($7::uuid IS NULL OR installation_id = $7)
    AND ($1::timestamptz IS NULL OR (started_at, run_id) < ($1, $2::uuid))
    AND ($3::text IS NULL OR coalesce(outcome, 'running') = $3)
    AND ($4::text IS NULL OR trigger = $4)
    AND ($5::text IS NULL OR $5 = ANY(tables))
  ORDER BY started_at DESC, run_id DESC
  LIMIT $6
) AS run
CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE task.outcome = 'done') AS done,
         count(*) FILTER (WHERE task.outcome = 'skipped') AS skipped,
         count(*) FILTER (WHERE task.outcome = 'held') AS held,
         count(*) FILTER (WHERE task.outcome = 'failed') AS failed
  FROM maintenance_tasks AS task WHERE task.run_id = run.run_id
) AS task
CROSS JOIN LATERAL (
  SELECT count(*) FILTER (WHERE log.status::text = 'ok') AS ok,
         count(*) FILTER (WHERE log.status::text = 'warning') AS warning,
         count(*) FILTER (WHERE log.status::text = 'missing_data') AS missing_data,
         count(*) FILTER (WHERE log.status::text = 'error') AS error
  FROM maintenance_audit_log AS log WHERE log.run_id = run.run_id AND log.worse IS NOT false
) AS audit
ORDER BY started_at DESC, run_id DESC
