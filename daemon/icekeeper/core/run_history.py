"""What the last nights have left: which runs answered for them, how tasks ended, how the tables were, what was audited.

A run's report gives a past, the ledger gives one, and two of them are one again. Here is also what nights in a row add
up to. A night is the UTC day of a slot: whatever ran for it later, by whomever, takes the place of what ran before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from icekeeper.core.audit.days import Days, PastAudit, is_of_a_day, newest_days, past_days
from icekeeper.core.calendar import to_utc
from icekeeper.core.enums import NIGHT, AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport
from icekeeper.core.tables.state import TableHealth

# How much of the past is kept: what nights in a row add up to ends here.
MOST_NIGHTS = 30
TASKS_KEPT = timedelta(days=15)  # before the newest of each table

# So many nights in a row on which a stage is held for a table are an alert (as in config/prometheus).
HELD_NIGHTS = 3

# What has to be repaired or acknowledged. A warning lies within what the settings tolerate.
FINDINGS = frozenset({AuditStatus.MISSING_DATA, AuditStatus.ERROR})
_STOPPED = frozenset({RunOutcome.CANCELLED, RunOutcome.INTERRUPTED})

_Key = TypeVar("_Key")
_Seen = TypeVar("_Seen")


@dataclass(frozen=True, slots=True)
class PastNight:
    """A run that answered for a whole night.

    `audited`: the tables whose own day it audited; `found`: those of which that audit left something to settle;
    `older`: those of which an older day that has become worse did.
    """

    run_id: UUID
    slot: datetime
    outcome: RunOutcome
    started_at: datetime
    finished_at: datetime
    audited: frozenset[str] = frozenset()
    found: frozenset[str] = frozenset()
    older: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class PastTask:
    """How a task ended. `manual`: an operator's run had it."""

    run_id: UUID
    slot: datetime
    stage: Stage
    table: str
    outcome: TaskOutcome
    reason: Reason | None
    started_at: datetime
    manual: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """A stage was held for a table on so many nights in a row, the last of them for this reason."""

    nights: int
    reason: Reason


@dataclass(frozen=True, slots=True)
class PastHealth:
    """A table as a task of then left it."""

    at: datetime
    health: TableHealth


@dataclass(frozen=True, slots=True)
class RunHistory:
    """What is known of the last nights. `success` is the last of them that ended so.

    The last night is that of the newest day, whatever ran later for an older one. The tasks are the last of each stage
    in each night, those that began last first; an operator's are kept beside the night's own. `not_held` is when the
    last task of each stage on each table began that ends a hold. `days` are the last audits of each table's last days.
    """

    nights: tuple[PastNight, ...] = ()
    tasks: tuple[PastTask, ...] = ()
    healths: Mapping[str, PastHealth] = field(default_factory=dict)
    days: Days = field(default_factory=dict)
    not_held: Mapping[tuple[Stage, str], datetime] = field(default_factory=dict)
    success: PastNight | None = None

    def joined(self, other: RunHistory) -> RunHistory:
        """Both together. Of what both know this one's word counts, of one table's states the newer."""
        nights = {night.run_id: night for night in (*other.nights, *self.nights)}
        tasks = {(task.run_id, task.stage, task.table): task for task in (*other.tasks, *self.tasks)}
        successes = [night for night in (other.success, self.success) if night is not None]
        return RunHistory(
            nights=tuple(sorted(nights.values(), key=_order, reverse=True)[:MOST_NIGHTS]),
            tasks=tuple(_newest_of_each(sorted(tasks.values(), key=_started, reverse=True))),
            healths=_newer(self.healths, other.healths, lambda seen: seen.at),
            days=newest_days(_newer(self.days, other.days, lambda seen: seen.at)),
            not_held=_newer(self.not_held, other.not_held, lambda at: at),
            success=max(successes, key=_order, default=None),
        )

    def last_tasks(self) -> dict[tuple[Stage, str], PastTask]:
        """How each stage ended last on each table."""
        return {(task.stage, task.table): task for task in reversed(self.tasks)}

    @property
    def audits(self) -> dict[str, PastAudit]:
        """The last audit of the newest day of each table."""
        return {table: self.days[table, day] for table, day in sorted(self.days)}

    @property
    def last(self) -> PastNight | None:
        """The last night."""
        return self.nights[0] if self.nights else None

    @property
    def last_success(self) -> datetime | None:
        """When the last night that was a success ended."""
        return self.success.finished_at if self.success is not None else None


