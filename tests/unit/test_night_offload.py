"""The night on a catalog that takes one writer, beside an offload that writes: what it waits for, and for how long."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from structlog.typing import EventDict

from icekeeper.core.enums import NIGHT, Decision, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.events import RunStarted, TaskEnded, TaskProgressed, TaskStarted
from icekeeper.core.offload import OffloadRhythm, OffloadState
from icekeeper.core.policy import CompactPolicy, RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport
from icekeeper.core.tables import planning
from icekeeper.execution.plans import make_plans
from icekeeper.night.order import Order, StopRequest
from icekeeper.night.run import run_night
from tests.unit.builders import COMPACT_LIMITS, HOUR, SLOT, table_policy
from tests.unit.fakes import RUN_ID, Step, World, fails, transient

pytestmark = pytest.mark.usefixtures("logs")

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
NAMES = ("cold.silver_trades", "cold.bronze_trades_kraken", "cold.gold_ohlcv_1m")
SILVER, KRAKEN, GOLD = NAMES
DONE, HELD, FAILED = TaskOutcome.DONE, TaskOutcome.HELD, TaskOutcome.FAILED
REWRITE = "rewrite 20 files (1.0 MiB) of 1 partition into 1"

Cycle = Callable[[datetime], OffloadState]


def policy(name: str, **compact: int) -> TablePolicy:
    limits = CompactPolicy(COMPACT_LIMITS, **compact)  # type: ignore[arg-type]
    return replace(table_policy(name, compact=limits), single_writer=True)


def source(name: str) -> str:
    return name.partition(".")[2]


def cycles(
    *, starts: timedelta = 40 * SECOND, takes: timedelta = 50 * SECOND, rows: bool = True, first: datetime = SLOT
) -> Cycle:
    """An offload every 15 minutes from `first` on, at rest before: its JVM starts, it marks `running`, and then
    `success`, if it had rows.
    """

    def state(now: datetime) -> OffloadState:
        due = first + (now - first) // (15 * MINUTE) * (15 * MINUTE)
        success = first - 14 * MINUTE
        if now < first:
            return OffloadState(success, "success", success, success, takes)
        for begin in (due, due - 15 * MINUTE):
            marked = begin + starts
            ended = marked + takes
            if begin < first or now < marked:
                continue
            if rows and now >= ended:
                return OffloadState(begin, "success", ended, ended, takes)
            return OffloadState(begin, "running", marked, begin - 14 * MINUTE if rows else success, takes)
        return OffloadState(success, "success", success, success, takes)

    return state


def endless(now: datetime) -> OffloadState:
    """An offload that is always in the middle of a cycle."""
    return OffloadState(now, "running", now - 40 * SECOND, now - 14 * MINUTE, 50 * SECOND)


@pytest.fixture
def world() -> World:
    """Three tables with work for every stage; it is seven minutes past the hour, between two cycles."""
    world = World()
    for name in NAMES:
        world.add(policy(name))
    world.clock.now = SLOT + 7 * MINUTE
    return world


def order(*policies: TablePolicy, stages: tuple[Stage, ...] = (Stage.COMPACT,), **more: timedelta) -> Order:
    budget = more.pop("budget", 4 * HOUR)
    return Order(
        run_id=RUN_ID,
        slot=SLOT,
        trigger=Trigger.SCHEDULE,
        tables=policies or tuple(map(policy, NAMES)),
        stages=stages,
        policy=RunPolicy(max_duration=budget, offload=OffloadRhythm(**more)),
    )


async def night(world: World, asked: Order | None = None, lock: asyncio.Lock | None = None) -> RunReport:
    return await run_night(asked or order(), world.ports, world.events.append, lock)


def ended(report: RunReport) -> list[tuple[str, TaskOutcome, Reason | None]]:
    return [(task.table, task.outcome, task.reason) for task in report.tasks]


def waits(world: World) -> list[str]:
    return [event.note for event in world.emitted(TaskProgressed) if "waits for" in event.note]


async def test_a_task_that_gave_way_has_no_more_attempts_than_any_other(world: World) -> None:
    conflict = transient(Reason.CONFLICT)
    running = transient(Reason.OFFLOAD_RUNNING)
    world.lakehouse.script("compact", SILVER, *map(fails, (conflict, running, conflict, running, conflict, conflict)))

    report = await night(world, order(policy(SILVER)))

    assert ended(report) == [(SILVER, FAILED, Reason.CONFLICT)]
    assert len([call for call in world.calls if call.method == "compact"]) == 3  # the wait is part of its attempt


# --- what is waited for


async def test_a_night_that_begins_in_a_cycle_waits_for_its_end_before_its_first_commit(world: World) -> None:
    world.clock.now = SLOT
    for name in NAMES:
        world.offload.cycles[source(name)] = cycles()
    report = await night(world, order(stages=NIGHT))
    assert {task.outcome for task in report.tasks} == {DONE}
    assert {task.attempts for task in report.tasks} == {1}
    commits = [call.at for call in world.calls if call.method in ("compact", "expire")]
    assert min(commits) == SLOT + 90 * SECOND
    assert [task.table for task in report.tasks] == [*NAMES] * 3
    assert waits(world)[0] == "waits for the offload's cycle of 2026-02-18T02:00Z, which may be starting"
    assert waits(world)[-1] == "waits for the offload's cycle, running for 40 s"
    assert {task.duration_s for task in report.tasks} == {0}, "waiting is no work"


async def test_other_tables_go_first_and_the_one_that_gave_way_is_done_before_the_stage_ends(world: World) -> None:
    world.offload.cycles[source(SILVER)] = cycles(first=SLOT + 7 * MINUTE, starts=timedelta(0))
    report = await night(world, order(stages=(Stage.COMPACT, Stage.EXPIRE)))
    assert ended(report) == [(name, DONE, None) for name in (KRAKEN, GOLD, SILVER, SILVER, KRAKEN, GOLD)]
    assert [call.table for call in world.called("compact")] == [KRAKEN, GOLD, SILVER]
    assert waits(world)[0] == "waits for the offload's cycle, running for 0 ms"
    assert report.outcome is RunOutcome.SUCCESS


async def test_each_task_keeps_its_place_and_ends_once(world: World) -> None:
    world.offload.cycles[source(SILVER)] = cycles(first=SLOT + 7 * MINUTE, starts=timedelta(0))
    report = await night(world)
    started = world.events[0]
    assert isinstance(started, RunStarted)
    assert [table for _, table in started.work] == [*NAMES]
    starts = [(event.position, event.table, event.of, event.waits) for event in world.emitted(TaskStarted)]
    assert starts == [
        (1, SILVER, 3, False),
        (2, KRAKEN, 3, False),
        (3, GOLD, 3, False),
        (1, SILVER, 3, True),
        (1, SILVER, 3, False),
    ]
    assert [event.result for event in world.emitted(TaskEnded)] == list(report.tasks)
    # While it waits it is the one in hand, and none is at work: a death then counts against none.
    begun = [number for number, event in enumerate(world.events) if isinstance(event, TaskStarted)]
    waited = [number for number, e in enumerate(world.events) if isinstance(e, TaskProgressed) and "waits" in e.note]
    assert begun[-2] < min(waited) < max(waited) < begun[-1]
    assert [event.at_work for event in world.emitted(TaskStarted)][-2:] == [(None, None), (Stage.COMPACT, SILVER)]


@pytest.mark.parametrize("stage", [Stage.COMPACT, Stage.EXPIRE])
async def test_a_status_that_is_left_over_holds_nothing_and_is_said(world: World, stage: Stage) -> None:
    left = OffloadState(SLOT - HOUR, "running", SLOT - 15 * MINUTE, SLOT - 26 * HOUR, 50 * SECOND)
    world.offload.states[source(SILVER)] = left
    report = await night(world, order(policy(SILVER), stages=(stage,)))
    assert ended(report) == [(SILVER, DONE, None)]
    assert report.tasks[0].note.endswith(
        "; the offload's status, running since 2026-02-18T01:45Z, is left over from a cycle without rows"
    )
    assert world.clock.slept == []


async def test_a_status_without_an_instant_holds_as_it_did(world: World) -> None:
    world.offload.states[source(SILVER)] = OffloadState(SLOT, "running")
    report = await night(world, order(policy(SILVER)))
    assert ended(report) == [(SILVER, HELD, Reason.OFFLOAD_RUNNING)]
    note = f"waited 30 min for the offload, whose status is running; it would {REWRITE}"
    assert report.tasks[0].note == note


@pytest.mark.parametrize("stage", [Stage.COMPACT, Stage.EXPIRE])
async def test_where_several_may_write_or_nothing_is_offloaded_nothing_is_asked(world: World, stage: Stage) -> None:
    for name in NAMES:
        world.offload.cycles[source(name)] = endless
    shared, alone = table_policy(SILVER), replace(policy(KRAKEN), source=None, audit=None)
    report = await night(world, order(shared, alone, stages=(stage,)))
    assert [outcome for _, outcome, _ in ended(report)] == [DONE, DONE]
    assert world.called("state") == []


async def test_a_table_with_nothing_to_do_waits_for_nothing(world: World) -> None:
    await night(world)
    world.offload.cycles[source(SILVER)] = endless
    again = await night(world)
    assert [task.outcome for task in again.tasks] == [TaskOutcome.SKIPPED] * 3
    assert world.clock.slept == []


# --- when it is asked


async def test_a_cycle_that_begins_between_two_slices_makes_the_second_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SLICE_MAX_FILES", 30)
    world.lakehouse.tables[SILVER].append(SLOT, files=20, partition="day=2026-02-16")
    begin = SLOT + 15 * MINUTE
    world.offload.cycles[source(SILVER)] = cycles(first=begin)
    world.lakehouse.script("compact", SILVER, Step(takes=8 * MINUTE + 10 * SECOND))
    report = await night(world, order(policy(SILVER)))
    first, second = (call.at for call in world.called("compact"))
    assert (first, second) == (SLOT + 7 * MINUTE, begin + 90 * SECOND)
    assert ended(report) == [(SILVER, DONE, None)]
    rewrote = "rewrote 40 files (2.0 MiB) of 2 partitions into 2, in 2 slices; proven by metrics"
    assert report.tasks[0].note == rewrote
    assert report.tasks[0].attempts == 1
    assert waits(world)


@pytest.mark.parametrize("stage", [Stage.COMPACT, Stage.EXPIRE])
async def test_a_cycle_that_begins_during_the_work_makes_its_commit_wait(world: World, stage: Stage) -> None:
    begin = SLOT + 15 * MINUTE
    world.clock.now = begin - 2 * MINUTE
    world.offload.cycles[source(SILVER)] = cycles(first=begin)
    world.lakehouse.script(stage.value, SILVER, Step(takes=2 * MINUTE + 10 * SECOND))
    report = await night(world, order(policy(SILVER), stages=(stage,)))
    assert ended(report) == [(SILVER, DONE, None)]
    assert len(world.called(stage.value)) == 1
    assert world.lakehouse.tables[SILVER].history[-1].committed_at >= begin + 90 * SECOND or stage is Stage.EXPIRE
    assert waits(world)[0] == "its commit waits for the offload's cycle of 2026-02-18T02:15Z, which may be starting"
    assert report.tasks[0].duration_s == 210


async def test_a_commit_that_its_deadline_lets_wait_no_longer_is_made_again_after_the_cycle(world: World) -> None:
    begin = SLOT + 15 * MINUTE
    world.clock.now = begin - 9 * MINUTE
    world.offload.cycles[source(SILVER)] = cycles(first=begin, takes=3 * MINUTE)
    world.lakehouse.script("compact", SILVER, Step(takes=9 * MINUTE + 10 * SECOND))
    report = await night(world, order(policy(SILVER)))
    assert ended(report) == [(SILVER, DONE, None)]
    assert [call.at for call in world.called("compact")] == [begin - 9 * MINUTE, begin + 220 * SECOND]
    assert report.tasks[0].attempts == 1
    assert world.lakehouse.tables[SILVER].history[-1].operation == "replace"


# --- how long


async def test_a_cycle_that_does_not_end_holds_its_table_after_the_time_that_a_stage_waits(
    world: World, logs: list[EventDict]
) -> None:
    world.offload.cycles[source(SILVER)] = endless
    report = await night(world, order(stages=(Stage.COMPACT, Stage.EXPIRE), wait=20 * MINUTE))
    assert (
        ended(report)
        == [
            (KRAKEN, DONE, None),
            (GOLD, DONE, None),
            (SILVER, HELD, Reason.OFFLOAD_RUNNING),
        ]
        * 2
    )
    what = "waited 20 min for the offload's cycle, running for 40 s; it would"
    assert [task.note for task in report.tasks if task.table == SILVER] == [
        f"{what} {REWRITE}",
        f"{what} expire 4 of 11 snapshots, committed before 2026-02-11T02:00Z",
    ]
    assert sum(world.clock.slept) == 2 * 20 * 60
    lines = [(line["stage"], line["table"], line["outcome"]) for line in logs if line["event"] == "task_done"]
    assert lines == [(task.stage, task.table, task.outcome) for task in report.tasks]
    deferred = [(line["stage"], line["table"], line["why"]) for line in logs if line["event"] == "task_deferred"]
    why = f"{SILVER}: waits for the offload's cycle, running for 40 s"
    assert deferred == [(stage, SILVER, why) for stage in (Stage.COMPACT, Stage.EXPIRE)]
    assert report.outcome is RunOutcome.SUCCESS


async def test_all_that_wait_share_the_stages_time(world: World) -> None:
    for name in NAMES:
        world.offload.cycles[source(name)] = endless
    report = await night(world)
    assert ended(report) == [(name, HELD, Reason.OFFLOAD_RUNNING) for name in NAMES]
    assert sum(world.clock.slept) == 30 * 60


async def test_slices_that_are_done_stay_done_where_the_rest_is_held(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SLICE_MAX_FILES", 30)
    world.lakehouse.tables[SILVER].append(SLOT, files=20, partition="day=2026-02-16")

    def begins() -> None:
        world.offload.cycles[source(SILVER)] = endless

    world.lakehouse.script("inspect", SILVER, Step(), Step(first=begins))
    report = await night(world, order(policy(SILVER)))
    assert ended(report) == [(SILVER, HELD, Reason.OFFLOAD_RUNNING)]
    assert report.tasks[0].note == (
        "waited 30 min for the offload's cycle, running for 40 s; it would rewrite 40 files (2.0 MiB) of 2 partitions "
        "into 2, in 2 slices; 20 files of them are rewritten"
    )
    before, after = report.tasks[0].before, report.tasks[0].after
    assert before is not None
    assert after is not None
    assert (before.small_files, after.small_files) == (40, 21)


async def test_the_runs_budget_ends_the_wait(world: World) -> None:
    world.offload.cycles[source(SILVER)] = endless
    report = await night(world, order(budget=5 * MINUTE))
    assert ended(report) == [(KRAKEN, DONE, None), (GOLD, DONE, None), (SILVER, HELD, Reason.BUDGET)]
    assert report.tasks[-1].note == f"the run's max_duration is used up; it would {REWRITE}"
    assert sum(world.clock.slept) == 5 * 60


async def test_a_wait_is_polled_and_ends_with_the_cycle(world: World) -> None:
    begin = SLOT + 7 * MINUTE
    world.offload.cycles[source(SILVER)] = cycles(first=begin, starts=timedelta(0), takes=25 * SECOND)
    await night(world)
    assert world.clock.slept == [10, 10, 10]


async def test_a_cycle_without_rows_is_waited_for_as_long_as_it_may_take(world: World) -> None:
    begin = SLOT + 7 * MINUTE
    world.offload.cycles[source(SILVER)] = cycles(first=begin, starts=timedelta(0), takes=101 * SECOND, rows=False)
    report = await night(world, order(policy(SILVER)))
    assert ended(report) == [(SILVER, DONE, None)]
    # Three times the last one; the last poll is at that instant.
    assert sum(world.clock.slept) == 303


async def test_other_tasks_may_change_tables_while_one_waits(world: World) -> None:
    lock, locked = asyncio.Lock(), []
    world.offload.cycles[source(SILVER)] = endless
    sleep = world.clock.sleep

    async def watching(seconds: float) -> None:
        locked.append(lock.locked())
        await sleep(seconds)

    world.ports = replace(world.ports, sleep=watching)
    await night(world, lock=lock)
    assert set(locked) == {False}


# --- what ends it early


async def test_a_cancellation_ends_the_wait_and_every_task_that_had_begun(world: World) -> None:
    world.offload.cycles[source(SILVER)] = world.offload.cycles[source(GOLD)] = endless
    waiting = asyncio.Event()

    async def forever(seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    world.ports = replace(world.ports, sleep=forever)
    asked = replace(order(), stop=StopRequest(by_operator=True))
    task = asyncio.create_task(night(world, asked))
    await waiting.wait()
    task.cancel()
    report = await task
    assert report.outcome is RunOutcome.CANCELLED
    assert ended(report) == [
        (KRAKEN, DONE, None),
        (SILVER, FAILED, Reason.CANCELLED),
        (GOLD, FAILED, Reason.CANCELLED),
    ]
    assert report.tasks[1].error == "stopped while it waited for the offload"


async def test_a_run_that_may_not_go_on_waits_no_longer(world: World) -> None:
    world.offload.cycles[source(SILVER)] = endless
    report = await run_night(order(), world.ports, world.events.append, None, lambda: len(world.clock.slept) < 3)
    assert report.outcome is RunOutcome.INTERRUPTED
    assert len(world.clock.slept) == 3


async def test_an_offload_that_can_not_be_asked_while_it_is_waited_for_fails_the_task(world: World) -> None:
    world.offload.cycles[source(SILVER)] = endless
    down = fails(transient(Reason.LEDGER_DOWN))
    world.offload.script("state", source(SILVER), Step(), Step(), *[down] * 3)
    report = await night(world)
    assert ended(report)[-1] == (SILVER, FAILED, Reason.LEDGER_DOWN)


# --- a dry plan


async def test_a_plan_says_what_it_would_wait_for_and_does_not_wait(world: World) -> None:
    world.offload.cycles[source(SILVER)] = endless
    world.offload.states[source(GOLD)] = OffloadState(
        SLOT - HOUR, "running", SLOT - 15 * MINUTE, SLOT - 26 * HOUR, 50 * SECOND
    )
    plans, errors = await make_plans(order(stages=(Stage.COMPACT, Stage.EXPIRE)), world.ports)
    by_table = {(plan.stage, plan.table): plan for plan in plans}
    assert errors == {}
    for stage, would in ((Stage.COMPACT, f"would {REWRITE}"), (Stage.EXPIRE, "would expire 4 of 11 snapshots")):
        waiting, left, free = (by_table[stage, name] for name in (SILVER, GOLD, KRAKEN))
        assert (waiting.decision, waiting.reason) == (Decision.HOLD, Reason.OFFLOAD_RUNNING)
        assert waiting.note.startswith(f"waits for the offload's cycle, running for 40 s; it {would}")
        assert (left.decision, free.decision) == (Decision.ACT, Decision.ACT)
        assert "is left over from a cycle without rows" in left.note
        assert free.note.startswith(would)
    assert world.clock.slept == []
