-- How many rows of `audit`'s window are missing; with a key also duplicate and changed ones.
greatest(-audit.delta::bigint, 0,
  (SELECT sum((finding->>'rows')::bigint)::bigint FROM jsonb_array_elements(audit.findings) AS finding
   WHERE finding->>'kind' = 'missing'),
  coalesce((audit.key_comparison->>'missing')::bigint, 0)
  + coalesce((audit.key_comparison->>'duplicate')::bigint, 0)
  + coalesce((audit.key_comparison->>'changed')::bigint, 0))
