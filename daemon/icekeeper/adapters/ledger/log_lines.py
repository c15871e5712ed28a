"""Old log lines in PostgreSQL: deleting them, and asking which runs it holds. When: scheduling/retention.py."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from icekeeper.adapters.ledger.sql import statement
from icekeeper.adapters.postgres.pool import Postgres

_PRUNE = statement("prune_logs")
_HELD = "SELECT run_id FROM maintenance_runs WHERE run_id = ANY($1) AND outcome IS NOT NULL"


class PostgresLogLines:
    """Runs, tasks and audits stay whatever their age: only lines go."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def delete_lines(self, before: datetime, runs: int) -> int:
        """Deletes the lines of at most so many runs that began before then; how many lines, 0 where none is left.

        PermanentError `access_denied` where the role may not.
        """
        async with self._postgres.connection() as connection:
            tag = await connection.execute(_PRUNE, before, runs)
        return int(tag.rpartition(" ")[2])  # DELETE 123

    async def held(self, runs: Iterable[UUID]) -> frozenset[UUID]:
        """Which of these runs the ledger holds to their end."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_HELD, list(runs))
        return frozenset(row["run_id"] for row in rows)
