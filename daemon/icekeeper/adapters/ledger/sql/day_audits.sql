-- Of each of the tables $1 and of each UTC day from $2 to before $3: its newest audit that counted or found bad files,
-- else its newest, without those of runs that answer for the slot $4 (NULL: with all). All of the
-- installation $5. The session's zone is UTC.
SELECT DISTINCT ON (iceberg_table, window_start)
{audit_columns}
FROM maintenance_audit_log
WHERE iceberg_table = ANY($1::text[]) AND installation_id = $5 AND window_start::timestamptz >= $2
  AND window_start::timestamptz < $3
  AND ($4::timestamptz IS NULL OR slot IS DISTINCT FROM $4)
  AND {whole_day}
ORDER BY iceberg_table, window_start, {judging_first}
