"""The night, on fakes of the ports: its order, what a failure costs, its budget, its end before its time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from structlog.typing import EventDict

from icekeeper.core.calendar import window_of
from icekeeper.core.enums import NIGHT, AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import DeadlineExceeded, IcekeeperError
from icekeeper.core.events import RunEnded, RunStarted, TaskEnded, TaskStarted
from icekeeper.core.history import PastRun
from icekeeper.core.policy import CompactPolicy, ExpirePolicy, RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.resuming import EarlierWork, earlier_work
from icekeeper.core.runs import RunReport, StageResult
from icekeeper.night.order import Order
from icekeeper.night.run import run_night
from tests.unit.builders import COMPACT_LIMITS, DAY, EXPIRE_LIMITS, HOUR, SLOT, WINDOW_START, table_policy
from tests.unit.fakes import RUN_ID, FakeTable, Step, World, does_nothing, fails, permanent, transient

pytestmark = pytest.mark.usefixtures("logs")

MINUTE = timedelta(minutes=1)
# Not in the order of the alphabet: the order is the one of the settings.
NAMES = ("cold.silver_trades", "cold.bronze_trades_kraken", "cold.gold_ohlcv_1m", "cold.bronze_trades_binance")
SILVER, KRAKEN, GOLD, BINANCE = NAMES

DONE, SKIPPED, HELD, FAILED = TaskOutcome.DONE, TaskOutcome.SKIPPED, TaskOutcome.HELD, TaskOutcome.FAILED


def order(*policies: TablePolicy, stages: tuple[Stage, ...] = NIGHT, budget: timedelta = 4 * HOUR) -> Order:
    return Order(
        run_id=RUN_ID,
        slot=SLOT,
        trigger=Trigger.SCHEDULE,
        tables=policies or tuple(map(table_policy, NAMES)),
        stages=stages,
        settings_hash="cafe",
        policy=RunPolicy(max_duration=budget),
    )


@pytest.fixture
def world() -> World:
    """Four tables with work for every stage."""
    world = World()
    for name in NAMES:
        world.add(table_policy(name))
    return world


async def night(world: World, asked: Order | None = None, lock: asyncio.Lock | None = None) -> RunReport:
    return await run_night(asked or order(), world.ports, world.events.append, lock)


def of_stage(report: RunReport, stage: Stage) -> list[StageResult]:
    return [task for task in report.tasks if task.stage is stage]


def outcomes(report: RunReport, stage: Stage) -> list[tuple[TaskOutcome, Reason | None]]:
    return [(task.outcome, task.reason) for task in of_stage(report, stage)]


def attempts(report: RunReport, stage: Stage) -> list[int]:
    return [task.attempts for task in of_stage(report, stage)]


ALL_DONE = [(DONE, None)] * 4


def source_of(table: str) -> str:
    return table.partition(".")[2]


# --- the order of things


async def test_a_night_goes_stage_by_stage_and_table_by_table(world: World) -> None:
    report = await night(world)
    assert [(task.stage, task.table) for task in report.tasks] == [(stage, name) for stage in NIGHT for name in NAMES]
    assert {task.outcome for task in report.tasks} == {DONE}
    work = [(call.method, call.table) for call in world.calls if call.method in ("compact", "expire", "count")]
    assert work == [(method, name) for method in ("compact", "expire", "count") for name in NAMES]


async def test_a_clean_night_is_a_success_and_its_report_says_what_it_answers_for(world: World) -> None:
    world.lakehouse.script("compact", GOLD, Step(takes=5 * MINUTE))
    report = await night(world)
    assert report.outcome is RunOutcome.SUCCESS
    assert (report.run_id, report.slot, report.trigger) == (RUN_ID, SLOT, Trigger.SCHEDULE)
    assert report.settings_hash == "cafe"
    assert (report.started_at, report.finished_at, report.duration_s) == (SLOT, SLOT + 5 * MINUTE, 300.0)


async def test_there_is_one_audit_row_per_table_in_order(world: World) -> None:
    report = await night(world)
    assert [audit.iceberg_table for audit in report.audits] == list(NAMES)
    assert {audit.status for audit in report.audits} == {AuditStatus.OK}
    assert {(audit.run_id, audit.slot, audit.trigger) for audit in report.audits} == {(RUN_ID, SLOT, Trigger.SCHEDULE)}
    assert {audit.window_start for audit in report.audits} == {WINDOW_START}


async def test_the_other_tables_are_prefetched_together_once_the_first_has_had_its_turn(world: World) -> None:
    await night(world)
    await night(world, order(stages=(Stage.EXPIRE, Stage.AUDIT)))
    await night(world, order(table_policy(SILVER)))
    assert world.lakehouse.ahead == [(KRAKEN, GOLD, BINANCE)]


async def test_nothing_is_prefetched_where_the_first_met_a_system_that_is_down_or_the_slot_is_run_again(
    world: World,
) -> None:
    await night(world, replace(order(), earlier=EarlierWork(counted=frozenset({(SILVER, window_of(SLOT))}))))
    world.lakehouse.script("inspect", SILVER, *[fails(transient(Reason.STORAGE_DOWN))] * 9)
    await night(world)
    assert world.lakehouse.ahead == []


async def test_what_can_not_be_prefetched_is_met_at_its_turn(world: World) -> None:
    world.lakehouse.ahead_error = transient(Reason.ENGINE_DOWN)
    report = await night(world)
    assert (report.outcome, len(world.lakehouse.ahead)) == (RunOutcome.SUCCESS, 1)


async def test_a_night_run_again_plans_to_nothing_and_still_counts(world: World) -> None:
    await night(world)
    again = await night(world)
    assert again.outcome is RunOutcome.SUCCESS
    assert outcomes(again, Stage.COMPACT) == [(SKIPPED, Reason.TOO_FEW_FILES)] * 4
    assert outcomes(again, Stage.EXPIRE) == [(SKIPPED, Reason.NOTHING_EXPIRED)] * 4
    assert outcomes(again, Stage.AUDIT) == ALL_DONE
    assert again.duration_s == 0


async def test_stages_asked_for_in_any_order_run_in_the_nights(world: World) -> None:
    report = await night(world, order(stages=(Stage.AUDIT, Stage.COMPACT)))
    assert [task.stage for task in report.tasks] == [Stage.COMPACT] * 4 + [Stage.AUDIT] * 4


async def test_one_stage_on_one_table_is_one_task(world: World) -> None:
    report = await night(world, order(table_policy(GOLD), stages=(Stage.EXPIRE,)))
    assert [(task.stage, task.table) for task in report.tasks] == [(Stage.EXPIRE, GOLD)]
    assert report.audits == ()


async def test_a_table_without_a_source_is_compacted_and_expired_and_not_audited(world: World) -> None:
    report = await night(world, order(table_policy(SILVER, audit=None), table_policy(GOLD)))
    assert [task.table for task in of_stage(report, Stage.COMPACT)] == [SILVER, GOLD]
    assert [task.table for task in of_stage(report, Stage.AUDIT)] == [GOLD]
    assert report.outcome is RunOutcome.SUCCESS


async def test_a_stage_that_is_off_for_a_table_is_no_task_of_it(world: World) -> None:
    no_compact = table_policy(SILVER, compact=CompactPolicy(COMPACT_LIMITS, enabled=False))
    no_expire = table_policy(GOLD, expire=ExpirePolicy(EXPIRE_LIMITS, enabled=False))
    report = await night(world, order(no_compact, no_expire))
    done = [(task.stage, task.table) for task in report.tasks]
    assert done == [(Stage.COMPACT, GOLD), (Stage.EXPIRE, SILVER), (Stage.AUDIT, SILVER), (Stage.AUDIT, GOLD)]
    assert report.outcome is RunOutcome.SUCCESS


async def test_a_night_of_tables_without_a_source_is_judged_as_one_without_an_audit(world: World) -> None:
    world.lakehouse.script("compact", SILVER, fails(permanent(Reason.ACCESS_DENIED)))
    policy = table_policy(SILVER, audit=None)
    assert (await night(world, order(policy, stages=(Stage.COMPACT, Stage.AUDIT)))).outcome is RunOutcome.FAILED


async def test_the_windows_hours_that_were_asked_for_are_the_audits(world: World) -> None:
    report = await night(world, replace(order(stages=(Stage.AUDIT,)), window=window_of(SLOT, 6)))
    assert {audit.audit_window_hours for audit in report.audits} == {6}
    assert {audit.window_end for audit in report.audits} == {SLOT}


async def test_a_night_without_tables_is_a_success_of_nothing(world: World) -> None:
    report = await night(world, replace(order(), tables=()))
    assert (report.outcome, report.tasks, report.audits) == (RunOutcome.SUCCESS, (), ())


async def test_subscribers_are_notified_of_the_run_and_of_each_task_with_its_place(world: World) -> None:
    report = await night(world)
    assert isinstance(world.events[0], RunStarted)
    opening = world.events[0].opening
    assert (opening.run_id, opening.slot, opening.started_at) == (RUN_ID, SLOT, SLOT)
    assert (opening.stages, opening.tables) == (NIGHT, NAMES)
    assert world.events[-1] == RunEnded(report)
    starts = world.emitted(TaskStarted)
    assert [(start.position, start.of) for start in starts] == [(number, 12) for number in range(1, 13)]
    assert [(start.stage, start.table) for start in starts] == [(task.stage, task.table) for task in report.tasks]
    assert [end.result for end in world.emitted(TaskEnded)] == list(report.tasks)


async def test_the_log_has_a_line_per_task_and_one_that_sums_the_run_up(world: World, logs: list[EventDict]) -> None:
    world.lakehouse.script("compact", GOLD, fails(permanent(Reason.ACCESS_DENIED)))
    report = await night(world)
    lines = [line for line in logs if line["event"] == "task_done"]
    assert [(line["stage"], line["table"], line["outcome"]) for line in lines] == [
        (task.stage, task.table, task.outcome) for task in report.tasks
    ]
    assert [line["table"] for line in lines if line["log_level"] == "error"] == [GOLD]
    assert {line["run_id"] for line in logs} == {str(RUN_ID)}
    [summary] = [line for line in logs if line["event"] == "run_ended"]
    assert (summary["outcome"], summary["done"], summary["failed"], summary["audit_ok"]) == ("partial", 11, 1, 4)


# --- failures


@pytest.mark.parametrize("stage", [Stage.COMPACT, Stage.EXPIRE])
async def test_a_failed_compaction_or_expiry_is_partial_and_the_night_goes_on(world: World, stage: Stage) -> None:
    world.lakehouse.script(stage.value, KRAKEN, fails(permanent(Reason.ACCESS_DENIED)))
    report = await night(world)
    assert report.outcome is RunOutcome.PARTIAL
    assert outcomes(report, stage) == [(DONE, None), (FAILED, Reason.ACCESS_DENIED), (DONE, None), (DONE, None)]
    assert len(report.tasks) == 12
    assert {audit.status for audit in report.audits} == {AuditStatus.OK}


async def test_a_table_that_is_missing_costs_the_others_nothing(world: World) -> None:
    del world.lakehouse.tables[KRAKEN]
    report = await night(world)
    assert report.outcome is RunOutcome.FAILED
    for stage in NIGHT:
        assert outcomes(report, stage)[1] == (FAILED, Reason.TABLE_NOT_FOUND)
        assert [task.outcome for task in of_stage(report, stage) if task.table != KRAKEN] == [DONE] * 3


@pytest.mark.parametrize("call", ["inspect", "file_groups", "compact", "expire", "count"])
async def test_a_crash_at_one_table_costs_the_others_nothing(world: World, call: str) -> None:
    world.lakehouse.script(call, KRAKEN, fails(ZeroDivisionError("a bug")))
    report = await night(world)
    failed = [task for task in report.tasks if task.outcome is FAILED]
    assert [(task.table, task.reason) for task in failed] == [(KRAKEN, Reason.UNEXPECTED)]
    assert failed[0].error == "ZeroDivisionError: a bug"
    assert len(report.tasks) == 12
    assert len(report.audits) == 4


@pytest.mark.parametrize("side", ["clickhouse", "iceberg"])
async def test_an_audit_that_could_not_count_fails_the_run_and_leaves_a_row_without_counts(
    world: World, side: str
) -> None:
    error = permanent(Reason.SOURCE_TABLE_NOT_FOUND, "no such column")
    if side == "clickhouse":
        world.source.script("source.count", source_of(GOLD), fails(error))
    else:
        world.lakehouse.script("count", GOLD, fails(error))
    report = await night(world)
    assert report.outcome is RunOutcome.FAILED
    row = report.audits[2]
    assert (row.iceberg_table, row.status, row.reason) == (GOLD, AuditStatus.ERROR, Reason.SOURCE_TABLE_NOT_FOUND)
    assert (row.ch_row_count, row.iceberg_row_count, row.delta, row.delta_pct) == (None, None, None, None)
    assert "no such column" in row.notes
    assert [audit.status for audit in report.audits if audit is not row] == [AuditStatus.OK] * 3


async def test_missing_data_fails_the_run_though_every_task_is_done(world: World) -> None:
    world.lakehouse.tables[GOLD].hours[WINDOW_START] = 0
    world.lakehouse.tables[GOLD].hours[WINDOW_START + HOUR] = 0
    report = await night(world)
    assert report.outcome is RunOutcome.FAILED
    assert {task.outcome for task in report.tasks} == {DONE}
    assert report.audits[2].status is AuditStatus.MISSING_DATA
    assert [hour.start for hour in report.audits[2].missing_hours] == [WINDOW_START, WINDOW_START + HOUR]


async def test_a_warning_does_not_lower_the_outcome(world: World) -> None:
    world.lakehouse.tables[GOLD].hours[WINDOW_START] = 0
    report = await night(world)
    assert report.outcome is RunOutcome.SUCCESS
    assert report.audits[2].status is AuditStatus.WARNING


async def test_a_table_that_is_held_does_not_lower_the_outcome(world: World) -> None:
    world.lakehouse.tables[GOLD].gc_enabled = False
    report = await night(world)
    assert report.outcome is RunOutcome.SUCCESS
    assert outcomes(report, Stage.EXPIRE)[2] == (HELD, Reason.GC_DISABLED)


async def test_a_rewrite_that_does_nothing_is_tried_again_within_the_night(world: World) -> None:
    world.lakehouse.script("compact", SILVER, does_nothing())
    report = await night(world)
    assert report.outcome is RunOutcome.SUCCESS
    assert attempts(report, Stage.COMPACT) == [2, 1, 1, 1]
    assert world.clock.slept == [120.0]


# --- a whole part is down

DOWN = [Reason.CATALOG_DOWN, Reason.STORAGE_DOWN, Reason.ENGINE_DOWN]


@pytest.mark.parametrize("reason", DOWN)
async def test_a_part_that_is_down_is_met_with_retries_then_probed_once_and_then_left_alone(
    world: World, reason: Reason
) -> None:
    world.lakehouse.down = transient(reason, "connection refused")
    report = await night(world)
    assert report.outcome is RunOutcome.FAILED
    for stage in NIGHT:
        assert outcomes(report, stage) == [(FAILED, reason)] * 4
    assert attempts(report, Stage.COMPACT) == [2, 1, 0, 0]
    # What the stage before found down is only probed.
    assert attempts(report, Stage.EXPIRE) == attempts(report, Stage.AUDIT) == [1, 0, 0, 0]
    assert world.clock.slept == [120.0]
    assert [call.table for call in world.called("inspect")] == [SILVER, SILVER, KRAKEN, SILVER]


async def test_a_task_that_is_not_tried_says_why_and_after_whom(world: World) -> None:
    world.lakehouse.down = transient(Reason.CATALOG_DOWN)
    for task in of_stage(await night(world), Stage.COMPACT)[2:]:
        assert task.error is not None
        assert all(word in task.error for word in ("not tried", SILVER, KRAKEN))
        assert (task.before, task.after, task.duration_s) == (None, None, 0.0)


async def test_a_task_that_is_not_tried_because_of_the_stage_before_names_that(world: World) -> None:
    world.lakehouse.down = transient(Reason.CATALOG_DOWN)
    for task in of_stage(await night(world), Stage.EXPIRE)[1:]:
        assert task.error == f"not tried, as compact of {KRAKEN} and {SILVER} failed alike"


async def test_a_part_that_is_up_again_in_the_next_stage_is_met_as_if_nothing_had_been(world: World) -> None:
    for name in NAMES:
        world.lakehouse.script("compact", name, *[fails(transient(Reason.STORAGE_DOWN))] * 2)
    world.lakehouse.script("expire", KRAKEN, fails(transient(Reason.STORAGE_DOWN)))
    report = await night(world)
    assert attempts(report, Stage.COMPACT) == [2, 1, 0, 0]
    assert attempts(report, Stage.EXPIRE) == [1, 2, 1, 1]
    assert outcomes(report, Stage.EXPIRE) == outcomes(report, Stage.AUDIT) == ALL_DONE


async def test_one_failure_at_the_end_of_a_stage_costs_the_next_one_no_retry(world: World) -> None:
    down = transient(Reason.STORAGE_DOWN)
    world.lakehouse.script("compact", BINANCE, fails(down), fails(down))
    world.lakehouse.script("expire", SILVER, fails(down))
    report = await night(world)
    assert attempts(report, Stage.EXPIRE) == [2, 1, 1, 1]
    assert outcomes(report, Stage.EXPIRE) == ALL_DONE


async def test_a_probe_that_meets_another_part_down_is_followed_by_that_parts_probe(world: World) -> None:
    world.lakehouse.down = transient(Reason.CATALOG_DOWN)
    world.source.down = transient(Reason.SOURCE_DOWN)
    report = await night(world)
    assert outcomes(report, Stage.AUDIT) == [(FAILED, Reason.SOURCE_DOWN)] * 4
    assert attempts(report, Stage.AUDIT) == [1, 1, 0, 0]


async def test_audits_that_are_not_tried_have_their_error_rows_all_the_same(world: World) -> None:
    world.source.down = transient(Reason.SOURCE_DOWN, "connection refused")
    report = await night(world)
    assert outcomes(report, Stage.COMPACT) == outcomes(report, Stage.EXPIRE) == ALL_DONE
    assert report.outcome is RunOutcome.FAILED
    assert attempts(report, Stage.AUDIT) == [2, 1, 0, 0]
    assert len(world.called("source.count")) == 3
    assert [audit.iceberg_table for audit in report.audits] == list(NAMES)
    for audit in report.audits:
        assert (audit.status, audit.reason) == (AuditStatus.ERROR, Reason.SOURCE_DOWN)
        assert (audit.ch_row_count, audit.iceberg_row_count, audit.delta, audit.delta_pct) == (None, None, None, None)
        assert audit.notes


async def test_a_part_that_the_probe_finds_up_again_costs_one_table(world: World) -> None:
    down = transient(Reason.STORAGE_DOWN)
    world.lakehouse.script("compact", SILVER, fails(down), fails(down))
    world.lakehouse.script("compact", GOLD, fails(transient(Reason.CONFLICT)))
    report = await night(world)
    assert outcomes(report, Stage.COMPACT) == [(FAILED, Reason.STORAGE_DOWN), (DONE, None), (DONE, None), (DONE, None)]
    assert attempts(report, Stage.COMPACT) == [2, 1, 1 + 1, 1]


async def test_a_part_that_goes_down_again_later_is_met_anew(world: World) -> None:
    down = transient(Reason.STORAGE_DOWN)
    for name in (SILVER, GOLD, BINANCE):
        world.lakehouse.script("compact", name, fails(down), fails(down))
    report = await night(world)
    assert attempts(report, Stage.COMPACT) == [2, 1, 2, 1]


async def test_two_different_parts_down_are_not_one_part_down(world: World) -> None:
    for name, reason in zip(NAMES, [*DOWN, Reason.CATALOG_DOWN], strict=True):
        world.lakehouse.script("compact", name, *[fails(transient(reason))] * 2)
    report = await night(world)
    assert 0 not in attempts(report, Stage.COMPACT)


async def test_what_was_down_in_one_stage_is_tried_again_in_the_next(world: World) -> None:
    for name in NAMES:
        world.lakehouse.script("compact", name, *[fails(transient(Reason.ENGINE_DOWN))] * 2)
    report = await night(world)
    assert outcomes(report, Stage.EXPIRE) == outcomes(report, Stage.AUDIT) == ALL_DONE
    assert report.outcome is RunOutcome.PARTIAL


@pytest.mark.parametrize("error", [permanent(Reason.TABLE_NOT_FOUND), transient(Reason.CONFLICT)])
async def test_failures_that_are_a_tables_own_end_no_stage(world: World, error: IcekeeperError) -> None:
    for name in NAMES:
        world.lakehouse.script("compact", name, *[fails(error)] * 2)
    report = await night(world)
    assert 0 not in attempts(report, Stage.COMPACT)


# --- the budget


async def test_what_no_longer_fits_the_budget_is_held_and_the_audit_runs(world: World) -> None:
    world.lakehouse.script("compact", KRAKEN, Step(takes=5 * MINUTE))
    report = await night(world, order(budget=5 * MINUTE))
    held = (HELD, Reason.BUDGET)
    assert outcomes(report, Stage.COMPACT) == [(DONE, None), (DONE, None), held, held]
    assert outcomes(report, Stage.EXPIRE) == [held] * 4
    assert outcomes(report, Stage.AUDIT) == ALL_DONE
    assert attempts(report, Stage.EXPIRE) == [0] * 4
    assert report.outcome is RunOutcome.SUCCESS


async def test_a_task_has_no_more_time_than_the_budget_and_an_audit_has_its_own(world: World) -> None:
    world.lakehouse.script("compact", SILVER, Step(takes=3 * MINUTE))
    await night(world, order(budget=5 * MINUTE))
    assert [call.timeout for call in world.called("compact")] == [5 * MINUTE, 2 * MINUTE, 2 * MINUTE, 2 * MINUTE]
    assert {call.timeout for call in world.called("count")} == {10 * MINUTE}


async def test_an_attempt_is_not_begun_after_the_budget(world: World) -> None:
    too_slow = fails(DeadlineExceeded("stopped"), takes=4 * MINUTE)
    world.lakehouse.script("compact", SILVER, too_slow, too_slow)
    await night(world, order(budget=5 * MINUTE))
    assert [call.at - SLOT for call in world.called("compact", SILVER)] == [timedelta(0)]


async def test_a_second_attempt_has_only_what_the_first_and_the_delay_left_of_the_budget(world: World) -> None:
    world.lakehouse.script("compact", SILVER, fails(transient(Reason.CONFLICT), takes=2 * MINUTE))
    await night(world, order(budget=9 * MINUTE))
    assert [call.timeout for call in world.called("compact", SILVER)] == [9 * MINUTE, 5 * MINUTE]


async def test_audits_are_tried_again_even_after_the_budget(world: World) -> None:
    world.lakehouse.script("compact", SILVER, Step(takes=DAY))
    world.source.script("source.count", source_of(SILVER), fails(transient(Reason.SOURCE_DOWN)))
    report = await night(world, order(budget=HOUR))
    assert attempts(report, Stage.AUDIT) == [2, 1, 1, 1]
    assert report.outcome is RunOutcome.SUCCESS


# --- an end before its time


async def stopped(
    world: World, message: str | None = None, *, by_operator: bool = False, lock: asyncio.Lock | None = None
) -> RunReport:
    """A night that is cancelled while it waits in the scripted call."""
    asked = order()
    run = asyncio.create_task(run_night(asked, world.ports, world.events.append, lock))
    await world.lakehouse.entered.wait()
    asked.stop.by_operator = by_operator
    run.cancel(message)
    return await run


def hanging(takes: timedelta = timedelta(0)) -> Step:
    return Step(until=asyncio.Event(), takes=takes)


@pytest.mark.parametrize(
    ("by_operator", "message", "outcome"),
    [
        (True, None, RunOutcome.CANCELLED),
        (False, None, RunOutcome.INTERRUPTED),
        (False, "by_operator", RunOutcome.INTERRUPTED),
    ],
)
@pytest.mark.parametrize("call", ["inspect", "compact"])
async def test_a_run_that_is_stopped_ends_with_a_report_of_what_was_done_and_of_the_task_in_hand(
    world: World, by_operator: bool, message: str | None, outcome: RunOutcome, call: str
) -> None:
    world.lakehouse.script(call, KRAKEN, hanging())
    report = await stopped(world, message, by_operator=by_operator)
    assert report.outcome is outcome
    assert [(task.table, task.outcome, task.reason) for task in report.tasks] == [
        (SILVER, DONE, None),
        (KRAKEN, FAILED, Reason.CANCELLED),
    ]
    assert report.tasks[1].error
    assert report.audits == ()
    assert world.events[-1] == RunEnded(report)
    assert world.called("inspect", GOLD) == []


async def test_the_task_in_hand_is_recorded_with_its_attempts_and_since_when_it_was_under_way(world: World) -> None:
    def time_passes() -> None:
        world.clock.advance(3 * MINUTE)

    world.lakehouse.script("compact", SILVER, fails(transient(Reason.CONFLICT)), replace(hanging(), first=time_passes))
    report = await stopped(world, by_operator=True)
    [task] = report.tasks
    assert task.attempts == 2
    assert (task.started_at, task.duration_s) == (SLOT, 120.0 + 180.0)
    assert task.before is not None


async def test_a_task_with_a_start_event_has_an_end_event_though_it_was_stopped(world: World) -> None:
    world.lakehouse.script("compact", KRAKEN, hanging())
    report = await stopped(world)
    assert [end.result for end in world.emitted(TaskEnded)] == list(report.tasks)


async def test_a_run_may_be_stopped_while_it_waits_for_its_next_attempt(world: World) -> None:
    waiting = asyncio.Event()

    async def sleep(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    world.lakehouse.script("compact", SILVER, fails(transient(Reason.CONFLICT)))
    asked = order()
    run = asyncio.create_task(run_night(asked, replace(world.ports, sleep=sleep), world.events.append))
    await waiting.wait()
    asked.stop.by_operator = True
    run.cancel()
    report = await run
    assert report.outcome is RunOutcome.CANCELLED
    assert [(task.outcome, task.reason) for task in report.tasks] == [(FAILED, Reason.CANCELLED)]


async def test_an_audit_that_is_stopped_leaves_no_row_so_that_the_resumed_run_counts(world: World) -> None:
    world.lakehouse.script("count", KRAKEN, hanging())
    report = await stopped(world)
    assert report.outcome is RunOutcome.INTERRUPTED
    assert [audit.iceberg_table for audit in report.audits] == [SILVER]
    assert (report.tasks[-1].stage, report.tasks[-1].reason) == (Stage.AUDIT, Reason.CANCELLED)


async def test_a_stop_that_the_report_has_answered_does_not_strike_again(world: World) -> None:
    world.lakehouse.script("compact", SILVER, hanging())
    asked = order()

    async def supervised() -> RunOutcome:
        report = await night(world, asked)
        await asyncio.sleep(0)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        return report.outcome

    run = asyncio.create_task(supervised())
    await world.lakehouse.entered.wait()
    asked.stop.by_operator = True
    run.cancel()
    assert await run is RunOutcome.CANCELLED


# --- the lock


async def test_the_tables_lock_is_held_while_a_task_works_and_not_between_tasks(world: World) -> None:
    lock = asyncio.Lock()
    during: list[bool] = []
    between: list[bool] = []
    for fake in (world.lakehouse, world.source, world.offload, world.findings):
        fake.watchers.append(lambda _: during.append(lock.locked()))

    def watch(event: object) -> None:
        if isinstance(event, TaskStarted | TaskEnded):
            between.append(lock.locked())

    await run_night(order(), world.ports, watch, lock)
    assert len(during) == len(world.calls) > 0
    assert set(during) == {True}
    assert between == [False] * 24


async def test_nothing_is_done_while_another_run_holds_the_tables_lock(world: World) -> None:
    lock = asyncio.Lock()
    await lock.acquire()
    started = asyncio.Event()

    def watch(event: object) -> None:
        if isinstance(event, TaskStarted):
            started.set()

    run = asyncio.create_task(run_night(order(), world.ports, watch, lock))
    await started.wait()
    for _ in range(5):
        await asyncio.sleep(0)
    assert world.calls == []
    lock.release()
    assert (await run).outcome is RunOutcome.SUCCESS


async def test_a_run_that_is_stopped_gives_the_tables_lock_back(world: World) -> None:
    lock = asyncio.Lock()
    world.lakehouse.script("compact", KRAKEN, hanging())
    await stopped(world, None, lock=lock)
    assert not lock.locked()


async def test_a_crash_gives_the_tables_lock_back(world: World) -> None:
    lock = asyncio.Lock()
    world.lakehouse.script("compact", KRAKEN, fails(ZeroDivisionError("a bug")))
    assert (await night(world, lock=lock)).outcome is RunOutcome.PARTIAL
    assert not lock.locked()


# --- resuming


async def test_a_run_that_was_stopped_is_finished_by_running_its_slot_again(world: World) -> None:
    world.lakehouse.script("compact", GOLD, hanging())
    assert (await stopped(world)).outcome is RunOutcome.INTERRUPTED
    resumed = await night(world, replace(order(), trigger=Trigger.RESUME))
    assert resumed.outcome is RunOutcome.SUCCESS
    skipped = (SKIPPED, Reason.TOO_FEW_FILES)
    assert outcomes(resumed, Stage.COMPACT) == [skipped, skipped, (DONE, None), (DONE, None)]
    assert {audit.trigger for audit in resumed.audits} == {Trigger.RESUME}


async def test_an_empty_table_is_a_quiet_night(world: World) -> None:
    world.lakehouse.tables[GOLD] = FakeTable()
    world.source.hours[source_of(GOLD)] = {}
    report = await night(world, order(table_policy(GOLD)))
    assert report.outcome is RunOutcome.SUCCESS
    assert [task.outcome for task in report.tasks] == [SKIPPED, SKIPPED, DONE]
    assert report.audits[0].reason is Reason.SOURCE_EMPTY


# --- a slot that is resumed


async def test_a_resumed_run_repeats_no_audit_that_counted_and_its_outcome_is_the_slots(world: World) -> None:
    first = await night(world)
    counted = {audit.iceberg_table for audit in first.audits}
    died = PastRun(RUN_ID, SLOT, Trigger.SCHEDULE, SLOT, None, tasks=first.tasks, audits=first.audits)
    again = await night(world, replace(order(), trigger=Trigger.RESUME, earlier=earlier_work([died])))
    assert counted
    assert of_stage(again, Stage.AUDIT) == []
    assert again.outcome is first.outcome


async def test_a_task_that_the_process_died_at_twice_is_failed_and_the_others_go_on(world: World) -> None:
    dead = PastRun(RUN_ID, SLOT, Trigger.SCHEDULE, SLOT, None, in_flight=(Stage.COMPACT, SILVER))
    report = await night(world, replace(order(), trigger=Trigger.RESUME, earlier=earlier_work([dead, dead])))
    assert outcomes(report, Stage.COMPACT) == [(FAILED, Reason.PROCESS_DIED), *ALL_DONE[1:]]
    assert attempts(report, Stage.COMPACT) == [0, 1, 1, 1]
    assert report.outcome is RunOutcome.PARTIAL


async def test_a_run_that_may_not_go_on_ends_before_its_next_task(world: World) -> None:
    asked: list[int] = []

    def for_two_tasks() -> bool:
        asked.append(len(asked))
        return len(asked) <= 2

    report = await run_night(order(), world.ports, world.events.append, None, for_two_tasks)
    assert report.outcome is RunOutcome.INTERRUPTED
    assert outcomes(report, Stage.COMPACT) == ALL_DONE[:2]
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
