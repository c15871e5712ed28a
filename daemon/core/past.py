"""What the last nights have left: which runs answered for them, how tasks ended, how the tables were, what was audited.

A run's report gives a past, the ledger gives one, and two of them are one again. Here is also what nights in a row add
up to. A night is the UTC day of a slot: whatever ran for it later, by whomever, takes the place of what ran before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, TypeVar
from uuid import UUID

from daemon.core.calendar import to_utc, window_of
from daemon.core.model import AuditResult, AuditStatus, RunOutcome, RunReport, Stage, TableHealth, TaskOutcome, Trigger
from daemon.core.reasons import Reason

# How much of the past is kept: what nights in a row add up to ends here.
MOST_NIGHTS = 30
MOST_TASKS = 45  # of each table: those of 15 nights

# What somebody has to repair or acknowledge. A warning lies within what the settings tolerate.
FINDINGS = frozenset({AuditStatus.MISSING_DATA, AuditStatus.ERROR})

_Key = TypeVar("_Key")
_Seen = TypeVar("_Seen")


@dataclass(frozen=True, slots=True)
class PastNight:
    """A run that answered for a whole night. `found`: the tables of `audited` whose audit left something to settle."""

    run_id: UUID
    slot: datetime
    outcome: RunOutcome
    started_at: datetime
    finished_at: datetime
    audited: frozenset[str] = frozenset()
    found: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PastTask:
    """How a task ended."""

    run_id: UUID
    slot: datetime
    stage: Stage
    table: str
    outcome: TaskOutcome
    reason: Reason | None
    started_at: datetime


@dataclass(frozen=True, slots=True)
class PastHealth:
    """A table as a task of then left it."""

    at: datetime
    health: TableHealth


@dataclass(frozen=True, slots=True)
class PastAudit:
    """What was counted of one UTC day, and when; both counts are None where one could not be had."""

    day: datetime
    at: datetime
    status: AuditStatus
    clickhouse: int | None
    iceberg: int | None


@dataclass(frozen=True, slots=True)
class Past:
    """What is known of the last nights; nights and tasks are the newest first. `last_success`: when that run ended."""

    nights: tuple[PastNight, ...] = ()
    tasks: tuple[PastTask, ...] = ()
    healths: Mapping[str, PastHealth] = field(default_factory=dict)
    audits: Mapping[str, PastAudit] = field(default_factory=dict)
    last_success: datetime | None = None

    def joined(self, other: Past) -> Past:
        """Both together. Of what both know this one's word counts, of one table's states the newer."""
        nights = {night.run_id: night for night in (*other.nights, *self.nights)}
        tasks = {(task.run_id, task.stage, task.table): task for task in (*other.tasks, *self.tasks)}
        successes = [at for at in (self.last_success, other.last_success) if at is not None]
        return Past(
            nights=tuple(sorted(nights.values(), key=_started, reverse=True)[:MOST_NIGHTS]),
            tasks=tuple(_newest_of_each(sorted(tasks.values(), key=_started, reverse=True))),
            healths=_newer(self.healths, other.healths, lambda seen: seen.at),
            audits=_newer(self.audits, other.audits, lambda seen: (seen.day, seen.at)),
            last_success=max(successes, default=None),
        )

    def last_tasks(self) -> dict[tuple[Stage, str], PastTask]:
        """How each stage ended last on each table."""
        return {(task.stage, task.table): task for task in reversed(self.tasks) if _says_something(task)}


def is_night(trigger: Trigger, stages: Iterable[Stage], tables: Iterable[str], enabled: Iterable[str]) -> bool:
    """Whether a run answers for a night: an operator's does if it goes through all stages on all enabled tables."""
    return trigger is not Trigger.MANUAL or (set(stages) >= set(Stage) and set(tables) >= set(enabled))


def past_of(report: RunReport, *, night: bool) -> Past:
    """What a run has left; `night` as `is_night` says."""
    succeeded = night and report.outcome is RunOutcome.SUCCESS
    return Past(
        nights=(_night_of(report),) if night else (),
        tasks=tuple(
            PastTask(report.run_id, report.slot, task.stage, task.table, task.outcome, task.reason, task.started_at)
            for task in report.tasks
        ),
        # In their order, so that the stage that came last has the word.
        healths={task.table: PastHealth(task.started_at, task.after) for task in report.tasks if task.after},
        audits={audit.iceberg_table: _seen(audit) for audit in report.audits if is_of_a_day(audit)},
        last_success=report.finished_at if succeeded else None,
    )


