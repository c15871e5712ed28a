"""The spool's outbox: what PostgreSQL is still to get, and what it refused. Shipping it: shipper.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

import aiosqlite

from icekeeper.adapters.spool.file import SpoolFile, changes
from icekeeper.adapters.spool.times import instant, text
from icekeeper.core.plain import storable
from icekeeper.night.ports import Clock

T = TypeVar("T")

# A record that changes is tried again, though an earlier state of it was refused.
_QUEUE = """
    INSERT INTO outbox (kind, id, changed_at) VALUES (?, ?, ?)
    ON CONFLICT (kind, id) DO UPDATE
      SET revision = revision + 1, changed_at = excluded.changed_at, refused_at = NULL, error = NULL
"""
_NEXT = """
    SELECT outbox.number, outbox.revision, outbox.kind, outbox.id, runs.opening, runs.report, load
    FROM outbox
    LEFT JOIN runs ON kind = 'run' AND runs.run_id = id
    LEFT JOIN config_loads ON kind = 'config_load' AND load_id = id
    WHERE revision > shipped AND refused_at IS NULL AND number > ?
    ORDER BY number LIMIT 1
"""
_WAITING = """
    SELECT count(*) AS records, count(refused_at) AS quarantined, min(changed_at) AS oldest
    FROM outbox WHERE revision > shipped
"""
_QUARANTINED = "refused_at IS NOT NULL AND revision > shipped"


@dataclass(frozen=True, slots=True)
class Waiting:
    """How many records PostgreSQL lacks, quarantined ones included, and since when the oldest of them."""

    records: int
    quarantined: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class QuarantinedRecord:
    """A record that PostgreSQL refused: `kind` is `run` or `config_load`, `id` its own."""

    id: UUID
    kind: str
    since: datetime
    error: str


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """A record to ship, as JSON: a run's opening, with its report once it ended, or a configuration load.

    `revision` shows whether it changed while it was being shipped.
    """

    number: int
    revision: int
    kind: str
    id: UUID
    opening: str | None
    report: str | None
    load: str | None


@dataclass(frozen=True, slots=True)
class UnshippedLog:
    """A run that PostgreSQL has, and whose log lines it may lack; `attempts` to store them have failed."""

    run_id: UUID
    attempts: int


class Outbox:
    """Raises like the spool."""

    def __init__(self, file: SpoolFile, clock: Clock) -> None:
        self._file = file
        self._clock = clock
        self._listeners: list[Callable[[], None]] = []

    def on_put(self, listener: Callable[[], None]) -> None:
        """Has it called whenever there is something new to ship."""
        self._listeners.append(listener)

    async def put(self, body: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Runs a transaction that queues records."""
        result = await self._file.write(body)
        for listener in self._listeners:
            listener()
        return result

    async def waiting(self) -> Waiting:
        """What PostgreSQL doesn't have yet."""
        (row,) = await self._file.read(_WAITING)
        return Waiting(row["records"], row["quarantined"], None if row["oldest"] is None else instant(row["oldest"]))

    async def unshipped_runs(self) -> frozenset[UUID]:
        """The runs whose record or log lines PostgreSQL may lack, quarantined ones included."""
        rows = await self._file.read(
            "SELECT id FROM outbox WHERE kind = 'run' AND revision > shipped UNION SELECT run_id FROM unshipped_logs"
        )
        return frozenset(UUID(row["id"]) for row in rows)

    async def has_shipped(self) -> bool:
        """Whether PostgreSQL ever accepted one of the records that are still here."""
        return bool(await self._file.read("SELECT 1 FROM outbox WHERE shipped > 0 LIMIT 1"))

    async def next_record(self, after: int = 0) -> OutboxRecord | None:
        """The oldest waiting record with a higher number than `after` that is not quarantined."""
        rows = await self._file.read(_NEXT, after)
        return OutboxRecord(**{**dict(rows[0]), "id": UUID(rows[0]["id"])}) if rows else None

    async def mark_shipped(self, record: OutboxRecord) -> None:
        """PostgreSQL has this revision; a later one waits on. The log lines of a run that ended are next."""

        async def body(db: aiosqlite.Connection) -> None:
            update = "UPDATE outbox SET shipped = max(shipped, ?) WHERE number = ?"
            await db.execute(update, (record.revision, record.number))
            if record.report is not None:
                await db.execute("INSERT OR IGNORE INTO unshipped_logs (run_id) VALUES (?)", (str(record.id),))

        await self._file.write(body)

    async def quarantine(self, record: OutboxRecord, error: str) -> None:
        """PostgreSQL refused it: it is not shipped until an operator retries it or it changes."""
        update = "UPDATE outbox SET refused_at = ?, error = ? WHERE number = ? AND revision = ? AND shipped < revision"
        now = text(self._clock())
        await self._file.execute(update, now, storable(error), record.number, record.revision)

    async def quarantined(self) -> tuple[QuarantinedRecord, ...]:
        """What PostgreSQL refused, oldest first."""
        rows = await self._file.read(f"SELECT * FROM outbox WHERE {_QUARANTINED} ORDER BY number")
        return tuple(
            QuarantinedRecord(UUID(row["id"]), row["kind"], instant(row["refused_at"]), row["error"]) for row in rows
        )

    async def retry_quarantined(self) -> int:
        """Ends the quarantine of all records; how many there were."""
        update = f"UPDATE outbox SET refused_at = NULL, error = NULL WHERE {_QUARANTINED}"
        return await self.put(lambda db: changes(db, update))

    async def unshipped_logs(self) -> tuple[UnshippedLog, ...]:
        """The shipped runs whose log lines are still to be stored, oldest first."""
        rows = await self._file.read("SELECT run_id, attempts FROM unshipped_logs ORDER BY rowid")
        return tuple(UnshippedLog(UUID(row["run_id"]), row["attempts"]) for row in rows)

    async def count_log_attempt(self, run_id: UUID) -> None:
        """An attempt to store the run's log lines failed."""
        update = "UPDATE unshipped_logs SET attempts = attempts + 1 WHERE run_id = ?"
        await self._file.execute(update, str(run_id))

    async def settle_log(self, run_id: UUID) -> None:
        """The run's log lines are stored, or given up."""
        await self._file.execute("DELETE FROM unshipped_logs WHERE run_id = ?", str(run_id))


async def queue(db: aiosqlite.Connection, kind: str, record_id: UUID, changed_at: datetime) -> None:
    """Queues a record within the caller's transaction."""
    await db.execute(_QUEUE, (kind, str(record_id), text(changed_at)))


async def prune_outbox(db: aiosqlite.Connection, before: datetime) -> int:
    """Drops shipped records whose runs are gone, and shipped configuration loads of before then; how many loads."""
    await db.execute("DELETE FROM unshipped_logs WHERE run_id NOT IN (SELECT run_id FROM runs)")
    gone = "kind = 'run' AND revision <= shipped AND id NOT IN (SELECT run_id FROM runs)"
    await db.execute(f"DELETE FROM outbox WHERE {gone}")
    loads = "kind = 'config_load' AND revision <= shipped AND changed_at < ?"
    then = text(before)
    await db.execute(f"DELETE FROM config_loads WHERE load_id IN (SELECT id FROM outbox WHERE {loads})", (then,))
    return await changes(db, f"DELETE FROM outbox WHERE {loads}", then)
