"""What the platform's offload keeps in PostgreSQL: watermarks with a status, and what it is asked to bring again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from icekeeper.sandbox.servers.postgres import Postgres

WATERMARK_DDL = """
CREATE TABLE IF NOT EXISTS offload_watermarks (
    table_name text PRIMARY KEY,
    last_offload_timestamp timestamptz NOT NULL,
    last_offload_max_sequence bigint NOT NULL,
    last_offload_row_count bigint DEFAULT 0,
    status text NOT NULL DEFAULT 'initialized' CHECK (status IN ('initialized', 'running', 'success', 'failed')),
    last_successful_run timestamptz,
    last_run_duration_seconds integer,
    failure_count integer DEFAULT 0,
    last_error_message text,
    created_at timestamptz DEFAULT now(),
    updated_at timestamptz DEFAULT now()
)
"""


class Watermarks:
    """The table `offload_watermarks` of one database. `source` is the name of a ClickHouse table."""

    def __init__(self, postgres: Postgres, database: str) -> None:
        self._postgres = postgres
        self._database = database

    def create(self) -> None:
        """Creates the table, empty."""
        self._postgres.execute(self._database, WATERMARK_DDL)

    def add(self, source: str, created: datetime) -> None:
        """A row of a table that was never offloaded."""
        sql = "INSERT INTO offload_watermarks VALUES ($1, 'epoch', 0, 0, 'initialized', NULL, NULL, 0, NULL, $2, $2)"
        self._postgres.execute(self._database, sql, source, created)

    def at(self, source: str) -> datetime | None:
        """The newest event time that was offloaded, 1970 if there is none; None without a row."""
        sql = "SELECT last_offload_timestamp FROM offload_watermarks WHERE table_name = $1"
        rows = self._postgres.execute(self._database, sql, source)
        found: datetime | None = rows[0][0] if rows else None
        return found

    def running(self, source: str, at: datetime) -> None:
        """A cycle has begun. If it brings no row, this stays until the next cycle."""
        self._update(source, "status = 'running', updated_at = $2", at)

    def succeeded(
        self, source: str, newest: datetime, max_sequence: int | None, rows: int, began: datetime, ended: datetime
    ) -> None:
        """A cycle has brought rows, the newest with the event time `newest`."""
        self._update(
            source,
            "status = 'success', last_offload_timestamp = greatest(last_offload_timestamp, $2), "
            "last_offload_max_sequence = coalesce($3, last_offload_max_sequence), last_offload_row_count = $4, "
            "last_run_duration_seconds = $5, last_successful_run = $6, failure_count = 0, updated_at = $6",
            newest,
            max_sequence,
            rows,
            int((ended - began).total_seconds()),
            ended,
        )

    def failed(self, source: str, error: str, at: datetime) -> None:
        """A cycle has ended with an error."""
        assignments = (
            "status = 'failed', failure_count = failure_count + 1, last_error_message = left($2, 1000), updated_at = $3"
        )
        self._update(source, assignments, error, at)

    def _update(self, source: str, assignments: str, *values: object) -> None:
        sql = f"UPDATE offload_watermarks SET {assignments} WHERE table_name = $1"
        self._postgres.execute(self._database, sql, source, *values)


REQUESTS_DDL = """
CREATE TABLE IF NOT EXISTS offload_repair_requests (
    finding_id text PRIMARY KEY,
    iceberg_table text NOT NULL,
    sources text[] NOT NULL,
    event_time text NOT NULL,
    window_start timestamptz NOT NULL,
    window_end timestamptz NOT NULL,
    key_columns text[] NOT NULL,
    requested_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'requested' CHECK (state IN ('requested', 'done', 'failed')),
    done_at timestamptz,
    row_count bigint,
    error_message text
)
"""


@dataclass(frozen=True)
class RepairRequest:
    """Rows of a half-open time that Iceberg lacks by these columns."""

    finding_id: str
    table: str
    start: datetime
    end: datetime
    key: tuple[str, ...]


class RepairRequests:
    """The table `offload_repair_requests` of one database."""

    def __init__(self, postgres: Postgres, database: str) -> None:
        self._postgres = postgres
        self._database = database

    def create(self) -> None:
        """Creates the table, empty, where there is none."""
        self._postgres.execute(self._database, REQUESTS_DDL)

    def open(self) -> list[RepairRequest]:
        """Those without an answer, oldest first."""
        sql = (
            "SELECT finding_id, iceberg_table, window_start, window_end, key_columns FROM offload_repair_requests "
            "WHERE state = 'requested' ORDER BY requested_at, finding_id"
        )
        rows = self._postgres.execute(self._database, sql)
        return [RepairRequest(found, table, start, end, tuple(key)) for found, table, start, end, key in rows]

    def done(self, finding_id: str, rows: int) -> None:
        self._answer(finding_id, "done", rows, None)

    def failed(self, finding_id: str, error: str) -> None:
        self._answer(finding_id, "failed", None, error[:1000])

    def _answer(self, finding_id: str, state: str, rows: int | None, error: str | None) -> None:
        sql = (
            "UPDATE offload_repair_requests SET state = $2, row_count = $3, error_message = $4, done_at = now() "
            "WHERE finding_id = $1"
        )
        self._postgres.execute(self._database, sql, finding_id, state, rows, error)
