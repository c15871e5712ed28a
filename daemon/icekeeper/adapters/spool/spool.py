"""The spool's journal of runs, slots and configuration loads: every record goes to disk first. Shipping: outbox.py.

It also knows the slots: those that wait for a run, and until when they were put. The daemon and commands may have it
open at once. Log lines of a run stay in their file.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from uuid import UUID

import aiosqlite
import structlog

from icekeeper.adapters.host import wall_clock
from icekeeper.adapters.records import from_json, to_json
from icekeeper.adapters.spool.file import SpoolFile, changes
from icekeeper.adapters.spool.notifications import NotificationQueue
from icekeeper.adapters.spool.opening import corrupt_files
from icekeeper.adapters.spool.outbox import Outbox, prune_outbox, queue
from icekeeper.adapters.spool.times import instant as _instant
from icekeeper.adapters.spool.times import text as _text
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import RunOutcome, Stage, Trigger
from icekeeper.core.history import ConfigLoad, PastRun
from icekeeper.core.runs import RunOpening, RunReport, StageResult
from icekeeper.night.ports import Clock

log = structlog.get_logger(__name__)

# The older days that a run audited again come after its tasks.
_RUNS = """
    WITH records AS (
      SELECT run_id, 0 AS older_day, rowid AS number, result, audit FROM tasks
      UNION ALL SELECT run_id, 1, rowid, NULL, audit FROM older_days
    )
    SELECT runs.*, records.result, records.audit FROM runs LEFT JOIN records ON records.run_id = runs.run_id
"""
_OLDEST_FIRST = "ORDER BY runs.started_at, runs.rowid, records.older_day, records.number"
_OPEN = """
    INSERT INTO runs (run_id, slot, trigger, started_at, opening) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (run_id) DO UPDATE SET opening = excluded.opening WHERE opening IS NULL
"""
_CLOSE = """
    INSERT INTO runs (run_id, slot, trigger, started_at, ended_at, outcome, report) VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (run_id) DO UPDATE
      SET ended_at = excluded.ended_at, outcome = excluded.outcome, report = excluded.report
      WHERE outcome IS NULL
"""
_END_TASK = """
    INSERT INTO tasks (run_id, stage, iceberg_table, result, audit) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (run_id, stage, iceberg_table) DO UPDATE SET result = excluded.result, audit = excluded.audit
"""
_CLEAR_IN_FLIGHT = """
    UPDATE runs SET in_flight_stage = NULL, in_flight_table = NULL
    WHERE run_id = ? AND in_flight_stage = ? AND in_flight_table = ?
"""
_CLOSE_SLOT = """
    INSERT INTO slots (slot, trigger, outcome) VALUES (?, ?, ?)
    ON CONFLICT (slot) DO UPDATE SET outcome = excluded.outcome WHERE outcome IS NULL
"""
# Ended before then, shipped, and of no open slot: resuming a slot needs its runs.
_PRUNE = """
    DELETE FROM runs WHERE ended_at < ?
      AND NOT EXISTS (SELECT 1 FROM outbox WHERE kind = 'run' AND id = run_id AND revision > shipped)
      AND NOT EXISTS (SELECT 1 FROM slots WHERE slots.slot = runs.slot AND slots.outcome IS NULL)
