CREATE TABLE IF NOT EXISTS maintenance_evidence (
  iceberg_table text NOT NULL,
  day date NOT NULL,
  run_id uuid NOT NULL,
  audited_at timestamptz NOT NULL,
  certifies text,
  revokes text,
  refuted_by text,
  compared text[] NOT NULL DEFAULT '{}',
  proof text,
  ch_row_count bigint,
  iceberg_row_count bigint,
  fingerprint text,
  snapshot_id bigint,
  watermark timestamptz,
  PRIMARY KEY (iceberg_table, day, run_id)
);

COMMENT ON TABLE maintenance_evidence IS
  'icekeeper: audits that certify a UTC day of a table, or speak against it; rows are only ever added';
COMMENT ON COLUMN maintenance_evidence.audited_at IS 'the run_timestamp of the audit';
COMMENT ON COLUMN maintenance_evidence.certifies IS 'counts or keys; NULL in an audit against it';
COMMENT ON COLUMN maintenance_evidence.revokes IS 'missing_rows, changed_rows or bad_files; NULL in an audit for it';
COMMENT ON COLUMN maintenance_evidence.refuted_by IS
  'what an audit must rest on to certify the day after one against it: counts, keys, or the proof rows';
COMMENT ON COLUMN maintenance_evidence.compared IS
  'the columns whose values were compared by keys; * where each row was, and not only distinct keys';
COMMENT ON COLUMN maintenance_evidence.ch_row_count IS
  'of an audit against it only where it counted the very day, and the source merges no rows';
COMMENT ON COLUMN maintenance_evidence.fingerprint IS 'of the keys on both sides, where they certify: sums of hashes in hexadecimal';
