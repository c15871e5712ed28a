-- An audit says the same whenever it is stored: maintenance_certificates says what follows from all of them.
INSERT INTO maintenance_evidence
  (iceberg_table, day, run_id, audited_at, certifies, revokes, refuted_by, compared, proof, ch_row_count, iceberg_row_count,
   fingerprint, snapshot_id, watermark, began_at, installation_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
ON CONFLICT DO NOTHING