"""


@dataclass(frozen=True, slots=True)
class OpenSlot:
    """A slot that came due and that no run has closed."""

    slot: datetime
    trigger: Trigger


class Spool:
    """Use `open` and `close`.

    PermanentError where the disk is full (`disk_low`), closed to us (`access_denied`) or the file is corrupt: each
    names the file and what to do. What has failed wrote nothing, and may be tried again.
    """

    def __init__(self, file: SpoolFile, state_dir: Path, clock: Clock) -> None:
        self._file = file
        self._state_dir = state_dir
        self._clock = clock
        self.outbox = Outbox(file, clock)
        self.notifications = NotificationQueue(file)

    @classmethod
    async def open(cls, state_dir: Path, *, clock: Clock = wall_clock) -> Spool:
        """Opens `spool.db` there. A corrupt one is put aside, logged, and read as far as it can be."""
        return cls(await SpoolFile.open(state_dir, clock), state_dir, clock)

    async def close(self) -> None:
        """Waits for what is being written."""
        await self._file.close()

    def corrupt_files(self) -> tuple[Path, ...]:
        """The corrupt files that were put aside and not removed yet."""
        return corrupt_files(self._state_dir)

    # --- runs

    async def open_run(self, opening: RunOpening) -> None:
        """A run begins."""
        run_id, started = str(opening.run_id), _text(opening.started_at)
        values = (run_id, _text(opening.slot), opening.trigger.value, started, to_json(opening))

        async def body(db: aiosqlite.Connection) -> None:
            if await changes(db, _OPEN, *values):
                await queue(db, "run", opening.run_id, opening.started_at)

        await self.outbox.put(body)

    async def mark_in_flight(self, run_id: UUID, stage: Stage | None, table: str | None) -> None:
        """The run works on this task from now on, or on none: should the process die, it was at this one."""
        update = "UPDATE runs SET in_flight_stage = ?, in_flight_table = ? WHERE run_id = ? AND outcome IS NULL"
        await self._file.execute(update, stage and stage.value, table, str(run_id))

    async def end_task(self, run_id: UUID, result: StageResult, audit: AuditResult | None) -> None:
        """The task ended; `audit` is its row."""
        task = (str(run_id), result.stage.value, result.table)
        row = (*task, to_json(result), None if audit is None else to_json(audit))

        async def body(db: aiosqlite.Connection) -> None:
            await db.execute(_END_TASK, row)
            await db.execute(_CLEAR_IN_FLIGHT, task)

        await self._file.write(body)

    async def add_older_day(self, run_id: UUID, audit: AuditResult) -> None:
        """The run audited an older day again."""
        upsert = """
            INSERT INTO older_days (run_id, iceberg_table, window_start, audit) VALUES (?, ?, ?, ?)
            ON CONFLICT (run_id, iceberg_table, window_start) DO UPDATE SET audit = excluded.audit
        """
        day = (str(run_id), audit.iceberg_table, _text(audit.window_start))
        await self._file.execute(upsert, *day, to_json(audit))

    async def close_run(self, report: RunReport) -> None:
        """The run ended, and waits to be shipped. Of a slot's run any outcome but `interrupted` closes the slot.

        A run ends once: a second report of it changes nothing. The task that a dead process was at stays known.
        """
        run_id, slot, ended = str(report.run_id), _text(report.slot), _text(report.finished_at)
        about = (run_id, slot, report.trigger.value, _text(report.started_at))
        values = (*about, ended, report.outcome.value, to_json(report))

        async def body(db: aiosqlite.Connection) -> None:
            if not await changes(db, _CLOSE, *values):
                return
            for records in ("tasks", "older_days"):
                await db.execute(f"DELETE FROM {records} WHERE run_id = ?", (run_id,))
            await queue(db, "run", report.run_id, report.finished_at)
            if report.trigger is not Trigger.MANUAL and report.outcome is not RunOutcome.INTERRUPTED:
                await db.execute(_CLOSE_SLOT, (slot, report.trigger.value, report.outcome.value))

        await self.outbox.put(body)

    async def unfinished(self) -> tuple[PastRun, ...]:
        """The runs without an outcome, oldest first. To the holder of the run lock they are runs whose process died."""
        return await self._past(f"{_RUNS} WHERE outcome IS NULL {_OLDEST_FIRST}")

    async def slot_runs(self, slot: datetime) -> tuple[PastRun, ...]:
        """The runs of a slot but operators' own (`manual`), oldest first, whatever became of them."""
        return await self._past(f"{_RUNS} WHERE slot = ? AND trigger <> 'manual' {_OLDEST_FIRST}", _text(slot))

    async def _past(self, query: str, *values: object) -> tuple[PastRun, ...]:
        runs = []
        for run_id, rows in groupby(await self._file.read(query, *values), key=lambda row: row["run_id"]):
            try:
                runs.append(_past_run(list(rows)))
            except ValueError as exc:  # of a newer icekeeper, or damaged where no check sees it
                log.warning("run_not_understood", about=run_id, file=str(self._file.path), error=str(exc))
        return tuple(runs)

    async def record_load(self, load: ConfigLoad) -> None:
        """A configuration was read, or refused."""

        async def body(db: aiosqlite.Connection) -> None:
            insert = "INSERT INTO config_loads (load_id, load) VALUES (?, ?) ON CONFLICT DO NOTHING"
            if await changes(db, insert, str(load.load_id), to_json(load)):
                await queue(db, "config_load", load.load_id, load.at)

        await self.outbox.put(body)

    # --- slots

    async def put_slot(self, slot: datetime, trigger: Trigger) -> bool:
        """Keeps a slot that came due until a run closes it. False: it was closed already."""

        async def body(db: aiosqlite.Connection) -> bool:
            insert = "INSERT INTO slots (slot, trigger) VALUES (?, ?) ON CONFLICT DO NOTHING"
            await db.execute(insert, (_text(slot), trigger.value))
            rows = await db.execute_fetchall("SELECT outcome FROM slots WHERE slot = ?", (_text(slot),))
            return [row["outcome"] for row in rows] == [None]

        return await self._file.write(body)

    async def open_slots(self) -> tuple[OpenSlot, ...]:
        """The slots that were put and not closed, oldest first."""
        rows = await self._file.read("SELECT slot, trigger FROM slots WHERE outcome IS NULL ORDER BY slot")
        return tuple(OpenSlot(_instant(row["slot"]), Trigger(row["trigger"])) for row in rows)

    async def close_slot(self, slot: datetime, outcome: RunOutcome) -> None:
        """Closes a slot without a run of this host, e.g. one that another host ran. The first outcome stays."""
        await self._file.execute(_CLOSE_SLOT, _text(slot), Trigger.SCHEDULE.value, outcome.value)

    async def accounted_until(self) -> datetime | None:
        """Up to when a running daemon has queued the slots that came due; None before the first time."""
        rows = await self._file.read("SELECT until FROM accounted")
        return _instant(rows[0]["until"]) if rows else None

    async def account(self, until: datetime) -> None:
        """All slots up to here were put. The latest value wins, also after a clock that was far ahead: a slot that was
        closed is not opened again."""
        upsert = """
            INSERT INTO accounted (one, until) VALUES (1, ?)
            ON CONFLICT (one) DO UPDATE SET until = excluded.until
        """
        await self._file.execute(upsert, _text(until))

    async def prune(self, before: datetime) -> int:
        """Drops what ended before then and PostgreSQL has, and closed slots of before then; how many runs and loads."""
        then = _text(before)

        async def body(db: aiosqlite.Connection) -> int:
            runs = await changes(db, _PRUNE, then)
            await db.execute("DELETE FROM slots WHERE outcome IS NOT NULL AND slot < ?", (then,))
            await db.execute("DELETE FROM told WHERE run_id NOT IN (SELECT run_id FROM runs)")
            await db.execute("DELETE FROM notices WHERE run_id NOT IN (SELECT run_id FROM runs)")
            return runs + await prune_outbox(db, before)

        return await self._file.write(body)


def _past_run(rows: list[sqlite3.Row]) -> PastRun:
    """From its row, once for each of its tasks."""
    run = rows[0]
    opening = None if run["opening"] is None else from_json(RunOpening, run["opening"])
    report = None if run["report"] is None else from_json(RunReport, run["report"])
    tasks = tuple(from_json(StageResult, row["result"]) for row in rows if row["result"] is not None)
    audits = tuple(from_json(AuditResult, row["audit"]) for row in rows if row["audit"] is not None)
    at = run["in_flight_stage"]
    return PastRun(
        run_id=UUID(run["run_id"]),
        slot=_instant(run["slot"]),
        trigger=Trigger(run["trigger"]),
        started_at=_instant(run["started_at"]),
        outcome=None if run["outcome"] is None else RunOutcome(run["outcome"]),
        host=opening.host if opening else "",
        settings_hash=opening.settings_hash if opening else report.settings_hash if report else "",
        stages=opening.stages if opening else (),
        tables=opening.tables if opening else (),
        tasks=report.tasks if report else tasks,
        audits=report.audits if report else audits,
        in_flight=None if at is None else (Stage(at), run["in_flight_table"]),
    )
