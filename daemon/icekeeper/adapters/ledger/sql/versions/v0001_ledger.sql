CREATE TABLE maintenance_runs (
  run_id uuid PRIMARY KEY,
  slot timestamptz NOT NULL,
  trigger text NOT NULL,
  outcome text,
  started_at timestamptz NOT NULL,
  finished_at timestamptz,
  duration_s double precision,
  settings_hash text NOT NULL,
  stages text[],
  tables text[],
  CONSTRAINT maintenance_runs_ended_with_an_outcome CHECK ((outcome IS NULL) = (finished_at IS NULL))
);
CREATE INDEX maintenance_runs_started_at ON maintenance_runs (started_at DESC);
CREATE INDEX maintenance_runs_slot ON maintenance_runs (slot);

COMMENT ON TABLE maintenance_runs IS 'icekeeper: one row per attempt to do the work of a slot';
COMMENT ON COLUMN maintenance_runs.slot IS 'the scheduled instant the run answers for; all windows derive from it';
COMMENT ON COLUMN maintenance_runs.trigger IS 'schedule, catch_up, resume or manual';
COMMENT ON COLUMN maintenance_runs.outcome IS 'success, partial, failed, interrupted, cancelled or missed; NULL while under way';
COMMENT ON COLUMN maintenance_runs.duration_s IS 'seconds';
COMMENT ON COLUMN maintenance_runs.settings_hash IS 'of the settings that were frozen for this run';
COMMENT ON COLUMN maintenance_runs.stages IS 'the stages that were asked for; NULL if only the end of the run was recorded';
COMMENT ON COLUMN maintenance_runs.tables IS 'the Iceberg tables that were asked for; NULL like stages';

CREATE TABLE maintenance_tasks (
  run_id uuid NOT NULL REFERENCES maintenance_runs ON DELETE CASCADE,
  stage text NOT NULL,
  iceberg_table text NOT NULL,
  position integer NOT NULL,
  outcome text NOT NULL,
  reason text,
  note text NOT NULL,
  attempts integer NOT NULL,
  started_at timestamptz NOT NULL,
  duration_s double precision NOT NULL,
  before jsonb,
  after jsonb,
  error text,
  PRIMARY KEY (run_id, stage, iceberg_table)
);

COMMENT ON TABLE maintenance_tasks IS 'icekeeper: one stage on one table within a run';
COMMENT ON COLUMN maintenance_tasks.stage IS 'compact, expire or audit';
COMMENT ON COLUMN maintenance_tasks.position IS 'its place in the run, from 1';
COMMENT ON COLUMN maintenance_tasks.outcome IS 'done, skipped (nothing to do), held (not now) or failed';
COMMENT ON COLUMN maintenance_tasks.reason IS 'why it was skipped, held or failed; the documentation has a sentence for each';
COMMENT ON COLUMN maintenance_tasks.duration_s IS 'seconds, all attempts together';
COMMENT ON COLUMN maintenance_tasks.before IS 'data_files, small_files, bytes, records, delete_files, manifests, snapshots, snapshot_id';
COMMENT ON COLUMN maintenance_tasks.after IS 'like before, when the task had ended';

CREATE TABLE maintenance_logs (
  run_id uuid NOT NULL REFERENCES maintenance_runs ON DELETE CASCADE,
  line_no integer NOT NULL,
  line jsonb NOT NULL,
  PRIMARY KEY (run_id, line_no)
);

COMMENT ON TABLE maintenance_logs IS 'icekeeper: the log lines of a run, copied at its end';
COMMENT ON COLUMN maintenance_logs.line_no IS 'from 1, in the order of the log';
COMMENT ON COLUMN maintenance_logs.line IS 'timestamp, level, event and what belongs to the event';
