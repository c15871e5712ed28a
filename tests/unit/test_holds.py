"""Holds of operators: what they mean for plans, tasks and nights. In the ledger: tests/integration/test_holds.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from icekeeper.core.enums import NIGHT, Decision, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.policy import RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.resuming import EarlierWork
from icekeeper.core.run_history import RunHistory
from icekeeper.core.runs import RunReport
from icekeeper.core.tables.holds import OperatorHold, given_together
from icekeeper.core.tables.planning import SLICE_MAX_FILES
from icekeeper.night.order import Order
from icekeeper.night.run import run_night
from icekeeper.night.task import make_plan
from icekeeper.status.gauges import DaemonState, HistorySummary
from icekeeper.status.problems import Facts, problems
from tests.unit.builders import DAY, HOUR, SLOT, audit_policy, table_policy
from tests.unit.fakes import RUN_ID, Step, World, fails, transient

TABLE, OTHER = "cold.silver_trades", "cold.gold_ohlcv"
POLICY, POLICY_OF_OTHER = table_policy(TABLE), table_policy(OTHER)
SECOND = timedelta(seconds=1)
DONE, HELD, SKIPPED = TaskOutcome.DONE, TaskOutcome.HELD, TaskOutcome.SKIPPED


def hold(
    stage: Stage,
    until: timedelta | None = None,
    released: timedelta | None = None,
    note: str = "wait for ann",
    hold_id: UUID | None = None,
) -> OperatorHold:
    """Given a day before the slot; its end and its release are measured from the slot."""
    return OperatorHold(
        hold_id=hold_id or uuid4(),
        table=TABLE,
        stage=stage,
        note=note,
        by="bob",
        host="host1",
        at=SLOT - DAY,
        until=None if until is None else SLOT + until,
        released_at=None if released is None else SLOT + released,
    )


@pytest.fixture
def world() -> World:
    world = World()
    world.add(POLICY)
    world.add(POLICY_OF_OTHER)
    return world


async def night(world: World, *policies: TablePolicy, observe: bool = False) -> RunReport:
    tables = policies or (POLICY, POLICY_OF_OTHER)
    order = Order(RUN_ID, SLOT, Trigger.SCHEDULE, tables, policy=RunPolicy(observe=observe))
    return await run_night(order, world.ports, world.events.append)


def ended(report: RunReport, table: str) -> dict[Stage, tuple[TaskOutcome, Reason | None]]:
    return {task.stage: (task.outcome, task.reason) for task in report.tasks if task.table == table}


@pytest.mark.parametrize("stage", NIGHT)
@pytest.mark.parametrize(
    ("holds", "held"),
    [
        (lambda stage: [hold(stage)], True),
        (lambda stage: [hold(stage, until=SECOND)], True),
        (lambda stage: [hold(stage, until=timedelta(0))], False),
        (lambda stage: [hold(stage, until=-HOUR)], False),
        (lambda stage: [hold(stage, released=-SECOND)], False),
        (lambda stage: [hold(stage, until=HOUR, released=-SECOND)], False),
        (lambda stage: [hold(stage, until=-HOUR), hold(stage, until=HOUR)], True),
        (lambda stage: [hold(stage, released=-HOUR), hold(stage)], True),
        (lambda stage: [hold(other) for other in NIGHT if other is not stage], False),
    ],
    ids=[
        "without end",
        "a second left",
        "ends now",
        "over",
        "released",
        "released early",
        "one of two",
        "again",
        "others",
    ],
)
async def test_a_stage_is_held_by_any_hold_in_force(
    world: World, stage: Stage, holds: Callable[[Stage], list[OperatorHold]], held: bool
) -> None:
    world.holds.held[TABLE] = tuple(holds(stage))
    report = await night(world)
    assert ended(report, TABLE)[stage] == ((HELD, Reason.OPERATOR_HOLD) if held else (DONE, None))
    assert ended(report, OTHER) == dict.fromkeys(NIGHT, (DONE, None))
    assert report.outcome is RunOutcome.SUCCESS


@pytest.mark.parametrize("observe", [False, True])
async def test_a_held_task_and_its_plan_say_by_whom_until_when_and_why(world: World, observe: bool) -> None:
    world.holds.held[TABLE] = tuple(hold(stage, until=DAY) for stage in NIGHT)
    context = world.context(run_policy=RunPolicy(observe=observe))
    plans = [await make_plan(stage, POLICY, context) for stage in NIGHT]
    assert {(plan.decision, plan.reason) for plan in plans} == {(Decision.HOLD, Reason.OPERATOR_HOLD)}
    said = "on hold until 2026-02-19T02:00Z by bob since 2026-02-17T02:00Z: wait for ann; it would "
    assert all(plan.note.startswith(said) for plan in plans), plans[0].note
    report = await night(world, observe=observe)
    assert [task.note for task in report.tasks if task.table == TABLE] == [plan.note for plan in plans]


async def test_where_there_is_nothing_to_do_a_hold_says_nothing(world: World) -> None:
    await night(world)
    world.holds.held[TABLE] = tuple(hold(stage) for stage in NIGHT)
    again = ended(await night(world), TABLE)
    assert (again[Stage.COMPACT], again[Stage.EXPIRE]) == (
        (SKIPPED, Reason.TOO_FEW_FILES),
        (SKIPPED, Reason.NOTHING_EXPIRED),
    )


async def test_an_audit_on_hold_asks_neither_side_and_has_no_row(world: World) -> None:
    world.holds.held[TABLE] = (hold(Stage.AUDIT),)
    report = await night(world, POLICY_OF_OTHER, POLICY)
    assert [audit.iceberg_table for audit in report.audits] == [OTHER]
    assert {call.table for call in world.called("count")} == {OTHER}
    asked = {call.table for call in world.calls}
    assert str(POLICY_OF_OTHER.source) in asked
    assert str(POLICY.source) not in asked
    assert report.outcome is RunOutcome.SUCCESS


async def test_a_table_whose_audit_is_on_hold_keeps_its_properties(world: World) -> None:
    noted = table_policy(TABLE, audit=replace(audit_policy(), certificate_property=True))
    await night(world, noted)
    assert len(world.called("set_properties")) == 1
    world.holds.held[TABLE] = (hold(Stage.AUDIT),)
    await night(world, noted)
    assert len(world.called("set_properties")) == 1


async def test_where_holds_are_not_known_an_expiry_is_held_and_the_rest_goes_on(world: World) -> None:
    world.holds.script("holds_of", TABLE, *[fails(transient(Reason.LEDGER_DOWN))] * 9)
    report = await night(world, POLICY)
    assert ended(report, TABLE) == {
        Stage.COMPACT: (DONE, None),
        Stage.EXPIRE: (HELD, Reason.LEDGER_DOWN),
        Stage.AUDIT: (DONE, None),
    }


async def test_a_hold_that_is_given_during_a_compaction_ends_it_with_the_slice_in_hand(world: World) -> None:
    table = world.add(POLICY)
    table.files.clear()
    half = SLICE_MAX_FILES // 2 + 1
    for day in ("day=2026-01-01", "day=2026-01-02", "day=2026-01-03"):
        table.append(world.clock() - HOUR, files=half, partition=day)

    def give(call: object) -> None:
        if world.called("compact", TABLE):
            world.holds.held[TABLE] = (hold(Stage.COMPACT),)

    world.lakehouse.watchers.append(give)
    (compaction, *_) = (await night(world, POLICY)).tasks
    assert (compaction.outcome, compaction.reason) == (HELD, Reason.OPERATOR_HOLD)
    assert compaction.note.endswith(f"{half} files of them are rewritten")
    assert len(world.called("compact", TABLE)) == 1


async def test_a_hold_in_a_second_attempt_is_no_done(world: World) -> None:
    table = world.add(POLICY)
    table.files.clear()
    half = SLICE_MAX_FILES // 2 + 1
    for day in ("day=2026-01-01", "day=2026-01-02", "day=2026-01-03"):
        table.append(world.clock() - HOUR, files=half, partition=day)

    def give(call: object) -> None:
        if len(world.called("compact", TABLE)) == 2:
            world.holds.held[TABLE] = (hold(Stage.COMPACT),)

    world.lakehouse.watchers.append(give)
    world.lakehouse.script("compact", TABLE, Step(), fails(transient(Reason.CONFLICT)))
    (compaction, *_) = (await night(world, POLICY)).tasks
    assert (compaction.outcome, compaction.reason, compaction.attempts) == (HELD, Reason.OPERATOR_HOLD, 2)
    assert "wait for ann" in compaction.note


async def test_an_audit_on_hold_is_held_where_clickhouse_is_away(world: World) -> None:
    third = table_policy("cold.third")
    world.add(third)
    for policy in (POLICY_OF_OTHER, third):
        world.source.script("count", str(policy.source), *[fails(transient(Reason.SOURCE_DOWN))] * 9)
    world.holds.held[TABLE] = (hold(Stage.AUDIT),)
    report = await night(world, POLICY_OF_OTHER, third, POLICY)
    assert ended(report, TABLE)[Stage.AUDIT] == (HELD, Reason.OPERATOR_HOLD)
    assert TABLE not in {audit.iceberg_table for audit in report.audits}


async def test_a_table_on_hold_that_cannot_be_read_is_held(world: World) -> None:
    world.holds.held[TABLE] = tuple(hold(stage) for stage in NIGHT)
    world.lakehouse.script("inspect", TABLE, *[fails(transient(Reason.CATALOG_DOWN))] * 9)
    report = await night(world)
    assert ended(report, TABLE) == dict.fromkeys(NIGHT, (HELD, Reason.OPERATOR_HOLD))
    assert report.outcome is RunOutcome.SUCCESS
    assert "what there is to do is not known" in report.tasks[0].note


async def test_a_hold_comes_before_what_is_not_tried_again(world: World) -> None:
    world.holds.held[TABLE] = (hold(Stage.COMPACT),)
    earlier = EarlierWork(deadly=frozenset({(Stage.COMPACT, TABLE)}))
    order = Order(RUN_ID, SLOT, Trigger.SCHEDULE, (POLICY,), policy=RunPolicy(), earlier=earlier)
    report = await run_night(order, world.ports, world.events.append)
    assert ended(report, TABLE)[Stage.COMPACT] == (HELD, Reason.OPERATOR_HOLD)


def test_holds_that_can_not_be_read_are_a_problem() -> None:
    state = DaemonState(policies=(POLICY,), holds_known=False)
    (found,) = problems(Facts(state, HistorySummary.of(RunHistory()), {}, running=False), SLOT)
    assert found.text == "What operators have put on hold can't be read from state_dir."


def test_holds_that_were_given_together_are_shown_together() -> None:
    together = [hold(stage) for stage in (Stage.AUDIT, Stage.COMPACT)]
    later = hold(Stage.EXPIRE, note="another")
    assert list(given_together([*together, later]).values()) == [(Stage.COMPACT, Stage.AUDIT), (Stage.EXPIRE,)]
    state = DaemonState(policies=(POLICY,), operator_holds=(*together, later))
    found = problems(Facts(state, HistorySummary.of(RunHistory()), {}, running=False), SLOT)
    assert [(one.severity, one.text, one.link) for one in found] == [
        (
            "warning",
            f"{TABLE}: {stages} on hold by bob since 2026-02-17T02:00Z: {note}.",
            f"/tables/{TABLE}",
        )
        for stages, note in (("compact, audit", "wait for ann"), ("expire", "another"))
    ]
