ALTER TABLE maintenance_runs ADD COLUMN IF NOT EXISTS older_days jsonb;
ALTER TABLE maintenance_evidence ADD COLUMN IF NOT EXISTS began_at timestamptz;

COMMENT ON COLUMN maintenance_runs.older_days IS
  'how many older days were audited again, left alone and not audited, and why; NULL where none was to be';
COMMENT ON COLUMN maintenance_evidence.began_at IS
  'when the audit began to count; NULL of an icekeeper of before: audited_at is taken for it';

-- An audit certifies its day, among those of its installation,
-- * from then on until the next one against it, whenever the two were stored;
-- * unless one against it overlaps it in time: either may have seen what the other one has not;
-- * unless an earlier one found what it can't see (refuted_by): not before one that can see it certifies.
-- Audits that certify without one against it in between are one certificate, that of the first of the strongest.
CREATE OR REPLACE VIEW maintenance_certificates AS
WITH certifying AS (
  SELECT good.*, revoked.audited_at AS revoked_at, revoked.run_id AS revoked_by, revoked.revokes AS revoked_reason
  FROM maintenance_evidence AS good
  LEFT JOIN LATERAL (
    SELECT audited_at, run_id, revokes FROM maintenance_evidence AS bad
    WHERE bad.iceberg_table = good.iceberg_table AND bad.day = good.day
      AND bad.installation_id IS NOT DISTINCT FROM good.installation_id
      AND bad.revokes IS NOT NULL AND bad.audited_at >= good.audited_at
    ORDER BY audited_at, run_id LIMIT 1
  ) AS revoked ON true
  WHERE good.certifies IS NOT NULL AND NOT EXISTS (
    SELECT FROM maintenance_evidence AS bad
    WHERE bad.iceberg_table = good.iceberg_table AND bad.day = good.day
      AND bad.installation_id IS NOT DISTINCT FROM good.installation_id
      AND bad.revokes IS NOT NULL AND bad.audited_at < good.audited_at
      AND NOT EXISTS (
        SELECT FROM maintenance_evidence AS strong
        WHERE strong.iceberg_table = good.iceberg_table AND strong.day = good.day
          AND strong.installation_id IS NOT DISTINCT FROM good.installation_id
          AND strong.certifies IS NOT NULL AND strong.audited_at <= good.audited_at
          AND coalesce(strong.began_at, strong.audited_at) > bad.audited_at
          -- From fewer rows, or by fewer columns, nothing can be refuted.
          AND (bad.ch_row_count IS NULL OR strong.ch_row_count >= bad.ch_row_count)
          AND CASE bad.refuted_by
            WHEN 'counts' THEN true
            WHEN 'keys' THEN strong.certifies = 'keys' AND strong.compared @> bad.compared
            ELSE strong.proof = 'rows' END
      )
  )
)
SELECT DISTINCT ON (iceberg_table, day, installation_id, revoked_at)
       iceberg_table, day, certifies AS certified_by, proof,
       min(audited_at) OVER (PARTITION BY iceberg_table, day, installation_id, revoked_at) AS certified_at,
       run_id, audited_at, ch_row_count, iceberg_row_count, fingerprint, snapshot_id, watermark,
       revoked_at, revoked_by, revoked_reason,
       installation_id, installation.name AS installation
FROM certifying
LEFT JOIN maintenance_installations AS installation USING (installation_id)
ORDER BY iceberg_table, day, installation_id, revoked_at, certifies = 'keys' DESC, audited_at, run_id;
COMMENT ON VIEW maintenance_certificates IS
  'UTC days of tables that are certified; revoked_at: no longer. At most one row an installation, table and day is not revoked';
COMMENT ON COLUMN maintenance_certificates.certified_by IS 'counts or keys';
COMMENT ON COLUMN maintenance_certificates.certified_at IS 'since when; the other columns are of the first of its strongest audits';
