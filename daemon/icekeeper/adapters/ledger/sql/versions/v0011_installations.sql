CREATE TABLE IF NOT EXISTS maintenance_installations (
  installation_id uuid PRIMARY KEY,
  name text NOT NULL UNIQUE,
  catalog text NOT NULL,
  tables text[] NOT NULL,
  made_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

COMMENT ON TABLE maintenance_installations IS
  'icekeeper: who keeps rows in this ledger: a daemon with its commands, or several that share a lease';
COMMENT ON COLUMN maintenance_installations.installation_id IS 'as in the other tables; a task and a log line are of their run''s';
COMMENT ON COLUMN maintenance_installations.name IS 'may change: icekeeper ledger rename';
COMMENT ON COLUMN maintenance_installations.catalog IS 'a hash of where its catalog is';
COMMENT ON COLUMN maintenance_installations.tables IS 'the enabled tables of its configuration when it last began';

-- NULL in rows of before: the first installation whose tables match takes them. The audit log's column: ../adoption.py.
ALTER TABLE maintenance_runs ADD COLUMN IF NOT EXISTS actor text, ADD COLUMN IF NOT EXISTS installation_id uuid;
ALTER TABLE maintenance_acks ADD COLUMN IF NOT EXISTS installation_id uuid;
ALTER TABLE maintenance_evidence ADD COLUMN IF NOT EXISTS installation_id uuid;
ALTER TABLE maintenance_repairs ADD COLUMN IF NOT EXISTS installation_id uuid;
ALTER TABLE maintenance_config_loads ADD COLUMN IF NOT EXISTS actor text, ADD COLUMN IF NOT EXISTS installation_id uuid;

COMMENT ON COLUMN maintenance_runs.actor IS 'who ordered it, of a manual run; NULL where that is not known';
COMMENT ON COLUMN maintenance_runs.installation_id IS 'whose run it is: maintenance_installations';
COMMENT ON COLUMN maintenance_acks.installation_id IS 'whose finding was closed: maintenance_installations';
COMMENT ON COLUMN maintenance_evidence.installation_id IS 'whose audit it was: maintenance_installations';
COMMENT ON COLUMN maintenance_repairs.installation_id IS 'whose finding it is: maintenance_installations';
COMMENT ON COLUMN maintenance_config_loads.actor IS 'who ordered it; NULL where that is not known';
COMMENT ON COLUMN maintenance_config_loads.installation_id IS 'whose configuration was read: maintenance_installations';

DROP INDEX IF EXISTS maintenance_runs_slot, maintenance_runs_installation, maintenance_runs_unclaimed, maintenance_audit_log_slot;
CREATE INDEX maintenance_runs_slot ON maintenance_runs (installation_id, slot);
CREATE INDEX maintenance_runs_installation ON maintenance_runs (installation_id, started_at DESC);
CREATE INDEX maintenance_runs_unclaimed ON maintenance_runs (run_id) WHERE installation_id IS NULL;
CREATE UNIQUE INDEX maintenance_audit_log_slot
  ON maintenance_audit_log (installation_id, slot, iceberg_table, window_start, window_end)
  WHERE trigger IN ('schedule', 'catch_up', 'resume');
