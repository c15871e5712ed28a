-- The newest certificate of each of the tables $1 and of each of the days from $2 to before $3, revoked or not, of the
-- installation $4.
SELECT DISTINCT ON (iceberg_table, day) *
FROM maintenance_certificates
WHERE iceberg_table = ANY($1::text[]) AND day >= $2 AND day < $3 AND installation_id = $4
ORDER BY iceberg_table, day, revoked_at DESC NULLS FIRST
