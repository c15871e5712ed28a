"""Messages that wait for their targets, in the spool. Their text: core/notifications.py."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

import aiosqlite
import structlog

from icekeeper.adapters.records import from_json, from_plain, to_json
from icekeeper.adapters.spool.file import SpoolFile
from icekeeper.adapters.spool.times import instant, text
from icekeeper.core.enums import RunOutcome, Trigger
from icekeeper.core.notifications import KnownSlot, Notification
from icekeeper.core.run_history import PastTask

log = structlog.get_logger(__name__)

_UNPROCESSED = """
    SELECT run_id, slot, trigger, outcome, ended_at FROM runs
    WHERE outcome IS NOT NULL AND NOT EXISTS (SELECT 1 FROM told WHERE told.run_id = runs.run_id)
    ORDER BY ended_at, rowid
"""
# Of a day's many slots the last task of each kind: with max(), SQLite takes the other columns from the same row.
_TASKS = """
    SELECT run_id, slot, trigger = 'manual' AS manual,
           json_extract(task.value, '$.stage') AS stage,
           json_extract(task.value, '$.table') AS "table",
           json_extract(task.value, '$.outcome') AS outcome,
           json_extract(task.value, '$.reason') AS reason,
           json_extract(task.value, '$.started_at') AS started_at,
           max(runs.started_at)
    FROM runs, json_each(report, '$.tasks') AS task
    WHERE slot = ?1 OR runs.started_at BETWEEN ?2 AND ?3
    GROUP BY slot = ?1, substr(slot, 1, 10), 3, 4, 5, 6, 7
"""
_QUEUE = """
    INSERT INTO notices (run_id, receiver, notice, queued_at, due_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_DUE = "SELECT * FROM notices WHERE result IS NULL AND due_at <= ? ORDER BY number"


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run that ended and has not been checked for notifications yet."""

    run_id: UUID
    slot: datetime
    trigger: Trigger
    outcome: RunOutcome
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class WaitingNotification:
    """A message that waits for one target, after so many failed attempts."""

    number: int
    target: str
    notification: Notification
    queued_at: datetime
    attempts: int


class NotificationQueue:
    """Raises like the spool."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file

    async def unprocessed_runs(self) -> tuple[EndedRun, ...]:
        """The ended runs that have not been checked for notifications yet, in the order in which they ended."""
        rows = await self._file.read(_UNPROCESSED)
        return tuple(
            EndedRun(
                UUID(row["run_id"]),
                instant(row["slot"]),
                Trigger(row["trigger"]),
                RunOutcome(row["outcome"]),
                instant(row["ended_at"]),
            )
            for row in rows
        )

    async def slots(self) -> tuple[KnownSlot, ...]:
        """The open slots, and the closed ones that were not pruned yet."""
        rows = await self._file.read("SELECT slot, outcome FROM slots")
        return tuple(KnownSlot(instant(row["slot"]), row["outcome"] and RunOutcome(row["outcome"])) for row in rows)

    async def tasks_until(self, slot: datetime, since: datetime, begun: datetime) -> tuple[PastTask, ...]:
        """The tasks of a slot, and those of runs that began from `since` to `begun`; of each day the last of a kind.

        Operators' are among them, those of runs that have not ended are not. An unreadable one is logged and skipped.
        """
        rows = await self._file.read(_TASKS, text(slot), text(since), text(begun))
        columns = [field.name for field in fields(PastTask)]
        tasks = []
        for row in rows:
            try:
                tasks.append(from_plain(PastTask, {column: row[column] for column in columns}))
            except ValueError as exc:  # a word of a newer icekeeper, or damaged where no check sees it
                log.warning("run_not_understood", about=row["run_id"], file=str(self._file.path), error=str(exc))
        return tuple(tasks)

    async def queue(
        self, processed: Iterable[UUID], targets: Mapping[Notification, Iterable[str]], now: datetime
    ) -> None:
        """Marks these runs as processed and queues each message for its targets, in one transaction."""

        async def body(db: aiosqlite.Connection) -> None:
            await db.executemany("INSERT OR IGNORE INTO told (run_id) VALUES (?)", [(str(run),) for run in processed])
            for message, names in targets.items():
                values = (to_json(message), text(now), text(now))
                await db.executemany(_QUEUE, [(str(message.run_id), name, *values) for name in names])

        await self._file.write(body)

    async def due(self, now: datetime) -> tuple[WaitingNotification, ...]:
        """The messages to send now, oldest first."""
        return tuple(
            WaitingNotification(
                row["number"],
                row["receiver"],
                from_json(Notification, row["notice"]),
                instant(row["queued_at"]),
                row["attempts"],
            )
            for row in await self._file.read(_DUE, text(now))
        )

    async def next_due(self) -> datetime | None:
        """When the next message is to be sent; None if none waits."""
        (row,) = await self._file.read("SELECT min(due_at) AS due FROM notices WHERE result IS NULL")
        return None if row["due"] is None else instant(row["due"])

    async def oldest(self, besides: Container[int]) -> datetime | None:
        """When the longest waiting message was queued, without these numbers; None if none waits."""
        rows = await self._file.read("SELECT number, queued_at FROM notices WHERE result IS NULL ORDER BY queued_at")
        return next((instant(row["queued_at"]) for row in rows if row["number"] not in besides), None)

    async def rename(self, names: Mapping[str, str]) -> None:
        """Gives the waiting messages of each old target name its new one."""

        async def body(db: aiosqlite.Connection) -> None:
            # OR IGNORE: two old names may have become one, which gets the message once.
            rename = "UPDATE OR IGNORE notices SET receiver = ? WHERE receiver = ? AND result IS NULL"
            await db.executemany(rename, [(new, old) for old, new in names.items()])

        if names:
            await self._file.write(body)

    async def settle(self, number: int, result: str) -> None:
        """Stores the final result: `delivered` or `failed`."""
        await self._file.execute("UPDATE notices SET result = ? WHERE number = ?", result, number)

    async def postpone(self, number: int, due_at: datetime) -> None:
        """Counts a failed attempt."""
        await self._file.execute(
            "UPDATE notices SET attempts = attempts + 1, due_at = ? WHERE number = ?", text(due_at), number
        )
