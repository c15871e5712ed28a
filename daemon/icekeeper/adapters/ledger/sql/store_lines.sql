-- Log lines of the run $1, numbered from $2 on; lines that are stored already stay.
INSERT INTO maintenance_logs (run_id, line_no, line)
SELECT $1, $2::integer - 1 + number, line
FROM unnest($3::jsonb[]) WITH ORDINALITY AS given (line, number)
ON CONFLICT (run_id, line_no) DO NOTHING
