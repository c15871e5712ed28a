"""The offload's own table in PostgreSQL: what it has recorded about each source. What that means: core/offload.py."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from icekeeper.adapters.postgres.pool import Postgres, quoted
from icekeeper.core.audit.source import Source
from icekeeper.core.errors import PermanentError
from icekeeper.core.offload import OffloadState, names_of, together

_NEEDED = ("last_offload_timestamp", "status")


class PostgresOffload:
    """Implements ports.OffloadStatus, in the ledger's database or in the offload's own."""

    def __init__(
        self,
        postgres: Postgres,
        table: str = "offload_watermarks",
        database: str | None = "default",
        sources: Collection[str] = (),
    ) -> None:
        """`table` may carry its schema. ConfigError where it is no name. `database`, `sources`: see `names_of`.

        `database` None: it is not known which one the sources are in. A row of their name in any database is theirs.
        """
        self._postgres = postgres
        self._table = quoted(table)
        self._database = database
        self._sources = frozenset(sources)

    async def state(self, source: Source) -> OffloadState | None:
        """Raises like `state_of`."""
        return together([await self.state_of(table) for table in source.tables])

    async def state_of(self, table: str) -> OffloadState | None:
        """The row of a ClickHouse table; None where there is no offload's table, or no row in it.

        PermanentError where a column is missing without which it is not the offload's table. The others are optional.
        """
        # The whole row: a query that named a column could not be asked of a table without it.
        names = names_of(table, self._database or "", self._sources)
        anywhere = f".{table}" if self._database is None and "." not in table else None
        query = (
            f"SELECT to_jsonb(offload_row.*) FROM {self._table} AS offload_row "
            "WHERE table_name = ANY($1::text[]) OR right(table_name::text, length($2::text)) = $2::text "
            "ORDER BY array_position($1::text[], table_name::text)"
        )
        async with self._postgres.connection() as connection:
            try:
                found = await connection.fetch(query, names, anywhere)
            except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
                return None
            except asyncpg.UndefinedColumnError as exc:
                raise self._not_the_table(str(exc)) from exc
        states = [self._state(json.loads(row[0])) for row in found]
        return together(states) if anywhere is not None else next(iter(states), None)

    def _state(self, row: dict[str, Any]) -> OffloadState:
        for column in _NEEDED:
            if column not in row:
                raise self._not_the_table(f"it has no column {column}")
        return OffloadState(
            at=_instant(row["last_offload_timestamp"]),
            status=str(row["status"] or ""),
            updated_at=_instant(row.get("updated_at")),
            last_successful_run=_instant(row.get("last_successful_run")),
            last_run_duration=_seconds(row.get("last_run_duration_seconds")),
        )

    def _not_the_table(self, why: str) -> PermanentError:
        text = f"{self._table} is not the offload's table: {why}. Correct offload.table"
        return PermanentError(text, where=str(self._postgres.target))


def _instant(value: Any) -> datetime | None:
    """An instant of a JSON row; without a zone it is UTC. None for what is no instant, like infinity."""
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError:
        return None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


def _seconds(value: Any) -> timedelta | None:
    try:
        return timedelta(seconds=float(value))
    except (TypeError, ValueError, OverflowError):
        return None
