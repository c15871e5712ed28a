"""The messages that wait for their receivers, in the spool's file. What they say: core/notices.py."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import aiosqlite

from icekeeper.adapters.records import from_json, to_json
from icekeeper.adapters.spool.file import SpoolFile
from icekeeper.adapters.spool.times import instant, text
from icekeeper.core.enums import RunOutcome, Trigger
from icekeeper.core.notices import KnownSlot, Notice

_UNSEEN = """
    SELECT run_id, slot, trigger, outcome, ended_at FROM runs
    WHERE outcome IS NOT NULL AND NOT EXISTS (SELECT 1 FROM told WHERE told.run_id = runs.run_id)
    ORDER BY ended_at, rowid
"""
_QUEUE = """
    INSERT INTO notices (run_id, receiver, notice, queued_at, due_at) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_DUE = "SELECT * FROM notices WHERE result IS NULL AND due_at <= ? ORDER BY number"


@dataclass(frozen=True, slots=True)
class EndedRun:
    """A run whose end nobody has looked at yet."""

    run_id: UUID
    slot: datetime
    trigger: Trigger
    outcome: RunOutcome
    ended_at: datetime


@dataclass(frozen=True, slots=True)
class WaitingNotice:
    """A message on its way to one receiver, after so many attempts that failed."""

    number: int
    receiver: str
    notice: Notice
    queued_at: datetime
    attempts: int


class NotificationQueue:
    """Raises what the spool raises."""

    def __init__(self, file: SpoolFile) -> None:
        self._file = file

    async def unseen(self) -> tuple[EndedRun, ...]:
        """The runs whose end is still to be judged, in the order in which they ended."""
        rows = await self._file.read(_UNSEEN)
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
        """The slots that are open, and those that were closed and are still known."""
        rows = await self._file.read("SELECT slot, outcome FROM slots")
        return tuple(KnownSlot(instant(row["slot"]), row["outcome"] and RunOutcome(row["outcome"])) for row in rows)

    async def queue(self, seen: Iterable[UUID], notices: Mapping[Notice, Iterable[str]], now: datetime) -> None:
        """The ends of these runs were looked at, and this is to be told to these receivers: all of it or nothing."""

        async def body(db: aiosqlite.Connection) -> None:
            await db.executemany("INSERT OR IGNORE INTO told (run_id) VALUES (?)", [(str(one),) for one in seen])
            for notice, receivers in notices.items():
                said = (to_json(notice), text(now), text(now))
                await db.executemany(_QUEUE, [(str(notice.run_id), receiver, *said) for receiver in receivers])

        await self._file.write(body)

    async def due(self, now: datetime) -> tuple[WaitingNotice, ...]:
        """What is to be sent now, oldest first."""
        return tuple(
            WaitingNotice(
                row["number"],
                row["receiver"],
                from_json(Notice, row["notice"]),
                instant(row["queued_at"]),
                row["attempts"],
            )
            for row in await self._file.read(_DUE, text(now))
        )

    async def next_due(self) -> datetime | None:
        """When the next message is to be sent; None where none waits."""
        (row,) = await self._file.read("SELECT min(due_at) AS due FROM notices WHERE result IS NULL")
        return None if row["due"] is None else instant(row["due"])

    async def oldest(self, besides: Container[int]) -> datetime | None:
        """When the one was queued that waits longest, but for these numbers; None where none waits."""
        rows = await self._file.read("SELECT number, queued_at FROM notices WHERE result IS NULL ORDER BY queued_at")
        return next((instant(row["queued_at"]) for row in rows if row["number"] not in besides), None)

    async def settle(self, number: int, result: str) -> None:
        """It is over: `delivered`, or `failed` for good."""
        await self._write("UPDATE notices SET result = ? WHERE number = ?", result, number)

    async def postpone(self, number: int, due_at: datetime) -> None:
        """An attempt failed."""
        await self._write(
            "UPDATE notices SET attempts = attempts + 1, due_at = ? WHERE number = ?", text(due_at), number
        )

    async def _write(self, statement: str, *values: object) -> None:
        async def body(db: aiosqlite.Connection) -> None:
            await db.execute(statement, values)

        await self._file.write(body)
