-- The audits of a day, first the one that it is judged by: the newest that counted or found bad files, else the newest.
status::text = 'error' AND bad_file_rows IS NULL, {newer} DESC, run_timestamp DESC, run_id
