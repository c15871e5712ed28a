-- What came after the first spool: made when the file is opened, if it is not there.

-- The runs whose end was processed: notified of, or not worth it. Each run once, whatever happens in between.
CREATE TABLE IF NOT EXISTS told (
  run_id TEXT NOT NULL PRIMARY KEY
    CHECK (run_id NOT GLOB '*[^0-9a-f-]*' AND length(run_id) = 36 AND length(replace(run_id, '-', '')) = 32)
);

-- A message for one receiver. `receiver` is the file that holds its URL, or its place in the settings: never the URL.
CREATE TABLE IF NOT EXISTS notices (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  run_id TEXT NOT NULL
    CHECK (run_id NOT GLOB '*[^0-9a-f-]*' AND length(run_id) = 36 AND length(replace(run_id, '-', '')) = 32),
  receiver TEXT NOT NULL,
  notice TEXT NOT NULL CHECK (json_valid(notice)),
  queued_at TEXT NOT NULL CHECK (length(queued_at) = 32 AND julianday(queued_at) IS NOT NULL),
  due_at TEXT NOT NULL CHECK (length(due_at) = 32 AND julianday(due_at) IS NOT NULL),
  attempts INTEGER NOT NULL DEFAULT 0,
  result TEXT CHECK (result IN ('delivered', 'failed')),  -- NULL: it waits
  UNIQUE (run_id, receiver)
);

-- The runs that PostgreSQL has and whose log lines are still to be stored there; `attempts` so far have failed.
CREATE TABLE IF NOT EXISTS unshipped_logs (
  run_id TEXT NOT NULL PRIMARY KEY
    CHECK (run_id NOT GLOB '*[^0-9a-f-]*' AND length(run_id) = 36 AND length(replace(run_id, '-', '')) = 32),
  attempts INTEGER NOT NULL DEFAULT 0
);

-- The audits of older days that an open run has made; those of a closed one are in its report.
CREATE TABLE IF NOT EXISTS older_days (
  run_id TEXT NOT NULL
    CHECK (run_id NOT GLOB '*[^0-9a-f-]*' AND length(run_id) = 36 AND length(replace(run_id, '-', '')) = 32),
  iceberg_table TEXT NOT NULL,
  window_start TEXT NOT NULL CHECK (length(window_start) = 32 AND julianday(window_start) IS NOT NULL),
  audit TEXT NOT NULL CHECK (json_valid(audit)),
  UNIQUE (run_id, iceberg_table, window_start)
);
