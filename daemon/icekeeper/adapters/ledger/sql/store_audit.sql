-- {arbiter} is the unique index by which the row may exist already: per window and slot or run, see store.py.
-- The casts serve adopted tables, whose columns may be timestamps without a zone (the session's zone is UTC) or numeric.
-- status has none: it takes the column's own type, which may be an enum.
-- Of two counts of a window in a slot the later one stays, in whichever order they arrive; an error never takes the place of a count.
INSERT INTO maintenance_audit_log AS audit
  (run_id, slot, trigger, run_timestamp, iceberg_table, ch_source, layer,
   audit_window_hours, window_start, window_end,
   ch_row_count, iceberg_row_count, delta, delta_pct, status, reason, notes,
   snapshot_id, ch_query, iceberg_query, ch_final, watermark, missing_hours, proof, bad_files, bad_file_rows,
   key_comparison, findings, ch_merges, source_ttl_s, watermark_read, clock_right, files_digest, worse, began_at,
   installation_id)
VALUES
  ($1, $2, $3, $4::timestamptz, $5::text, $6::text, $7::text,
   $8::bigint, $9::timestamptz, $10::timestamptz,
   $11::bigint, $12::bigint, $13::bigint, $14::numeric, $15, $16, $17::text,
   $18, $19, $20, $21, $22, $23::jsonb, $24, $25::jsonb, $26, $27::jsonb, $28::jsonb,
   $29, $30, $31, $32, $33, $34, $35, $36)
ON CONFLICT {arbiter} DO UPDATE SET
  run_id = excluded.run_id,
  trigger = excluded.trigger,
  run_timestamp = excluded.run_timestamp,
  ch_source = excluded.ch_source,
  layer = excluded.layer,
  audit_window_hours = excluded.audit_window_hours,
  ch_row_count = excluded.ch_row_count,
  iceberg_row_count = excluded.iceberg_row_count,
  delta = excluded.delta,
  delta_pct = excluded.delta_pct,
  status = excluded.status,
  reason = excluded.reason,
  notes = excluded.notes,
  snapshot_id = excluded.snapshot_id,
  ch_query = excluded.ch_query,
  iceberg_query = excluded.iceberg_query,
  ch_final = excluded.ch_final,
  watermark = excluded.watermark,
  missing_hours = excluded.missing_hours,
  proof = excluded.proof,
  bad_files = excluded.bad_files,
  bad_file_rows = excluded.bad_file_rows,
  key_comparison = excluded.key_comparison,
  findings = excluded.findings,
  ch_merges = excluded.ch_merges,
  source_ttl_s = excluded.source_ttl_s,
  watermark_read = excluded.watermark_read,
  clock_right = excluded.clock_right,
  files_digest = excluded.files_digest,
  worse = excluded.worse,
  began_at = excluded.began_at
WHERE CASE
  WHEN (audit.status::text = 'error') = (excluded.status::text = 'error')
    -- Of two that overlap in time one that found nothing does not take the place of damage: see newer.sql.
    THEN CASE WHEN excluded.status::text = 'ok' AND audit.status::text <> 'ok'
              THEN audit.run_timestamp <= coalesce(excluded.began_at, excluded.run_timestamp)
              WHEN audit.status::text = 'ok' AND excluded.status::text <> 'ok'
              THEN coalesce(audit.began_at, audit.run_timestamp) <= excluded.run_timestamp
              ELSE audit.run_timestamp <= excluded.run_timestamp END
      -- What is known of bad files outlives an audit that could not look.
      AND (excluded.status::text <> 'error' OR excluded.bad_file_rows IS NOT NULL OR audit.bad_file_rows IS NULL)
  ELSE audit.status::text = 'error'
END
