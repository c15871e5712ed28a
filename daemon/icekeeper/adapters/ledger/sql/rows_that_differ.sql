-- How many rows of `audit`'s window are missing; with a key also those that are doubled or changed.
greatest(-audit.delta::bigint, 0,
  coalesce((audit.key_comparison->>'missing')::bigint, 0)
  + coalesce((audit.key_comparison->>'doubled')::bigint, 0)
  + coalesce((audit.key_comparison->>'changed')::bigint, 0))
