-- What is the newer of two audits is the one with the later of these. Two that overlap in time have no order, for each may have
-- seen what the other one has not: what found rows missing counts from the audit's end, though it be ok, and what found none
-- from its beginning.
CASE WHEN status::text = 'ok' AND coalesce(delta, 0) >= 0 AND findings IS NULL
     THEN coalesce(began_at, run_timestamp::timestamptz) ELSE run_timestamp::timestamptz END
