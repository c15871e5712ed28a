"""Reads the ledger page by page, for commands, the API and the page. Writing it: store.py.

Rows come back as Python's own types by their column's name, and each question is answered from an index.
"""

from __future__ import annotations

import asyncio
import json
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from icekeeper.adapters.ledger.rows import audit_document, task_document
from icekeeper.adapters.ledger.sql import statement
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.enums import Stage

_RUN_PAGE, _NIGHTS = statement("run_page"), statement("nights")
_TASKS, _AUDITS = statement("tasks"), statement("audits")
_TABLE_TASKS, _TABLE_AUDITS = statement("table_tasks"), statement("table_audits")
_AUDITS_SINCE = statement("audits_since")
_TABLE_HEALTHS, _LAST_NIGHT = statement("table_healths"), statement("last_night")
_LOG_PAGE, _TYPICAL = statement("log_page"), statement("typical_durations")
_FIND_RUNS = """
    SELECT run_id FROM maintenance_runs WHERE starts_with(replace(run_id::text, '-', ''), $1)
    ORDER BY started_at DESC, run_id LIMIT $2
"""
_ONE_RUN = """
    SELECT run_id, slot, trigger, outcome, started_at, finished_at, duration_s, settings_hash,
           coalesce(stages, '{}') AS stages, coalesce(tables, '{}') AS tables, host
    FROM maintenance_runs WHERE run_id = $1
"""

_LINES = "SELECT line FROM maintenance_logs WHERE run_id = $1 ORDER BY line_no"
_FOUND_AT_MOST = 20

# The pool is also the ledger's: however many people read, a run finds a free connection.
_MOST_AT_ONCE = 2
_STAGES = [stage.value for stage in Stage]
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are wanted: None for any. `outcome` may be `running`."""

    outcome: str | None = None
    trigger: str | None = None
    table: str | None = None


ANY_RUN = RunFilter()
_LEVELS = ("debug", "info", "warning", "error", "critical")


def levels_from(level: str) -> tuple[str, ...]:
    """This level and the more important ones."""
    return _LEVELS[_LEVELS.index(level) :]


@dataclass(frozen=True, slots=True)
class LogFilter:
    """Which log lines are wanted: of these levels (None: any), that hold this text in any case (None: any)."""

    levels: tuple[str, ...] | None = None
    text: str | None = None

    def takes(self, line: Row) -> bool:
        """Whether the filter matches the line, as log_page.sql does."""
        if self.levels is not None and line.get("level") not in self.levels:
            return False
        if self.text is None:
            return True
        return self.text.translate(_LOWER) in json.dumps(line, ensure_ascii=False).translate(_LOWER)


class PostgresHistory:
    """Reads only. Every method raises what `Postgres.connection` does."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)

    async def runs(
        self, limit: int, wanted: RunFilter = ANY_RUN, after: tuple[datetime, UUID] | None = None
    ) -> tuple[Row, ...]:
        """Runs, newest first, from behind the one that began then: columns as in run_page.sql."""
        began, run_id = after or (None, None)
        return await self._fetch(_RUN_PAGE, began, run_id, wanted.outcome, wanted.trigger, wanted.table, limit)

    async def find_runs(self, prefix: str) -> tuple[UUID, ...]:
        """The ids that begin so, newest first and at most 20; hyphens and case don't count."""
        digits = prefix.replace("-", "").lower()
        if not re.fullmatch("[0-9a-f]{1,32}", digits):
            return ()
        return tuple(row["run_id"] for row in await self._fetch(_FIND_RUNS, digits, _FOUND_AT_MOST))

    async def run(self, run_id: UUID, *, lines: bool = False) -> Row | None:
        """The run's row with `tasks` and `audits`, their keys as in the report; None where the ledger has none.

        With `lines` also its log lines, as `logs`.
        """
        async with self._turns, self._postgres.snapshot() as connection:
            row = await connection.fetchrow(_ONE_RUN, run_id)
            if row is None:
                return None
            tasks = await connection.fetch(_TASKS, run_id)
            audits = await connection.fetch(_AUDITS, run_id)
            logs = await connection.fetch(_LINES, run_id) if lines else ()
        return {
            **dict(row),
            "tasks": [task_document(task) for task in tasks],
            "audits": [audit_document(audit) for audit in audits],
            **({"logs": [json.loads(line["line"]) for line in logs]} if lines else {}),
        }

    async def logs(self, run_id: UUID, wanted: LogFilter, after: int, limit: int) -> tuple[Row, ...]:
        """Log lines behind the line `after`, in their order: `line_no` and `line`."""
        levels = None if wanted.levels is None else list(wanted.levels)
        rows = await self._fetch(_LOG_PAGE, run_id, after, levels, wanted.text, limit)
        return tuple({"line_no": row["line_no"], "line": json.loads(row["line"])} for row in rows)

    async def nights(self, since: datetime, tables: Iterable[str]) -> tuple[Row, ...]:
        """How slots were answered, newest first: columns as in nights.sql. `tables` are the enabled ones."""
        return await self._fetch(_NIGHTS, _STAGES, list(tables), since)

    async def last_night(self, since: datetime, tables: Iterable[str]) -> Row | None:
        """The last run that answered for a night; None where none did since then. `tables` are the enabled ones."""
        rows = await self._fetch(_LAST_NIGHT, _STAGES, list(tables), since)
        return rows[0] if rows else None

    async def tasks_of(self, table: str, since: datetime, limit: int) -> tuple[Row, ...]:
        """What was last done with a table, oldest first: columns as in table_tasks.sql."""
        return await self._fetch(_TABLE_TASKS, table, since, limit)

    async def healths_of(self, table: str, since: datetime, most: int) -> tuple[Row, ...]:
        """How a table was after each run, oldest first: columns as in table_healths.sql, `after` as in the report."""
        rows = await self._fetch(_TABLE_HEALTHS, table, since, most)
        return tuple({**row, "after": json.loads(row["after"])} for row in rows)

    async def audits_of(self, table: str, since: datetime, most: int) -> tuple[Row, ...]:
        """The audits of a table, oldest first: columns as in table_audits.sql."""
        return await self._fetch(_TABLE_AUDITS, table, since, most)

    async def audits_since(self, since: datetime) -> tuple[Row, ...]:
        """All audits of windows that ended since then, another job's, too: columns as in audits_since.sql. No index."""
        return await self._fetch(_AUDITS_SINCE, since)

    async def typical_durations(self, tables: Iterable[str], since: datetime) -> Mapping[tuple[Stage, str], float]:
        """How long (s) a stage takes on a table where there is something to do: the median since then."""
        rows = await self._fetch(_TYPICAL, list(tables), since)
        known = {stage.value: stage for stage in Stage}
        return {(known[row["stage"]], row["table"]): row["duration_s"] for row in rows if row["stage"] in known}

    async def _fetch(self, query: str, *values: object) -> tuple[Row, ...]:
        async with self._turns, self._postgres.connection() as connection:
            rows = await connection.fetch(query, *values)
        return tuple(dict(row) for row in rows)
