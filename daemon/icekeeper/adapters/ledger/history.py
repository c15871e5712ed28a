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

from icekeeper.adapters.ledger.installation import Installation
from icekeeper.adapters.ledger.rows import audit_document, task_document
from icekeeper.adapters.ledger.sql import statement
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.enums import NIGHT, Stage

_RUN_PAGE, _NIGHTS = statement("run_page"), statement("nights")
_TASKS, _AUDITS = statement("tasks"), statement("audits")
_TABLE_TASKS, _TABLE_AUDITS = statement("table_tasks"), statement("table_audits")
_AUDITS_SINCE, _DAYS = statement("audits_since"), statement("days")
_TABLE_HEALTHS, _LAST_NIGHT = statement("table_healths"), statement("last_night")
_LOG_PAGE, _TYPICAL = statement("log_page"), statement("typical_durations")
_FIND_RUNS = """
    SELECT run_id FROM maintenance_runs
    WHERE starts_with(replace(run_id::text, '-', ''), $1) AND ($3::uuid IS NULL OR installation_id = $3)
    ORDER BY started_at DESC, run_id LIMIT $2
"""
_ONE_RUN = """
    SELECT run_id, slot, trigger, outcome, started_at, finished_at, duration_s, settings_hash,
           coalesce(stages, '{}') AS stages, coalesce(tables, '{}') AS tables, host, actor, older_days,
           (SELECT name FROM maintenance_installations AS one
            WHERE one.installation_id = run.installation_id) AS installation
    FROM maintenance_runs AS run WHERE run_id = $1
"""

_LINES = "SELECT line FROM maintenance_logs WHERE run_id = $1 ORDER BY line_no"
_FOUND_AT_MOST = 20

# The pool is also the ledger's: however many people read, a run finds a free connection.
_MOST_AT_ONCE = 2
_STAGES = [stage.value for stage in NIGHT]
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs are wanted: None for any. `outcome` may be `running`.

    `installation`: the name of another one than ours, or ALL.
    """

    outcome: str | None = None
    trigger: str | None = None
    table: str | None = None
    installation: str | None = None


ANY_RUN = RunFilter()
ALL = "all"
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
    """Reads only, one installation's rows. Every method raises what `Postgres.connection` and `Installation` do."""

    def __init__(self, postgres: Postgres, installation: Installation) -> None:
        self._postgres = postgres
        self._installation = installation
        self._turns = asyncio.Semaphore(_MOST_AT_ONCE)

    async def runs(
        self, limit: int, wanted: RunFilter = ANY_RUN, after: tuple[datetime, UUID] | None = None
    ) -> tuple[Row, ...]:
        """Runs, newest first, from behind the one that began then: columns as in run_page.sql.

        ConfigError where there is no installation of the wanted name.
        """
        began, run_id = after or (None, None)
        whose = await self._whose(wanted.installation)
        return await self._fetch(_RUN_PAGE, began, run_id, wanted.outcome, wanted.trigger, wanted.table, limit, whose)

    async def find_runs(self, prefix: str, installation: str | None = None) -> tuple[UUID, ...]:
        """The ids that begin so, newest first and at most 20; hyphens and case don't count."""
        digits = prefix.replace("-", "").lower()
        if not re.fullmatch("[0-9a-f]{1,32}", digits):
            return ()
        whose = await self._whose(installation)
        return tuple(row["run_id"] for row in await self._fetch(_FIND_RUNS, digits, _FOUND_AT_MOST, whose))

    async def run(self, run_id: UUID, *, lines: bool = False) -> Row | None:
        """A run's row, of any installation, with `tasks` and `audits`, keys as in the report; None where there is none.

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
            "older_days": row["older_days"] and json.loads(row["older_days"]),
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
        return await self._own(_NIGHTS, _STAGES, list(tables), since)

    async def last_night(self, since: datetime, tables: Iterable[str]) -> Row | None:
        """The last run that answered for a night; None where none did since then. `tables` are the enabled ones."""
        rows = await self._own(_LAST_NIGHT, _STAGES, list(tables), since)
        return rows[0] if rows else None

    async def days(self, tables: Iterable[str], since: datetime) -> tuple[Row, ...]:
        """The audited UTC days of the tables, oldest first: columns as in days.sql."""
        return await self._own(_DAYS, list(tables), since)

    async def tasks_of(self, table: str, since: datetime, limit: int) -> tuple[Row, ...]:
        """What was last done with a table, oldest first: columns as in table_tasks.sql."""
        return await self._own(_TABLE_TASKS, table, since, limit)

    async def healths_of(self, table: str, since: datetime, most: int) -> tuple[Row, ...]:
        """How a table was after each run, oldest first: columns as in table_healths.sql, `after` as in the report."""
        rows = await self._own(_TABLE_HEALTHS, table, since, most)
        return tuple({**row, "after": json.loads(row["after"])} for row in rows)

    async def audits_of(self, table: str, since: datetime, most: int) -> tuple[Row, ...]:
        """The audits of a table, oldest first: columns as in table_audits.sql."""
        return await self._own(_TABLE_AUDITS, table, since, most)

    async def audits_since(self, since: datetime) -> tuple[Row, ...]:
        """All audits of windows that ended since then, another job's, too: columns as in audits_since.sql. No index."""
        return await self._own(_AUDITS_SINCE, since)

    async def typical_durations(self, tables: Iterable[str], since: datetime) -> Mapping[tuple[Stage, str], float]:
        """How long (s) a stage takes on a table where there is something to do: the median since then."""
        rows = await self._own(_TYPICAL, list(tables), since)
        known = {stage.value: stage for stage in Stage}
        return {(known[row["stage"]], row["table"]): row["duration_s"] for row in rows if row["stage"] in known}

    async def installations(self) -> tuple[str, ...]:
        """The names of all that keep rows in this ledger."""
        return await self._installation.names()

    async def _whose(self, installation: str | None) -> UUID | None:
        if installation == ALL:
            return None
        return await (self._installation.id() if installation is None else self._installation.named(installation))

    async def _own(self, query: str, *values: object) -> tuple[Row, ...]:
        """Of a query whose last value is the installation."""
        return await self._fetch(query, *values, await self._installation.id())

    async def _fetch(self, query: str, *values: object) -> tuple[Row, ...]:
        async with self._turns, self._postgres.connection() as connection:
            rows = await connection.fetch(query, *values)
        return tuple(dict(row) for row in rows)