def is_night(report: RunReport, stages: Iterable[Stage], tables: Iterable[str], enabled: Iterable[str]) -> bool:
    """Whether a run answers for a night; says the same as answered.sql.

    An operator's does if it was not stopped, went through all stages on all enabled tables, and audited the slot's day.
    """
    if report.trigger is not Trigger.MANUAL:
        return True
    whole = set(stages) >= set(NIGHT) and set(tables) >= set(enabled)
    own = (audit for audit in report.audits if audit.worse is None)
    return whole and report.outcome not in _STOPPED and all(map(is_of_a_day, own))


def past_of(report: RunReport, *, night: bool) -> RunHistory:
    """What a run has left; `night` as `is_night` says."""
    nights = (_night_of(report),) if night else ()
    run_id, slot, manual = report.run_id, report.slot, report.trigger is Trigger.MANUAL
    return replace(
        past_of_tasks(
            PastTask(run_id, slot, task.stage, task.table, task.outcome, task.reason, task.started_at, manual)
            for task in report.tasks
        ),
        nights=nights,
        # In their order, so that the stage that came last has the word.
        healths={task.table: PastHealth(task.started_at, task.after) for task in report.tasks if task.after},
        days=past_days(report.audits),
        success=nights[0] if nights and report.outcome is RunOutcome.SUCCESS else None,
    )


def past_of_tasks(tasks: Iterable[PastTask]) -> RunHistory:
    """What tasks of any order have left. What was stopped in the middle is done again, and says nothing."""
    kept = sorted((task for task in tasks if task.reason is not Reason.CANCELLED), key=_started, reverse=True)
    ends = {(task.stage, task.table): task.started_at for task in reversed(kept) if _ends_hold(task)}
    return RunHistory(tasks=tuple(_newest_of_each(kept)), not_held=ends)


# --- what nights in a row add up to


def partial_nights(past: RunHistory) -> int:
    """How many of the last nights ended as `partial`, one after the other. An interrupted run says nothing."""
    nights = {_day(night): night.outcome for night in reversed(past.nights) if _ended(night)}
    return _in_a_row(nights, lambda outcome: outcome is RunOutcome.PARTIAL)


def missed_nights(past: RunHistory) -> int:
    """How many of the last nights no run has answered for: a run was missed, and no other one came to its end.

    The oldest day doesn't count where older runs may have been left out: one of them may have answered for it.
    """
    nights: dict[date, set[RunOutcome]] = {}
    for night in past.nights:
        if _ended(night):
            nights.setdefault(_day(night), set()).add(night.outcome)
    if len(past.nights) == MOST_NIGHTS:
        nights.pop(_day(past.nights[-1]), None)
    return sum(outcomes == {RunOutcome.MISSED} for outcomes in nights.values())


def failed_nights(past: RunHistory) -> dict[str, int]:
    """In how many of each table's last nights a task of it failed, one after the other."""
    tables: dict[str, dict[date, dict[Stage, PastTask]]] = {}
    for task in past.tasks:
        if task.stage is Stage.REPAIR:  # an operator's, and no night's
            continue
        tables.setdefault(task.table, {}).setdefault(_day(task), {}).setdefault(task.stage, task)
    return {table: _in_a_row(nights, _has_failed) for table, nights in tables.items()}


