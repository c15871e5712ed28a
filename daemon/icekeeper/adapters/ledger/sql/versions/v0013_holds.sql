CREATE TABLE IF NOT EXISTS maintenance_holds (
  hold_id uuid PRIMARY KEY,
  installation_id uuid NOT NULL,
  iceberg_table text NOT NULL,
  stage text NOT NULL,
  until timestamptz,
  note text NOT NULL,
  held_by text NOT NULL,
  held_host text NOT NULL,
  held_at timestamptz NOT NULL DEFAULT now(),
  released_by text,
  released_host text,
  released_at timestamptz
);
CREATE INDEX IF NOT EXISTS maintenance_holds_in_force ON maintenance_holds (installation_id) WHERE released_at IS NULL;
CREATE INDEX IF NOT EXISTS maintenance_holds_iceberg_table ON maintenance_holds (iceberg_table, held_at DESC);

COMMENT ON TABLE maintenance_holds IS 'icekeeper: stages of tables that somebody put on hold; a release is noted, no row goes';
COMMENT ON COLUMN maintenance_holds.installation_id IS 'whose table it is: maintenance_installations';
COMMENT ON COLUMN maintenance_holds.stage IS 'compact, expire or audit; a whole table has a row for each';
COMMENT ON COLUMN maintenance_holds.until IS 'exclusive: it ends then by itself; NULL: without end';
COMMENT ON COLUMN maintenance_holds.held_by IS 'who, as icekeeper was told';
COMMENT ON COLUMN maintenance_holds.held_host IS 'where icekeeper was told';
COMMENT ON COLUMN maintenance_holds.released_at IS 'NULL: in force, or until its end';
