"""What becomes of open slots, and what a run takes over from its slot's earlier runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.formats import iso_minute
from icekeeper.core.history import PastRun
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport, StageResult, outcome_of

# How often a slot is resumed after a run that did not end.
MOST_RESUMES = 2
# A task that was under way when the process died so often is not tried again.
DEADLY = 2


@dataclass(frozen=True, slots=True)
class EarlierWork:
    """What the slot's earlier runs have done; all empty for its first.

    `counted` are the windows of tables whose audit is valid and not repeated, `deadly` the tasks that the process died
    at twice. `runs`: how many there were.
    """

    tasks: tuple[StageResult, ...] = ()
    audits: tuple[AuditResult, ...] = ()
    counted: frozenset[tuple[str, Window]] = frozenset()
    deadly: frozenset[tuple[Stage, str]] = frozenset()
    runs: int = 0

    def fold(self, tasks: Iterable[StageResult], audits: Iterable[AuditResult]) -> RunOutcome:
        """The outcome of the slot: of each task, and of each audited window of a table, the latest counts."""
        all_tasks = {(task.stage, task.table): task for task in self.tasks}
        all_tasks.update({(task.stage, task.table): task for task in tasks})
        all_audits = latest_audits((*self.audits, *audits))
        return outcome_of(all_tasks.values(), (audit.status for audit in all_audits if audit.decides))


def latest_audits(audits: Iterable[AuditResult]) -> tuple[AuditResult, ...]:
    """Of audits in their order the last of each window of a table."""
    return tuple({(audit.iceberg_table, audit.window): audit for audit in audits}.values())


def earlier_work(runs: Sequence[PastRun]) -> EarlierWork:
    """What a slot's runs, oldest first, have done for the next one."""
    audits = latest_audits(audit for run in runs for audit in run.audits)
    tasks: dict[tuple[Stage, str], StageResult] = {}
    deaths: dict[tuple[Stage, str], int] = {}
    for run in runs:
        # A task that was cancelled is done again.
        tasks.update({(one.stage, one.table): one for one in run.tasks if one.reason is not Reason.CANCELLED})
        # Also by its task's record: of a run that another host has settled there is nothing else.
        died = {(one.stage, one.table) for one in run.tasks if one.reason is Reason.PROCESS_DIED and one.attempts}
        if run.in_flight is not None:
            died.add(run.in_flight)
        for task in died:
            deaths[task] = deaths.get(task, 0) + 1
    return EarlierWork(
        tasks=tuple(tasks.values()),
        audits=audits,
        counted=frozenset(
            (audit.iceberg_table, audit.window) for audit in audits if audit.status is not AuditStatus.ERROR
        ),
        deadly=frozenset(task for task, times in deaths.items() if times >= DEADLY),
        runs=len(runs),
    )


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do with an open slot: run it (`outcome` None), or close it with an outcome, and why."""

    slot: datetime
    trigger: Trigger
    outcome: RunOutcome | None
    why: str


def decide(
    slots: Mapping[datetime, Trigger], runs: Mapping[datetime, tuple[PastRun, ...]], now: datetime, catch_up: timedelta
) -> tuple[Decision, ...]:
    """What becomes of the open slots, oldest first. `slots` with the trigger that a first run of each would have.

    A slot whose run did not end is resumed, at most twice. One that waited as long as `catch_up` is missed, and so is
    one whose window a later open slot audits as well: running both would do one night twice.
    """
    return tuple(_decide(slot, slots, runs.get(slot, ()), now, catch_up) for slot in sorted(slots))


def _decide(
    slot: datetime, slots: Mapping[datetime, Trigger], runs: tuple[PastRun, ...], now: datetime, catch_up: timedelta
) -> Decision:
    trigger = Trigger.RESUME if runs else slots[slot]
    later = next((one for one in slots if slot < one and window_of(one) == window_of(slot)), None)
    if sum(run.trigger is Trigger.RESUME for run in runs) >= MOST_RESUMES:
        why = f"its run was begun {len(runs)} times and never came to its end"
        return Decision(slot, trigger, RunOutcome.FAILED, why)
    if too_old(slot, now, catch_up):
        return Decision(slot, trigger, RunOutcome.MISSED, "older than schedule.catch_up")
    if later is not None:
        return Decision(slot, trigger, RunOutcome.MISSED, f"the slot {iso_minute(later)} answers for the same day")
    return Decision(slot, trigger, None, "its last run did not end" if runs else "it is due")


def too_old(slot: datetime, now: datetime, catch_up: timedelta) -> bool:
    """Whether a slot is not run any more, but recorded as missed."""
    return now - slot >= catch_up


def closing_report(
    decision: Decision, runs: tuple[PastRun, ...], run_id: UUID, now: datetime, digest: str
) -> RunReport:
    """The record of a slot that is closed without another run; a task that the process died at is in it, as failed."""
    assert decision.outcome is not None
    last = runs[-1] if runs else None
    died = decision.outcome is RunOutcome.FAILED and last is not None and last.in_flight is not None
    return RunReport(
        run_id=run_id,
        slot=decision.slot,
        trigger=decision.trigger,
        outcome=decision.outcome,
        started_at=now,
        finished_at=now,
        settings_hash=digest,
        tasks=(died_at(last, now),) if last is not None and died else (),
        audits=(),
    )


def interrupted_report(run: PastRun, now: datetime) -> RunReport:
    """The record of a run whose process died: what it had done, and what it was at."""
    tasks = run.tasks if run.in_flight is None else (*run.tasks, died_at(run, now))
    return RunReport(
        run_id=run.run_id,
        slot=run.slot,
        trigger=run.trigger,
        outcome=RunOutcome.INTERRUPTED,
        started_at=run.started_at,
        finished_at=max(now, run.started_at),
        settings_hash=run.settings_hash,
        tasks=tasks,
        audits=run.audits,
    )


def died_at(run: PastRun, now: datetime) -> StageResult:
    """The task that a run was at when its process died. How far it came, the next attempt reads from the table."""
    assert run.in_flight is not None
    stage, table = run.in_flight
    return StageResult(
        stage=stage,
        table=table,
        outcome=TaskOutcome.FAILED,
        reason=Reason.PROCESS_DIED,
        note="",
        attempts=1,
        started_at=run.started_at,
        duration_s=0.0,
        error="the process died while this was under way",
    )
