"""The ledger: stores runs with their tasks, audits and log lines in PostgreSQL. Reading for people: history.py."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

import structlog

from icekeeper.adapters.ledger.installation import Installation
from icekeeper.adapters.ledger.rows import past_audit, past_run
from icekeeper.adapters.ledger.sql import statement
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.audit.certificates import CertifiedBy
from icekeeper.core.audit.evidence import Evidence, evidence
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import Stage, Trigger
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.history import ConfigLoad, PastRun
from icekeeper.core.plain import storable
from icekeeper.core.runs import RunOpening, RunReport, StageResult

log = structlog.get_logger(__name__)

# Which row an audit may meet again: the one of its window and slot or, for an operator's audit, of its window and run.
_STORE_AUDIT = statement("store_audit")
_STORE_MANUAL_AUDIT = _STORE_AUDIT.replace(
    "{arbiter}", "(run_id, iceberg_table, window_start, window_end) WHERE run_id IS NOT NULL"
)
_STORE_SLOT_AUDIT = _STORE_AUDIT.replace(
    "{arbiter}",
    "(installation_id, slot, iceberg_table, window_start, window_end) "
    "WHERE trigger IN ('schedule', 'catch_up', 'resume')",
)
_STORE_TASK, _STORE_LINES = statement("store_task"), statement("store_lines")
_STORE_EVIDENCE = statement("store_evidence")
_STORE_RUN, _OPEN_RUN = statement("store_run"), statement("open_run")
_STORE_LOAD, _PAST_RUNS = statement("store_load"), statement("past_runs")
_MARK_IN_FLIGHT = """
    UPDATE maintenance_runs SET in_flight_stage = $2, in_flight_table = $3 WHERE run_id = $1 AND outcome IS NULL