def is_of_a_day(audit: AuditResult) -> bool:
    """Whether the audit's window is the one that its slot has: not one that an operator chose."""
    window = window_of(audit.slot)
    return (audit.window_start, audit.window_end) == (window.start, window.end)


# --- what nights in a row add up to


def partial_nights(past: Past) -> int:
    """How many of the last nights ended as `partial`, one after the other. An interrupted run says nothing."""
    nights = {_day(night): night.outcome for night in reversed(past.nights) if _ended(night)}
    return _in_a_row(nights, lambda outcome: outcome is RunOutcome.PARTIAL)


def failed_nights(past: Past, table: str) -> int:
    """In how many of the table's last nights a task of it failed, one after the other."""
    return _in_a_row(_nights_of(past, table), lambda ends: any(end.outcome is TaskOutcome.FAILED for end in ends))


def held_nights(past: Past, table: str) -> int:
    """In how many of the table's last nights its expiry was held, one after the other; not by `mode: observe`."""
    nights = _nights_of(past, table, Stage.EXPIRE)
    return _in_a_row(nights, lambda ends: any(map(_is_held, ends)))


def failure_is_open(past: Past, in_ledger: Set[UUID], open_tables: Set[str]) -> bool:
    """Whether the last run failed and somebody still has to look.

    What audits found is settled when it is neither missing nor open any more, and PostgreSQL is the one to say so: as
    long as it does not have the run, `open_tables` knows nothing of it. A failure of any other kind stays open.
    """
    last = past.nights[0] if past.nights else None
    if last is None or last.outcome is not RunOutcome.FAILED:
        return False
    found: frozenset[str] = frozenset()
    for night in reversed(past.nights):
        if night.slot == last.slot:
            found = (found - night.audited) | night.found
    return last.run_id not in in_ledger or not found or bool(found & open_tables)


def _nights_of(past: Past, table: str, *stages: Stage) -> dict[date, list[PastTask]]:
    """The last end of each stage in each night, newest night first."""
    ends: dict[tuple[date, Stage], PastTask] = {}
    for task in reversed(past.tasks):
        if task.table == table and task.stage in (stages or Stage) and _says_something(task):
            ends[_day(task), task.stage] = task
    nights: dict[date, list[PastTask]] = {}
    for (day, _), end in ends.items():
        nights.setdefault(day, []).append(end)
    return nights


def _in_a_row(nights: Mapping[date, _Seen], bad: Callable[[_Seen], bool]) -> int:
    row = 0
    for day in sorted(nights, reverse=True):
        if not bad(nights[day]):
            break
        row += 1
    return row


def _says_something(task: PastTask) -> bool:
    """What was stopped in the middle is done again."""
    return task.reason is not Reason.CANCELLED


def _is_held(task: PastTask) -> bool:
    return task.outcome is TaskOutcome.HELD and task.reason is not Reason.OBSERVING


def _ended(night: PastNight) -> bool:
    return night.outcome is not RunOutcome.INTERRUPTED


def _day(seen: PastNight | PastTask) -> date:
    return to_utc(seen.slot).date()


def _started(seen: PastNight | PastTask) -> datetime:
    return seen.started_at


def _newest_of_each(tasks: Iterable[PastTask]) -> Iterator[PastTask]:
    counts: dict[str, int] = {}
    for task in tasks:
        counts[task.table] = counts.get(task.table, 0) + 1
        if counts[task.table] <= MOST_TASKS:
            yield task


def _newer(ours: Mapping[_Key, _Seen], theirs: Mapping[_Key, _Seen], age: Callable[[_Seen], Any]) -> dict[_Key, _Seen]:
    newer = {key: seen for key, seen in theirs.items() if key not in ours or age(seen) > age(ours[key])}
    return {**ours, **newer}


def _night_of(report: RunReport) -> PastNight:
    return PastNight(
        run_id=report.run_id,
        slot=report.slot,
        outcome=report.outcome,
        started_at=report.started_at,
        finished_at=report.finished_at,
        audited=frozenset(audit.iceberg_table for audit in report.audits),
        found=frozenset(audit.iceberg_table for audit in report.audits if audit.status in FINDINGS),
    )


def _seen(audit: AuditResult) -> PastAudit:
    counts = (audit.ch_row_count, audit.iceberg_row_count)
    clickhouse, iceberg = counts if None not in counts else (None, None)
    return PastAudit(audit.window_start, audit.run_timestamp, audit.status, clickhouse, iceberg)
