"""What becomes of open slots, and what a run takes over from the slot's runs before it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.history import PastRun
from icekeeper.core.reasons import Reason
from icekeeper.core.resuming import closing_report, decide, earlier_work, interrupted_report
from icekeeper.core.runs import StageResult
from tests.unit.builders import SLOT
from tests.unit.reports import AUDIT

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
LIMIT = timedelta(hours=12)
A, B = "cold.a", "cold.b"


def result(
    stage: Stage, table: str, outcome: TaskOutcome = TaskOutcome.DONE, reason: Reason | None = None
) -> StageResult:
    return StageResult(stage, table, outcome, reason, "", 1, SLOT, 1.0)


def counted(table: str, status: AuditStatus = AuditStatus.OK) -> AuditResult:
    return replace(AUDIT, iceberg_table=table, status=status)


def past(
    slot: datetime = SLOT,
    trigger: Trigger = Trigger.SCHEDULE,
    outcome: RunOutcome | None = RunOutcome.INTERRUPTED,
    *,
    tasks: tuple[StageResult, ...] = (),
    audits: tuple[AuditResult, ...] = (),
    in_flight: tuple[Stage, str] | None = None,
) -> PastRun:
    return PastRun(
        uuid4(), slot, trigger, slot, outcome, "host", "hash", tasks=tasks, audits=audits, in_flight=in_flight
    )


def verdicts(
    slots: dict[datetime, Trigger], now: datetime, runs: dict[datetime, tuple[PastRun, ...]] | None = None
) -> list[tuple[datetime, Trigger, RunOutcome | None]]:
    return [(one.slot, one.trigger, one.outcome) for one in decide(slots, runs or {}, now, LIMIT)]


def test_a_slot_that_is_due_is_run() -> None:
    assert verdicts({SLOT: Trigger.SCHEDULE}, SLOT) == [(SLOT, Trigger.SCHEDULE, None)]


def test_down_at_two_and_started_at_half_past_the_night_is_done_once() -> None:
    now = SLOT + timedelta(minutes=30)
    assert verdicts({SLOT: Trigger.CATCH_UP}, now) == [(SLOT, Trigger.CATCH_UP, None)]


def test_started_three_days_later_one_night_is_done_and_the_others_are_missed() -> None:
    slots = {SLOT + day * DAY: Trigger.CATCH_UP for day in range(4)}
    assert verdicts(slots, SLOT + 3 * DAY + HOUR) == [
        *((SLOT + day * DAY, Trigger.CATCH_UP, RunOutcome.MISSED) for day in range(3)),
        (SLOT + 3 * DAY, Trigger.CATCH_UP, None),
    ]


@pytest.mark.parametrize(("late", "outcome"), [(LIMIT - timedelta(seconds=1), None), (LIMIT, RunOutcome.MISSED)])
def test_a_slot_is_caught_up_while_it_is_younger_than_the_limit(late: timedelta, outcome: RunOutcome | None) -> None:
    assert verdicts({SLOT: Trigger.CATCH_UP}, SLOT + late) == [(SLOT, Trigger.CATCH_UP, outcome)]


def test_of_hourly_slots_that_audit_the_same_day_only_the_last_is_run() -> None:
    slots = {SLOT + hour * HOUR: Trigger.CATCH_UP for hour in range(3)}
    found = verdicts(slots, SLOT + 2 * HOUR)
    assert [outcome for _, _, outcome in found] == [RunOutcome.MISSED, RunOutcome.MISSED, None]


def test_a_slot_whose_run_did_not_end_is_resumed_twice_and_then_given_up() -> None:
    slots, now = {SLOT: Trigger.SCHEDULE}, SLOT + HOUR
    runs = [past()]
    for _ in range(2):
        assert verdicts(slots, now, {SLOT: tuple(runs)}) == [(SLOT, Trigger.RESUME, None)]
        runs.append(past(trigger=Trigger.RESUME))
    assert verdicts(slots, now, {SLOT: tuple(runs)}) == [(SLOT, Trigger.RESUME, RunOutcome.FAILED)]


def test_a_slot_that_is_given_up_is_recorded_with_the_task_that_the_process_died_at() -> None:
    runs = (past(), past(trigger=Trigger.RESUME), past(trigger=Trigger.RESUME, in_flight=(Stage.COMPACT, A)))
    (decision,) = decide({SLOT: Trigger.SCHEDULE}, {SLOT: runs}, SLOT + HOUR, LIMIT)
    report = closing_report(decision, runs, UUID(int=1), SLOT + HOUR, "hash")
    assert (report.outcome, report.slot, report.duration_s) == (RunOutcome.FAILED, SLOT, 0)
    assert [(task.table, task.reason) for task in report.tasks] == [(A, Reason.PROCESS_DIED)]


def test_a_missed_slot_is_recorded_without_tasks() -> None:
    (decision,) = decide({SLOT: Trigger.CATCH_UP}, {}, SLOT + DAY, LIMIT)
    report = closing_report(decision, (), UUID(int=1), SLOT + DAY, "hash")
    assert (report.outcome, report.tasks, report.trigger) == (RunOutcome.MISSED, (), Trigger.CATCH_UP)


def test_a_dead_run_keeps_what_it_had_done_and_names_what_it_was_at() -> None:
    done, audit = result(Stage.COMPACT, A), counted(A)
    run = past(outcome=None, tasks=(done,), audits=(audit,), in_flight=(Stage.EXPIRE, A))
    report = interrupted_report(run, SLOT + HOUR)
    assert (report.run_id, report.outcome, report.audits) == (run.run_id, RunOutcome.INTERRUPTED, (audit,))
    assert report.tasks[0] == done
    assert (report.tasks[1].stage, report.tasks[1].reason) == (Stage.EXPIRE, Reason.PROCESS_DIED)


def test_an_audit_that_counted_stands_and_one_that_could_not_is_owed() -> None:
    found = earlier_work([past(audits=(counted(A, AuditStatus.MISSING_DATA), counted(B, AuditStatus.ERROR)))])
    assert found.counted == {(A, counted(A).window)}


def test_audits_fold_and_are_owed_by_their_table_and_window() -> None:
    """An older day that was audited again stands beside the night's own, and decides only where it has become worse."""
    own, older = counted(A), replace(counted(A, AuditStatus.MISSING_DATA), worse=False)
    older = replace(older, window_start=older.window_start - DAY, window_end=older.window_end - DAY)
    found = earlier_work([past(audits=(own, older))])
    assert found.audits == (own, older)
    assert found.counted == {(A, own.window), (A, older.window)}
    done = [result(Stage.AUDIT, A)]
    assert found.fold(done, ()) is RunOutcome.SUCCESS
    assert found.fold(done, [replace(older, worse=True)]) is RunOutcome.FAILED
    assert found.fold(done, [replace(own, status=AuditStatus.MISSING_DATA)]) is RunOutcome.FAILED