def holds(past: RunHistory) -> dict[tuple[Stage, str], Hold]:
    """The stages that were held for a table on its last nights, one after the other.

    A hold ends with a task that did the work, had none to do, or only observed, whichever run and slot it was of. A
    night whose task failed neither ends nor lengthens it: the table is no better for it, and the failure is counted
    by `failed_nights`. Operators' attempts that were held are no nights.
    """
    held: dict[tuple[Stage, str], list[PastTask]] = {}
    for task in past.tasks:
        since = past.not_held.get((task.stage, task.table))
        if task.outcome is TaskOutcome.HELD and not task.manual and (since is None or task.started_at > since):
            held.setdefault((task.stage, task.table), []).append(task)
    return {key: Hold(len(set(map(_day, tasks))), tasks[0].reason or Reason.UNEXPECTED) for key, tasks in held.items()}


def failure_is_open(past: RunHistory, in_ledger: Set[UUID], open_tables: Set[str]) -> bool:
    """Whether the last run failed and still needs attention.

    What audits found is settled when it is neither missing nor open any more, and PostgreSQL is the one to say so: as
    long as it does not have the run, `open_tables` knows nothing of it. A failure of any other kind stays open.
    """
    last = past.last
    if last is None or last.outcome is not RunOutcome.FAILED:
        return False
    found: frozenset[str] = frozenset()
    older: frozenset[str] = frozenset()
    for night in reversed(past.nights):
        if night.slot == last.slot:
            found, older = (found - night.audited) | night.found, older | night.older
    found |= older
    return last.run_id not in in_ledger or not found or bool(found & open_tables)


def _in_a_row(nights: Mapping[date, _Seen], bad: Callable[[_Seen], bool]) -> int:
    row = 0
    for day in sorted(nights, reverse=True):
        if not bad(nights[day]):
            break
        row += 1
    return row


def _has_failed(night: Mapping[Stage, PastTask]) -> bool:
    return any(task.outcome is TaskOutcome.FAILED for task in night.values())


def _ends_hold(task: PastTask) -> bool:
    return task.outcome in (TaskOutcome.DONE, TaskOutcome.SKIPPED) or task.reason is Reason.OBSERVING


def _ended(night: PastNight) -> bool:
    return night.outcome is not RunOutcome.INTERRUPTED


def _day(seen: PastNight | PastTask) -> date:
    return to_utc(seen.slot).date()


def _order(night: PastNight) -> tuple[date, datetime]:
    return _day(night), night.started_at


def _started(task: PastTask) -> datetime:
    return task.started_at


def _newest_of_each(tasks: Iterable[PastTask]) -> Iterator[PastTask]:
    """Of tasks that come newest first; says the same as last_tasks.sql."""
    newest: dict[str, datetime] = {}
    found: set[tuple[str, Stage, date, bool]] = set()
    for task in tasks:
        one = (task.table, task.stage, _day(task), task.manual)
        if one not in found and task.started_at > newest.setdefault(task.table, task.started_at) - TASKS_KEPT:
            found.add(one)
            yield task


def _newer(ours: Mapping[_Key, _Seen], theirs: Mapping[_Key, _Seen], age: Callable[[_Seen], Any]) -> dict[_Key, _Seen]:
    newer = {key: seen for key, seen in theirs.items() if key not in ours or age(seen) > age(ours[key])}
    return {**ours, **newer}


def _night_of(report: RunReport) -> PastNight:
    found = [audit for audit in report.audits if audit.status in FINDINGS]
    return PastNight(
        run_id=report.run_id,
        slot=report.slot,
        outcome=report.outcome,
        started_at=report.started_at,
        finished_at=report.finished_at,
        audited=frozenset(audit.iceberg_table for audit in report.audits if audit.worse is None),
        found=frozenset(audit.iceberg_table for audit in found if audit.worse is None),
        older=frozenset(audit.iceberg_table for audit in found if audit.worse),
    )
