ALTER TABLE maintenance_runs
  ADD COLUMN host text,
  ADD COLUMN in_flight_stage text,
  ADD COLUMN in_flight_table text;

COMMENT ON COLUMN maintenance_runs.host IS 'where it ran; NULL if only the end of the run was recorded, and before 0003';
COMMENT ON COLUMN maintenance_runs.in_flight_stage IS 'with replicas: the stage of the task that was begun last';
COMMENT ON COLUMN maintenance_runs.in_flight_table IS 'the table of that task; if it has no row in maintenance_tasks, it never ended';

CREATE TABLE maintenance_config_loads (
  load_id uuid PRIMARY KEY,
  loaded_at timestamptz NOT NULL,
  host text NOT NULL,
  loaded_by text NOT NULL,
  settings_hash text NOT NULL,
  changes text[] NOT NULL,
  problems text[] NOT NULL
);
CREATE INDEX maintenance_config_loads_loaded_at ON maintenance_config_loads (loaded_at DESC);

COMMENT ON TABLE maintenance_config_loads IS 'icekeeper: one row per reading of the configuration; rows are only ever added';
COMMENT ON COLUMN maintenance_config_loads.load_id IS 'made by icekeeper, so that a load that is stored twice is one row';
COMMENT ON COLUMN maintenance_config_loads.loaded_at IS 'when it was read';
COMMENT ON COLUMN maintenance_config_loads.host IS 'where it was read';
COMMENT ON COLUMN maintenance_config_loads.loaded_by IS 'boot, sighup or http';
COMMENT ON COLUMN maintenance_config_loads.settings_hash IS 'of the settings in force from then on; runs name the same';
COMMENT ON COLUMN maintenance_config_loads.changes IS 'what it changed, one setting each, without secrets';
COMMENT ON COLUMN maintenance_config_loads.problems IS 'why it was refused; empty if it took effect';
