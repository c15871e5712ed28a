CREATE TABLE IF NOT EXISTS maintenance_repairs (
  finding_id text PRIMARY KEY,
  iceberg_table text NOT NULL,
  window_start timestamptz NOT NULL,
  window_end timestamptz NOT NULL,
  way text NOT NULL,
  state text NOT NULL,
  run_id uuid,
  claimed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz,
  rows bigint,
  snapshot_id bigint
);
CREATE INDEX IF NOT EXISTS maintenance_repairs_iceberg_table ON maintenance_repairs (iceberg_table, window_start);

COMMENT ON TABLE maintenance_repairs IS 'icekeeper: findings of missing rows that are being repaired, or were; a row is the claim to do it';
COMMENT ON COLUMN maintenance_repairs.finding_id IS 'as in the column findings of maintenance_audit_log';
COMMENT ON COLUMN maintenance_repairs.window_start IS 'of the finding, not of the audit';
COMMENT ON COLUMN maintenance_repairs.window_end IS 'exclusive';
COMMENT ON COLUMN maintenance_repairs.way IS 'who brings the rows back: icekeeper or offload';
COMMENT ON COLUMN maintenance_repairs.state IS 'claimed, repaired, or released (nothing was added, and anyone may claim it)';
COMMENT ON COLUMN maintenance_repairs.run_id IS 'the run that claimed it last; NULL for the offload';
COMMENT ON COLUMN maintenance_repairs.rows IS 'how many rows were added';
COMMENT ON COLUMN maintenance_repairs.snapshot_id IS 'the snapshot that added them; NULL if none had to be, or the offload did';
