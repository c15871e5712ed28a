-- Log lines of the run $1 behind the line $2: of the levels $3 (NULL: any) that hold the text $4 (NULL: any).
-- Databases differ in what a capital letter is: this compares the 26 of ASCII without case, as LogFilter.takes does.
SELECT line_no, line
FROM maintenance_logs
WHERE run_id = $1 AND line_no > $2
  AND ($3::text[] IS NULL OR line ->> 'level' = ANY($3))
  AND ($4::text IS NULL OR strpos(lower(line::text COLLATE "C"), lower($4 COLLATE "C")) > 0)
ORDER BY line_no
LIMIT $5
