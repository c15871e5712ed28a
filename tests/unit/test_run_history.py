"""What the last nights add up to: which runs answer for one, what is joined of two pasts, what comes in a row."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import pytest

from icekeeper.core.enums import NIGHT, AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import (
    MOST_NIGHTS,
    TASKS_KEPT,
    Hold,
    RunHistory,
    failed_nights,
    failure_is_open,
    holds,
    is_night,
    missed_nights,
    partial_nights,
    past_of,
)
from icekeeper.core.runs import RunReport, StageResult
from tests.unit.builders import DAY, HOUR, SLOT, health, result
from tests.unit.reports import AUDIT

A, B = "cold.a", "cold.b"
SUCCESS, PARTIAL, FAILED = RunOutcome.SUCCESS, RunOutcome.PARTIAL, RunOutcome.FAILED
MISSED, INTERRUPTED = RunOutcome.MISSED, RunOutcome.INTERRUPTED
COMPACTED, NOT_COMPACTED = result(TaskOutcome.DONE), result(TaskOutcome.FAILED, reason=Reason.DEADLINE)
HELD = result(TaskOutcome.HELD, Stage.EXPIRE, reason=Reason.AUDIT_HOLD)


def run(
    day: int,
    outcome: RunOutcome = SUCCESS,
    *tasks: StageResult,
    after: timedelta = timedelta(0),
    night: bool = True,
    hour: int = 0,
    audits: dict[str, AuditStatus] | None = None,
    trigger: Trigger = Trigger.SCHEDULE,
) -> RunHistory:
    """What a run leaves that answers for the slot so many days and hours on, and begins so long after it."""
    slot = SLOT + day * DAY + hour * HOUR
    at = slot + after
    rows = [
        replace(
            AUDIT,
            slot=at,
            iceberg_table=table,
            status=status,
            run_timestamp=at + HOUR,
            window_start=(at - DAY).replace(hour=0),
            window_end=at.replace(hour=0),
        )
        for table, status in (audits or {}).items()
    ]
    report = RunReport(
        run_id=uuid4(),
        slot=slot,
        trigger=trigger,
        outcome=outcome,
        started_at=at,
        finished_at=at + HOUR,
        settings_hash="",
        tasks=tuple(replace(task, started_at=at) for task in tasks),
        audits=tuple(rows),
    )
    return past_of(report, night=night)


def held_nights(past: RunHistory, stage: Stage = Stage.EXPIRE) -> dict[str, int]:
    """In how many nights in a row the stage was held, by table; only the tables where it is."""
    return {table: hold.nights for (held, table), hold in holds(past).items() if held is stage}


def together(*pasts: RunHistory) -> RunHistory:
    past = RunHistory()
    for one in pasts:
        past = one.joined(past)
    return past


# --- which runs answer for a night


@pytest.mark.parametrize(
    ("trigger", "stages", "tables", "answers"),
    [
        (Trigger.SCHEDULE, (), (), True),  # a slot that was closed without a run says no stages
        (Trigger.RESUME, NIGHT, (A,), True),
        (Trigger.MANUAL, NIGHT, (A, B), True),
        (Trigger.MANUAL, NIGHT, (A,), False),
        (Trigger.MANUAL, (Stage.AUDIT,), (A, B), False),
    ],
)
def test_an_operators_run_answers_for_a_night_if_it_goes_through_all_of_it(
    trigger: Trigger, stages: tuple[Stage, ...], tables: tuple[str, ...], answers: bool
) -> None:
    report = RunReport(UUID(int=1), SLOT, trigger, SUCCESS, SLOT, SLOT, "", (), (AUDIT,))
    assert is_night(report, stages, tables, (A, B)) is answers


@pytest.mark.parametrize("outcome", RunOutcome)
def test_an_operators_run_that_was_stopped_answers_for_no_night(outcome: RunOutcome) -> None:
    report = RunReport(UUID(int=1), SLOT, Trigger.MANUAL, outcome, SLOT, SLOT, "", (), ())
    stopped = outcome in (RunOutcome.CANCELLED, RunOutcome.INTERRUPTED)
    assert is_night(report, NIGHT, (A,), (A,)) is not stopped
    assert is_night(replace(report, trigger=Trigger.CATCH_UP), NIGHT, (A,), (A,))


def test_a_run_that_answers_for_no_night_tells_of_its_tables_all_the_same() -> None:
    past = run(0, SUCCESS, replace(COMPACTED, after=health(3)), night=False, audits={A: AuditStatus.OK})
    assert (past.nights, past.last_success) == ((), None)
    assert past.healths[A].health == health(3)
    assert past.audits[A].status is AuditStatus.OK


# --- two pasts


def test_of_two_pasts_the_newer_state_counts_whichever_comes_first() -> None:
    old = run(0, SUCCESS, replace(COMPACTED, after=health(9)), audits={A: AuditStatus.OK})
    new = run(1, FAILED, replace(COMPACTED, after=health(3)), audits={A: AuditStatus.MISSING_DATA})
    for past in (old.joined(new), new.joined(old), new.joined(old).joined(old)):
        assert past.nights == (*new.nights, *old.nights)
        assert past.healths[A].health == health(3)
        assert past.audits[A].status is AuditStatus.MISSING_DATA
        assert past.last_success == SLOT + HOUR
        assert len(past.tasks) == 2


def test_an_audit_of_an_older_day_takes_no_newer_ones_place_and_one_counted_again_does() -> None:
    last = run(1, audits={A: AuditStatus.MISSING_DATA})
    assert together(last, run(0, after=2 * DAY, audits={A: AuditStatus.OK})).audits[A].status is AuditStatus.OK
    older = run(0, audits={A: AuditStatus.OK})
    assert together(last, older).audits[A].status is AuditStatus.MISSING_DATA
    again = run(1, after=HOUR, audits={A: AuditStatus.OK})
    assert together(last, again).audits[A].status is AuditStatus.OK


def test_an_operators_window_is_no_days_audit() -> None:
    hours = replace(AUDIT, window_start=AUDIT.window_end - 6 * HOUR)
    report = RunReport(UUID(int=1), SLOT, Trigger.MANUAL, SUCCESS, SLOT, SLOT, "", (), (hours,))
    assert past_of(report, night=False).audits == {}
    assert not is_night(report, NIGHT, (A,), (A,))
    assert is_night(replace(report, trigger=Trigger.SCHEDULE), NIGHT, (A,), (A,))


def test_the_last_night_is_that_of_the_newest_day_whatever_ran_later_for_an_older_one() -> None:
    failed, repaired = run(1, FAILED), run(0, SUCCESS, after=2 * DAY)
    for past in (together(failed, repaired), together(repaired, failed)):
        assert past.nights == (*failed.nights, *repaired.nights)
    last = together(run(0), failed, repaired, run(1, PARTIAL, after=HOUR))
    assert [night.outcome for night in last.nights] == [PARTIAL, FAILED, SUCCESS, SUCCESS]


def test_what_ran_for_an_older_night_is_not_the_last_success() -> None:
    past = together(run(2), run(0, after=4 * DAY))
    assert past.last_success == SLOT + 2 * DAY + HOUR
    assert together(past, run(3, FAILED)).success == past.success


def test_the_past_is_bounded() -> None:
    past = together(*(run(day, SUCCESS, COMPACTED, HELD) for day in range(3 * MOST_NIGHTS)))
    assert len(past.nights) == MOST_NIGHTS
    assert len(past.tasks) == 2 * TASKS_KEPT.days
    assert past.nights[0].slot == SLOT + (3 * MOST_NIGHTS - 1) * DAY


def test_an_hourly_schedule_has_as_many_nights_as_any_other() -> None:
    runs = [run(day, PARTIAL, NOT_COMPACTED, HELD, hour=hour) for day in range(20) for hour in range(20)]
    past = together(*runs)
    assert len(past.tasks) == 2 * TASKS_KEPT.days
    assert (failed_nights(past), held_nights(past)) == ({A: 15}, {A: 15})
    assert failed_nights(together(past, run(19, SUCCESS, COMPACTED, hour=20))) == {A: 0}


def test_the_tasks_that_are_kept_are_those_before_the_newest_of_their_table() -> None:
    past = together(run(0, SUCCESS, NOT_COMPACTED), run(30, SUCCESS, replace(COMPACTED, table=B)))
    assert failed_nights(past) == {A: 1, B: 0}


# --- nights in a row


@pytest.mark.parametrize(
    ("outcomes", "row"),
    [
        ([], 0),
        ([SUCCESS], 0),
        ([PARTIAL], 1),
        ([PARTIAL, SUCCESS], 0),
        ([SUCCESS, PARTIAL, PARTIAL], 2),
        ([PARTIAL, FAILED, PARTIAL], 1),
        ([PARTIAL, PARTIAL, RunOutcome.INTERRUPTED], 2),
    ],
)
def test_partial_nights_in_a_row(outcomes: list[RunOutcome], row: int) -> None:
    assert partial_nights(together(*(run(day, outcome) for day, outcome in enumerate(outcomes)))) == row


def test_what_runs_later_for_the_same_night_takes_the_place_of_what_ran_before() -> None:
    nights = [run(0, PARTIAL, NOT_COMPACTED), run(1, PARTIAL, NOT_COMPACTED)]
    past = together(*nights)
    assert (partial_nights(past), failed_nights(past)) == (2, {A: 2})
    repaired = together(*nights, run(1, SUCCESS, COMPACTED, after=HOUR))
    assert (partial_nights(repaired), failed_nights(repaired)) == (0, {A: 0})


def test_a_table_fails_night_after_night_whichever_task_does() -> None:
    not_expired = result(TaskOutcome.FAILED, Stage.EXPIRE, reason=Reason.STORAGE_DOWN)
    past = together(
        run(0, PARTIAL, COMPACTED),
        run(1, PARTIAL, NOT_COMPACTED),
        run(2, PARTIAL, COMPACTED, not_expired),
        run(3, PARTIAL, NOT_COMPACTED, result(TaskOutcome.DONE, table=B)),
    )
    assert failed_nights(past) == {A: 3, B: 0}


def test_a_task_that_was_stopped_in_the_middle_says_nothing() -> None:
    stopped = result(TaskOutcome.FAILED, reason=Reason.CANCELLED)
    past = together(run(0, PARTIAL, NOT_COMPACTED), run(1, RunOutcome.CANCELLED, stopped))
    assert failed_nights(past) == {A: 1}
    assert past.last_tasks()[Stage.COMPACT, A].reason is Reason.DEADLINE


def test_an_expiry_that_is_held_is_counted_unless_the_night_only_observes() -> None:
    observing = replace(HELD, reason=Reason.OBSERVING)
    past = together(run(0, SUCCESS, observing), run(1, SUCCESS, HELD, NOT_COMPACTED), run(2, SUCCESS, HELD, COMPACTED))
    assert held_nights(past) == {A: 2}
    assert held_nights(together(past, run(3, SUCCESS, observing))) == {}


def held(reason: Reason = Reason.OFFLOAD_RUNNING) -> StageResult:
    return result(TaskOutcome.HELD, reason=reason)


OPERATORS, SKIPPED = Trigger.MANUAL, result(TaskOutcome.SKIPPED, reason=Reason.NOTHING_SMALL)


@pytest.mark.parametrize(
    ("runs", "row"),
    [
        ([], 0),
        ([run(0, SUCCESS, COMPACTED)], 0),
        ([run(0, SUCCESS, held())], 1),
        ([run(day, SUCCESS, held()) for day in range(4)], 4),
        ([run(0, SUCCESS, held()), run(1, SUCCESS, COMPACTED), run(2, SUCCESS, held())], 1),
        ([run(0, SUCCESS, held()), run(1, SUCCESS, SKIPPED)], 0),
        # Each night for another reason.
        ([run(day, SUCCESS, held(reason)) for day, reason in enumerate((Reason.DISK_LOW, Reason.BUDGET))], 2),
        # Only observing ends it and does not count.
        ([run(0, SUCCESS, held()), run(1, SUCCESS, held(Reason.OBSERVING)), run(2, SUCCESS, held())], 1),
        ([run(day, SUCCESS, held(Reason.OBSERVING)) for day in range(7)], 0),
        # A failed night and a stopped one neither end nor lengthen it.
        ([run(0, SUCCESS, held()), run(1, PARTIAL, NOT_COMPACTED), run(2, SUCCESS, held())], 2),
        ([run(0, SUCCESS, held()), run(1, RunOutcome.CANCELLED, held(Reason.CANCELLED))], 1),
        # Nights that did not take place are no nights.
        ([run(0, SUCCESS, held()), run(4, RunOutcome.MISSED), run(5, SUCCESS, held())], 2),
        # Attempts of one slot are one night, and the last of them counts.
        ([run(0, INTERRUPTED, held()), run(0, SUCCESS, held(), after=HOUR, trigger=Trigger.RESUME)], 1),
        ([run(0, INTERRUPTED, held()), run(0, SUCCESS, COMPACTED, after=HOUR, trigger=Trigger.RESUME)], 0),
        # So are the slots of a day.
        ([run(day, SUCCESS, held(), hour=hour) for day in range(2) for hour in range(20)], 2),
        ([run(day, SUCCESS, task, hour=hour) for day in range(3) for hour, task in enumerate((COMPACTED, held()))], 1),
        # A slot that is caught up late.
        ([run(0, SUCCESS, held()), run(1, SUCCESS, held(), after=9 * HOUR, trigger=Trigger.CATCH_UP)], 2),
        # An operator's run ends it, whichever slot it is of; one that is held itself is no night.
        ([run(0, SUCCESS, held()), run(0, SUCCESS, COMPACTED, after=HOUR, trigger=OPERATORS)], 0),
        ([run(7, SUCCESS, held()), run(1, SUCCESS, COMPACTED, after=7 * DAY, trigger=OPERATORS)], 0),
        ([run(0, SUCCESS, held()), run(0, SUCCESS, held(), after=HOUR, trigger=OPERATORS)], 1),
        ([run(0, SUCCESS, held()), run(0, PARTIAL, NOT_COMPACTED, after=HOUR, trigger=OPERATORS)], 1),
        ([run(day, SUCCESS, held(), trigger=OPERATORS) for day in range(3)], 0),
        ([run(0, SUCCESS, COMPACTED), run(0, SUCCESS, held(), after=HOUR, trigger=OPERATORS)], 0),
    ],
)
def test_nights_in_a_row_that_a_stage_is_held(runs: list[RunHistory], row: int) -> None:
    for past in (together(*runs), together(*reversed(runs))):
        assert held_nights(past, Stage.COMPACT).get(A, 0) == row


def test_each_stage_of_each_table_has_a_hold_of_its_own_and_the_last_nights_reason() -> None:
    past = together(
        run(0, SUCCESS, held(), replace(held(), table=B), HELD),
        run(1, SUCCESS, held(Reason.DISK_LOW), replace(COMPACTED, table=B), HELD),
    )
    assert holds(past) == {
        (Stage.COMPACT, A): Hold(2, Reason.DISK_LOW),
        (Stage.EXPIRE, A): Hold(2, Reason.AUDIT_HOLD),
    }


def test_a_failure_that_an_operator_repaired_is_no_failed_night() -> None:
    failed = run(0, PARTIAL, NOT_COMPACTED)
    assert failed_nights(together(failed, run(0, SUCCESS, COMPACTED, after=HOUR, trigger=OPERATORS))) == {A: 0}


def test_a_task_that_was_stopped_takes_no_others_place() -> None:
    stopped = result(TaskOutcome.FAILED, reason=Reason.CANCELLED)
    past = together(run(0, PARTIAL, NOT_COMPACTED), run(0, RunOutcome.CANCELLED, stopped, after=HOUR))
    assert failed_nights(past) == {A: 1}


@pytest.mark.parametrize(
    ("runs", "missed"),
    [
        ([], 0),
        ([run(0), run(1)], 0),
        ([run(0, MISSED), run(1, MISSED), run(2)], 2),
        ([run(0, MISSED), run(1), run(0, after=2 * DAY)], 0),  # an operator's, later
        ([run(0, MISSED), run(0, MISSED, hour=1), run(0, PARTIAL, hour=2)], 0),
        ([run(0, PARTIAL), run(0, MISSED, hour=1)], 0),
        ([run(0, MISSED), run(0, MISSED, hour=1)], 1),
        ([run(0, INTERRUPTED), run(0, MISSED, after=DAY)], 1),
        (
            [run(0, MISSED), *(run(1, hour=hour % 20) for hour in range(MOST_NIGHTS - 1))],
            0,
        ),  # perhaps not all of its day
    ],
)
def test_nights_that_no_run_answered_for(runs: list[RunHistory], missed: int) -> None:
    assert missed_nights(together(*runs)) == missed


# --- whether a failure is still somebody's business


def ids(past: RunHistory) -> set[UUID]:
    return {night.run_id for night in past.nights}


def test_a_failure_that_audits_found_is_open_until_nothing_of_it_is() -> None:
    past = run(0, FAILED, audits={A: AuditStatus.MISSING_DATA, B: AuditStatus.OK})
    assert failure_is_open(past, ids(past), {A})
    assert not failure_is_open(past, ids(past), {B})  # of another night
    assert not failure_is_open(past, ids(past), set())


def test_as_long_as_the_ledger_has_not_got_the_run_nothing_is_settled() -> None:
    past = run(0, FAILED, audits={A: AuditStatus.ERROR})
    assert failure_is_open(past, set(), set())


def test_a_failure_without_a_finding_can_not_be_acknowledged() -> None:
    past = run(0, FAILED)
    assert failure_is_open(past, ids(past), set())
    assert not failure_is_open(together(past, run(1)), set(), {A})
    assert not failure_is_open(RunHistory(), set(), {A})


def test_a_resumed_run_answers_for_what_the_run_before_it_found() -> None:
    first = run(0, RunOutcome.INTERRUPTED, audits={A: AuditStatus.MISSING_DATA, B: AuditStatus.ERROR})
    past = together(first, run(0, FAILED, after=HOUR, audits={B: AuditStatus.OK}))
    assert failure_is_open(past, ids(past), {A})
    assert not failure_is_open(past, ids(past), {B})


def test_two_days_of_a_zone_are_one_night_in_utc() -> None:
    berlin = datetime.fromisoformat("2026-02-18T00:30+01:00")
    late = run(0, PARTIAL)
    early = replace(late, nights=(replace(late.nights[0], run_id=uuid4(), slot=berlin),))
    assert partial_nights(together(early, run(-1, PARTIAL, after=timedelta(minutes=5)))) == 1
