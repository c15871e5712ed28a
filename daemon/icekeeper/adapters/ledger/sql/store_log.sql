INSERT INTO maintenance_logs (run_id, line_no, line)
VALUES ($1, $2, $3::jsonb)
ON CONFLICT (run_id, line_no) DO NOTHING