def test_a_task_is_deadly_after_two_deaths_and_another_one_after_one_is_not() -> None:
    task = (Stage.COMPACT, A)
    once = earlier_work([past(in_flight=task), past(in_flight=(Stage.COMPACT, B))])
    assert once.deadly == frozenset()
    assert earlier_work([past(in_flight=task), past(in_flight=task)]).deadly == {task}


def test_a_death_on_another_host_counts_by_its_record() -> None:
    task = (Stage.COMPACT, A)
    settled = interrupted_report(past(outcome=None, in_flight=task), SLOT + HOUR)
    elsewhere = past(tasks=settled.tasks)  # what the ledger has of it: the task, and no flight any more
    assert earlier_work([elsewhere, past(in_flight=task)]).deadly == {task}
    # That it was set aside is no third death, and no second one either.
    left_alone = replace(result(Stage.COMPACT, A, TaskOutcome.FAILED, Reason.PROCESS_DIED), attempts=0)
    assert earlier_work([elsewhere, past(tasks=(left_alone,))]).deadly == frozenset()


def test_the_outcome_of_a_resumed_run_is_the_slots() -> None:
    audited = result(Stage.AUDIT, A)
    failed = result(Stage.COMPACT, B, TaskOutcome.FAILED, Reason.CONFLICT)
    first = earlier_work([past(tasks=(failed, audited), audits=(counted(A, AuditStatus.MISSING_DATA),))])
    # The compaction went well this time; the audit of the first run stands.
    assert first.fold([result(Stage.COMPACT, B)], []) is RunOutcome.FAILED
    clean = earlier_work([past(tasks=(failed, audited), audits=(counted(A),))])
    assert clean.fold([result(Stage.COMPACT, B)], []) is RunOutcome.SUCCESS
    assert clean.fold([], []) is RunOutcome.PARTIAL


def test_what_a_stop_cancelled_says_nothing_of_the_slot() -> None:
    stopped = result(Stage.COMPACT, A, TaskOutcome.FAILED, Reason.CANCELLED)
    assert earlier_work([past(tasks=(stopped,))]).tasks == ()