"""
_PRUNE_LINES = statement("prune_logs")
_HELD_RUNS = "SELECT run_id FROM maintenance_runs WHERE run_id = ANY($1) AND outcome IS NOT NULL"
_LAST_LINE = "SELECT coalesce(max(line_no), 0) FROM maintenance_logs WHERE run_id = $1"
_LAST_SLOT = "SELECT max(slot) FROM maintenance_runs WHERE trigger <> 'manual' AND installation_id = $1"
_TASKS, _AUDITS = statement("tasks"), statement("audits")


class PostgresLedger:
    """The rows of one installation. Every method raises what `Postgres.connection` and `Installation` do."""

    def __init__(self, postgres: Postgres, installation: Installation) -> None:
        self._postgres = postgres
        self._installation = installation

    async def open_run(self, opening: RunOpening) -> None:
        """Makes the run visible, without an outcome; a run that is closed already stays closed."""
        mine = await self._installation.settled()
        async with self._postgres.connection() as connection:
            await connection.execute(_OPEN_RUN, *_opening_row(opening), mine)

    async def close_run(self, report: RunReport, opening: RunOpening | None = None) -> None:
        """Stores the whole run in one transaction. Storing it again changes nothing; a lost answer is no harm.

        `opening`: what the report doesn't hold, where PostgreSQL may not have it.
        PermanentError `unexpected` where PostgreSQL refuses this very record.
        """
        mine = await self._installation.settled()
        async with self._postgres.connection() as connection, connection.transaction():
            await store_run(connection, report, mine)
            if opening is not None:
                await connection.execute(_OPEN_RUN, *_opening_row(opening), mine)

    async def last_line(self, run_id: UUID) -> int:
        """The number of the last log line that is stored of the run; 0 where there is none."""
        async with self._postgres.connection() as connection:
            number: int = await connection.fetchval(_LAST_LINE, run_id)
        return number

    async def store_lines(self, run_id: UUID, first: int, lines: Sequence[Mapping[str, Any]]) -> None:
        """Stores log lines of a run that is stored, in one statement; `first` is the number of the first.

        Storing them again changes nothing. PermanentError `unexpected` where PostgreSQL refuses these lines.
        """
        async with self._postgres.connection() as connection:
            await store_lines(connection, run_id, first, lines)

    async def delete_lines(self, before: datetime, runs: int) -> int:
        """Deletes the lines of at most so many runs that began before then; how many lines, 0 where none is left.

        Their runs, tasks and audits stay. PermanentError `access_denied` where the role may not.
        """
        mine = await self._installation.settled()
        async with self._postgres.connection() as connection:
            tag = await connection.execute(_PRUNE_LINES, before, runs, mine)
        return int(tag.rpartition(" ")[2])  # DELETE 123

    async def held(self, runs: Iterable[UUID]) -> frozenset[UUID]:
        """Which of these runs the ledger holds to their end."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_HELD_RUNS, list(runs))
        return frozenset(row["run_id"] for row in rows)

    async def answers(self) -> bool:
        """Whether PostgreSQL is there at all."""
        try:
            await self._postgres.ping()
        except IcekeeperError:
            return False
        return True

    async def record_load(self, load: ConfigLoad) -> None:
        """Stores a reading of the configuration; storing it again changes nothing."""
        mine = await self._installation.settled()
        async with self._postgres.connection() as connection:
            await connection.execute(_STORE_LOAD, *_load_row(load), mine)

    async def mark_in_flight(self, run_id: UUID, stage: Stage | None, table: str | None) -> None:
        """Notes which task the open run is at, so that another host knows it should this one die. None: at none.

        Nothing where the run is not there yet, or closed.
        """
        async with self._postgres.connection() as connection:
            await connection.execute(_MARK_IN_FLIGHT, *_row(run_id, stage, table))

    async def past_runs(self, since: datetime) -> tuple[PastRun, ...]:
        """The runs of slots from `since` on but operators' own, oldest first, whichever host they ran on."""
        found, mine = [], await self._installation.settled()
        async with self._postgres.snapshot() as connection:
            for row in await connection.fetch(_PAST_RUNS, since, mine):
                tasks = await connection.fetch(_TASKS, row["run_id"])
                audits = await connection.fetch(_AUDITS, row["run_id"])
                try:
                    found.append(past_run(row, tasks, audits))
                except ValueError as exc:  # of a newer icekeeper, or edited by hand: the others are no worse for it
                    log.warning("run_not_understood", about=str(row["run_id"]), error=str(exc))
        return tuple(found)

    async def audits_of(self, run_id: UUID) -> tuple[AuditResult, ...]:
        """What a run counted; empty where the ledger has no such run."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_AUDITS, run_id)
        return tuple(past_audit(row) for row in rows)

    async def last_slot(self) -> datetime | None:
        """The newest slot that a run but operators' own answered for; None where there is none."""
        mine = await self._installation.settled()
        async with self._postgres.connection() as connection:
            slot: datetime | None = await connection.fetchval(_LAST_SLOT, mine)
        return slot


async def store_run(connection: Any, report: RunReport, installation: UUID) -> None:
    """Writes a report's rows within the caller's transaction, on an asyncpg connection whose session is in UTC."""
    # First: its row is the lock of the run, which another process may be storing, too.
    installation = await connection.fetchval(
        _STORE_RUN,
        *_row(
            report.run_id,
            report.slot,
            report.trigger,
            report.outcome,
            report.started_at,
            report.finished_at,
            report.duration_s,
            report.settings_hash,
            None if report.older_days is None else _json(asdict(report.older_days)),
            installation,
        ),
    )
    tasks = [_task_row(report.run_id, position, task) for position, task in enumerate(report.tasks, start=1)]
    await connection.executemany(_STORE_TASK, tasks)
    store_audit = _STORE_MANUAL_AUDIT if report.trigger is Trigger.MANUAL else _STORE_SLOT_AUDIT
    await connection.executemany(store_audit, [(*_audit_row(audit), installation) for audit in report.audits])
    await store_evidence(connection, report.audits, installation)


async def store_evidence(connection: Any, audits: Iterable[AuditResult], installation: UUID) -> None:
    """Writes what audits say for and against certificates, on an asyncpg connection."""
    judged = [(*_evidence_row(audit, one), installation) for audit in audits for one in evidence(audit)]
    await connection.executemany(_STORE_EVIDENCE, judged)


