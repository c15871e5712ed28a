DROP INDEX IF EXISTS maintenance_audit_log_run, maintenance_audit_log_slot;
CREATE UNIQUE INDEX maintenance_audit_log_run
  ON maintenance_audit_log (run_id, iceberg_table, window_start, window_end) WHERE run_id IS NOT NULL;
CREATE UNIQUE INDEX maintenance_audit_log_slot
  ON maintenance_audit_log (slot, iceberg_table, window_start, window_end)
  WHERE trigger IN ('schedule', 'catch_up', 'resume');
-- Days that are audited again have many rows for a certificate, and few against one.
CREATE INDEX IF NOT EXISTS maintenance_evidence_revokes ON maintenance_evidence (iceberg_table, day, audited_at)
  WHERE revokes IS NOT NULL;
