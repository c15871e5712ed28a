"""The offload's table of repairs that it is asked for. Its columns and what they mean: docs/audit.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from icekeeper.adapters.postgres.pool import Postgres, quoted
from icekeeper.core.audit.repair import FindingRepair
from icekeeper.core.audit.source import Source
from icekeeper.core.errors import PermanentError

NAME = "offload_repair_requests"


@dataclass(frozen=True, slots=True)
class Answer:
    """How the offload has answered a request: `done` False: it could not."""

    finding_id: str
    done: bool
    rows: int


class RepairRequests:
    """Beside the offload's watermarks. Raises what `Postgres.connection` does."""

    def __init__(self, postgres: Postgres, watermarks: str) -> None:
        """`watermarks`: the offload's table, which may carry its schema."""
        self._postgres = postgres
        schema, dot, _ = quoted(watermarks).rpartition(".")
        self._table = f"{schema}{dot}{quoted(NAME)}"

    async def request(self, table: str, source: Source, repair: FindingRepair) -> None:
        """Asks for a finding; again, where the offload could not do it before. PermanentError without the table."""
        query = (
            f"INSERT INTO {self._table} AS request (finding_id, iceberg_table, sources, event_time, window_start, "
            "window_end, key_columns, requested_at, state) VALUES ($1, $2, $3, $4, $5, $6, $7, now(), 'requested') "
            "ON CONFLICT (finding_id) DO UPDATE SET state = 'requested', requested_at = now(), done_at = NULL, "
            "error_message = NULL "
            "WHERE request.state = 'failed'"
        )
        values = (repair.finding_id, table, list(source.tables), source.timestamp, repair.start, repair.end)
        async with self._postgres.connection() as connection:
            try:
                await connection.execute(query, *values, list(repair.key))
            except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as exc:
                raise self._no_table(exc) from exc

    async def answers(self, finding_ids: Sequence[str]) -> tuple[Answer, ...]:
        """Those of these requests that are answered; none where there is no such table, or it may not be read."""
        query = (
            f"SELECT finding_id, state, coalesce(row_count, 0) AS rows FROM {self._table} "
            "WHERE finding_id = ANY($1::text[]) AND state IN ('done', 'failed')"
        )
        async with self._postgres.connection() as connection:
            try:
                rows = await connection.fetch(query, list(finding_ids))
            except (asyncpg.UndefinedTableError, asyncpg.InsufficientPrivilegeError):
                return ()
        return tuple(Answer(row["finding_id"], row["state"] == "done", row["rows"]) for row in rows)

    async def withdraw(self, finding_id: str) -> bool:
        """Takes a request back that is not answered; whether there was one. PermanentError without the table."""
        query = (
            f"UPDATE {self._table} SET state = 'failed', error_message = 'withdrawn', done_at = now() "
            "WHERE finding_id = $1 AND state = 'requested' RETURNING finding_id"
        )
        async with self._postgres.connection() as connection:
            try:
                return await connection.fetchval(query, finding_id) is not None
            except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError) as exc:
                raise self._no_table(exc) from exc

    def _no_table(self, exc: Exception) -> PermanentError:
        text = f"the offload takes no requests: {exc}. docs/audit.md says what its table {self._table} has"
        return PermanentError(text, where=str(self._postgres.target))