async def store_lines(connection: Any, run_id: UUID, first: int, lines: Sequence[Mapping[str, Any]]) -> None:
    """Writes log lines on an asyncpg connection; `first` is the number of the first."""
    await connection.execute(_STORE_LINES, run_id, first, [_json(line) for line in lines])


def accepted(value: Any) -> Any:
    """The value as PostgreSQL's text and jsonb accept it.

    They refuse NUL, lone surrogates and NaN, and one such character in a log line must not cost the night's record.
    """
    match value:
        case Enum():
            return value.value
        case str():
            return storable(value).replace("\0", "\N{REPLACEMENT CHARACTER}")
        case float() if not math.isfinite(value):
            return str(value)
        case Mapping():
            return {accepted(str(key)): accepted(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [accepted(item) for item in value]
    return value


def _row(*values: Any) -> tuple[Any, ...]:
    return tuple(map(accepted, values))


def _json(value: Any) -> str:
    return json.dumps(accepted(value), allow_nan=False, default=_as_text)


def _as_text(value: Any) -> Any:
    return accepted(value.isoformat() if isinstance(value, datetime) else str(value))


def _opening_row(opening: RunOpening) -> tuple[Any, ...]:
    work = (opening.settings_hash, opening.stages, opening.tables)
    return _row(opening.run_id, opening.slot, opening.trigger, opening.started_at, *work, opening.host, opening.actor)


def _load_row(load: ConfigLoad) -> tuple[Any, ...]:
    head = (load.load_id, load.at, load.host, load.by, load.settings_hash)
    return _row(*head, load.changes, load.problems, load.actor)


def _task_row(run_id: UUID, position: int, task: StageResult) -> tuple[Any, ...]:
    return _row(
        run_id,
        task.stage,
        task.table,
        position,
        task.outcome,
        task.reason,
        task.note,
        task.attempts,
        task.started_at,
        task.duration_s,
        None if task.before is None else _json(asdict(task.before)),
        None if task.after is None else _json(asdict(task.after)),
        task.error,
        task.engine_log,
    )


def _audit_row(audit: AuditResult) -> tuple[Any, ...]:
    return _row(
        audit.run_id,
        audit.slot,
        audit.trigger,
        audit.run_timestamp,
        audit.iceberg_table,
        audit.ch_source,
        audit.layer,
        audit.audit_window_hours,
        audit.window_start,
        audit.window_end,
        audit.ch_row_count,
        audit.iceberg_row_count,
        audit.delta,
        audit.delta_pct,
        audit.status,
        audit.reason,
        audit.notes,
        audit.snapshot_id,
        audit.ch_query,
        audit.iceberg_query,
        audit.ch_final,
        audit.watermark,
        _json([asdict(hour) for hour in audit.missing_hours]),
        audit.proof,
        _json([asdict(file) for file in audit.bad_files]) if audit.bad_files else None,
        audit.bad_file_rows,
        None if audit.key_comparison is None else _json(asdict(audit.key_comparison)),
        _json([asdict(finding) for finding in audit.findings]) if audit.findings else None,
        audit.ch_merges,
        audit.source_ttl_s,
        audit.watermark_read,
        audit.clock_right,
        audit.files_digest,
        audit.worse,
        audit.began_at,
    )


def _evidence_row(audit: AuditResult, of_day: Evidence) -> tuple[Any, ...]:
    compared = audit.key_comparison if of_day.certifies is CertifiedBy.KEYS else None
    return _row(
        audit.iceberg_table,
        of_day.day,
        audit.run_id,
        audit.run_timestamp,
        of_day.certifies,
        of_day.revokes,
        of_day.refuted_by,
        of_day.compared,
        audit.proof,
        of_day.ch_row_count,
        audit.iceberg_row_count,
        None if compared is None else compared.fingerprint,
        audit.snapshot_id,
        audit.watermark,
        audit.began_at,
    )
