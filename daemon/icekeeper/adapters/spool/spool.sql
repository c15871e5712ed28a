-- Instants are ISO 8601 in UTC to a microsecond, so that they sort as text. The checks are asked again when the file is
-- opened (PRAGMA quick_check): a damaged page whose structure happens to hold is found by them.

CREATE TABLE runs (
  run_id TEXT NOT NULL PRIMARY KEY
    CHECK (run_id NOT GLOB '*[^0-9a-f-]*' AND length(run_id) = 36 AND length(replace(run_id, '-', '')) = 32),
  slot TEXT NOT NULL CHECK (length(slot) = 32 AND julianday(slot) IS NOT NULL),
  trigger TEXT NOT NULL CHECK (trigger IN ('schedule', 'catch_up', 'resume', 'manual')),
  started_at TEXT NOT NULL CHECK (length(started_at) = 32 AND julianday(started_at) IS NOT NULL),
  opening TEXT CHECK (opening IS NULL OR json_valid(opening)),  -- NULL if only the run's end was told
  in_flight_stage TEXT,
  in_flight_table TEXT,
  ended_at TEXT CHECK (ended_at IS NULL OR length(ended_at) = 32 AND julianday(ended_at) IS NOT NULL),
  outcome TEXT CHECK (outcome IN ('success', 'partial', 'failed', 'interrupted', 'cancelled', 'missed')),
  report TEXT CHECK (report IS NULL OR json_valid(report)),     -- NULL like outcome while it is open
  CHECK ((outcome IS NULL) = (report IS NULL) AND (outcome IS NULL) = (ended_at IS NULL)),
  CHECK ((in_flight_stage IS NULL) = (in_flight_table IS NULL))
);
CREATE INDEX runs_slot ON runs (slot);

-- The tasks of open runs; those of a closed one are in its report.
CREATE TABLE tasks (
  run_id TEXT NOT NULL
    CHECK (run_id NOT GLOB '*[^0-9a-f-]*' AND length(run_id) = 36 AND length(replace(run_id, '-', '')) = 32),
  stage TEXT NOT NULL,
  iceberg_table TEXT NOT NULL,
  result TEXT NOT NULL CHECK (json_valid(result)),
  audit TEXT CHECK (audit IS NULL OR json_valid(audit)),
  UNIQUE (run_id, stage, iceberg_table)
);

CREATE TABLE slots (
  slot TEXT NOT NULL PRIMARY KEY CHECK (length(slot) = 32 AND julianday(slot) IS NOT NULL),
  trigger TEXT NOT NULL CHECK (trigger IN ('schedule', 'catch_up', 'resume')),
  outcome TEXT CHECK (outcome IN ('success', 'partial', 'failed', 'cancelled', 'missed'))  -- NULL: open
);

-- At most one row: up to when a living daemon put the slots that came due.
CREATE TABLE accounted (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  until TEXT NOT NULL CHECK (length(until) = 32 AND julianday(until) IS NOT NULL)
);

CREATE TABLE config_loads (
  load_id TEXT NOT NULL PRIMARY KEY
    CHECK (load_id NOT GLOB '*[^0-9a-f-]*' AND length(load_id) = 36 AND length(replace(load_id, '-', '')) = 32),
  load TEXT NOT NULL CHECK (json_valid(load))
);

-- What PostgreSQL is to hold: a run (as it is open, or as it was closed) or a configuration load. A row waits while
-- what it is about has changed since it was last shipped.
CREATE TABLE outbox (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL CHECK (kind IN ('run', 'config_load')),
  id TEXT NOT NULL CHECK (id NOT GLOB '*[^0-9a-f-]*' AND length(id) = 36 AND length(replace(id, '-', '')) = 32),
  changed_at TEXT NOT NULL CHECK (length(changed_at) = 32 AND julianday(changed_at) IS NOT NULL),
  revision INTEGER NOT NULL DEFAULT 1,
  shipped INTEGER NOT NULL DEFAULT 0,                   -- the revision that PostgreSQL holds
  refused_at TEXT CHECK (refused_at IS NULL OR length(refused_at) = 32 AND julianday(refused_at) IS NOT NULL),
  error TEXT,                                           -- what PostgreSQL said; then the record is set aside
  UNIQUE (kind, id),
  CHECK ((refused_at IS NULL) = (error IS NULL))
);
CREATE INDEX outbox_waiting ON outbox (number) WHERE revision > shipped;
