"""What is shown of runs: how long one will take, where a page of runs goes on, and a plan that is made once."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icekeeper.adapters.records import event_from_plain, event_to_plain
from icekeeper.core.enums import NIGHT, Decision, Stage, TaskOutcome
from icekeeper.core.errors import TransientError
from icekeeper.core.events import RunEnded, RunStarted, TaskEnded, TaskProgressed, TaskStarted
from icekeeper.core.plain import report_document
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.state import TableHealth
from icekeeper.scheduling.orders import Orders, RunRequest
from icekeeper.status import audit_schemas, run_schemas
from icekeeper.status.live import Live, RunThatEnded
from icekeeper.status.plan_cache import FRESH, PlanCache
from icekeeper.status.progress import progress_of
from icekeeper.status.queries import _of_last, cursor, parse_cursor
from tests.unit.builders import result
from tests.unit.reports import OPENING, REPORT, SLOT

A, B = "cold.a", "cold.b"
WORK = tuple((stage, table) for stage in NIGHT for table in (A, B))
TYPICAL = {(Stage.COMPACT, A): 100.0, (Stage.COMPACT, B): 60.0, (Stage.AUDIT, A): 5.0}


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = SLOT

    def __call__(self) -> datetime:
        return self.now


# --- the run under way


def shown(live: Live) -> tuple[list[str], tuple[str, str, datetime] | None] | None:
    """Its tables that are done, and the one in hand."""
    if (run := live.run) is None:
        return None
    hand = run.in_hand
    return [task.table for task in run.tasks], None if hand is None else (hand.table, hand.note, hand.since)


def test_a_run_is_followed_from_its_start_to_its_end() -> None:
    clock = Clock()
    live = Live(clock)
    live.observe(TaskStarted(Stage.COMPACT, A, 1, 6))  # of a run that began before we listened
    assert shown(live) is None
    live.observe(RunStarted(OPENING, WORK))
    live.observe(TaskStarted(Stage.COMPACT, A, 1, 6))
    live.observe(TaskProgressed(Stage.COMPACT, A, "960 files to 1"))
    assert shown(live) == ([], (A, "960 files to 1", SLOT))
    live.observe(TaskEnded(result(TaskOutcome.DONE, Stage.COMPACT, A)))
    assert shown(live) == ([A], None)
    live.observe(RunEnded(REPORT))
    assert shown(live) is None
    assert live.last == RunThatEnded(OPENING, REPORT)


def test_a_task_that_gave_way_to_the_offload_waits_for_its_turn_and_is_in_hand_again() -> None:
    clock = Clock()
    live = Live(clock)
    live.observe(RunStarted(OPENING, WORK))

    def states() -> list[str]:
        assert live.run is not None
        return [task.state for task in progress_of(live.run, TYPICAL, clock.now).tasks[:2]]

    live.observe(TaskStarted(Stage.COMPACT, A, 1, 6))
    live.observe(TaskStarted(Stage.COMPACT, B, 2, 6))
    assert states() == ["waiting", "in_hand"]
    live.observe(TaskEnded(result(TaskOutcome.DONE, Stage.COMPACT, B)))
    live.observe(TaskStarted(Stage.COMPACT, A, 1, 6))
    live.observe(TaskProgressed(Stage.COMPACT, A, "waits for the offload's cycle, running for 40 s"))
    assert states() == ["in_hand", "done"]
    assert shown(live) == ([B], (A, "waits for the offload's cycle, running for 40 s", SLOT))
    live.observe(TaskEnded(result(TaskOutcome.DONE, Stage.COMPACT, A)))
    assert states() == ["done", "done"]


@pytest.mark.parametrize("actor", ["ann", None])
def test_who_ordered_the_run_under_way_is_shown(actor: str | None) -> None:
    live = Live(Clock())
    live.observe(RunStarted(replace(OPENING, actor=actor), WORK))
    assert live.run is not None
    assert progress_of(live.run, TYPICAL, SLOT).actor == actor


def test_a_slot_that_is_closed_without_a_run_ends_none_that_is_under_way() -> None:
    live = Live(Clock())
    live.observe(RunStarted(OPENING, WORK))
    live.observe(RunEnded(replace(REPORT, run_id=uuid4())))
    assert shown(live) == ([], None)
    live.clear_run()
    assert (shown(live), live.last) == (None, None)


def test_what_is_left_is_what_the_tasks_to_come_usually_take() -> None:
    clock = Clock()
    live = Live(clock)
    live.observe(RunStarted(OPENING, WORK))
    assert live.run is not None
    assert live.run.left_s({}, SLOT) is None
    assert live.run.left_s(TYPICAL, SLOT) == 165.0
    live.observe(TaskStarted(Stage.COMPACT, A, 1, 6))
    assert live.run.left_s(TYPICAL, SLOT + timedelta(seconds=40)) == 125.0
    # One that takes longer than usual is about to end, for all that is known.
    assert live.run.left_s(TYPICAL, SLOT + timedelta(hours=1)) == 65.0
    live.observe(TaskEnded(result(TaskOutcome.DONE, Stage.COMPACT, A)))
    assert live.run.left_s(TYPICAL, SLOT + timedelta(hours=1)) == 65.0


# --- pages of runs

instants = st.datetimes(timezones=st.just(UTC))


@given(instants, st.uuids())
def test_a_cursor_comes_back_as_it_was(began: datetime, run_id: UUID) -> None:
    head = run_schemas.RunHead(
        run_id=run_id,
        slot=began,
        trigger="schedule",
        outcome=None,
        started_at=began,
        finished_at=None,
        duration_s=None,
        settings_hash="",
    )
    assert parse_cursor(cursor(head)) == (began, run_id)
    assert "+" not in cursor(head)


@given(st.text(max_size=100) | st.builds(lambda a, b: f"{a}_{b}", instants.map(str), st.text(max_size=40)))
def test_what_is_no_cursor_is_a_value_error_and_nothing_else(text: str) -> None:
    try:
        began, _ = parse_cursor(text)
    except ValueError:
        return
    assert began.tzinfo is UTC


@pytest.mark.parametrize("instant", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_an_instant_that_utc_does_not_have_is_no_cursor(instant: str) -> None:
    with pytest.raises(ValueError, match="no such instant"):
        parse_cursor(f"{instant}_{UUID(int=1)}")


# --- ids beyond 2^53, which JavaScript's numbers round


def test_a_snapshot_id_is_also_given_as_text() -> None:
    health = TableHealth(1, 1, 1, 1, 0, 1, 1, snapshot_id=2**62 + 1)
    document = run_schemas.Health.model_validate(health)
    assert json.loads(document.model_dump_json())["snapshot_id_text"] == "4611686018427387905"
    empty = run_schemas.Health.model_validate(replace(health, snapshot_id=None))
    assert json.loads(empty.model_dump_json())["snapshot_id_text"] is None
    for model in (run_schemas.Health, audit_schemas.Audit):
        assert "snapshot_id_text" in model.model_json_schema(mode="serialization")["properties"]


# --- the plan cache


class Planner(Orders):
    """Makes plans once `let` is set."""

    def __init__(self) -> None:
        self.asked = 0
        self.let = asyncio.Event()
        self.error: Exception | None = None

    async def plan(self, asked: RunRequest) -> tuple[list[Plan], dict[str, str]]:
        self.asked += 1
        await self.let.wait()
        if self.error is not None:
            raise self.error
        plans = [Plan(stage, A, Decision.SKIP, "nothing to do") for stage in (Stage.AUDIT, Stage.COMPACT)]
        return plans, {B: "the catalog has no such table"}


async def test_a_plan_is_made_once_a_minute_for_all_requests() -> None:
    planner, clock = Planner(), Clock()
    plan_cache = PlanCache(planner, clock)
    looking = [asyncio.create_task(plan_cache.plan()) for _ in range(5)]
    await asyncio.sleep(0)
    planner.let.set()
    first, *others = await asyncio.gather(*looking)
    assert planner.asked == 1
    assert all(other is first for other in others)
    assert [plan.stage for plan in first.plans] == ["compact", "audit"]
    assert first.errors == {B: "the catalog has no such table"}
    clock.now += FRESH - timedelta(seconds=1)
    assert await plan_cache.plan() is first
    clock.now += timedelta(seconds=1)
    assert (await plan_cache.plan()).made_at == clock.now
    assert planner.asked == 2


async def test_a_clock_that_was_set_back_makes_the_plan_anew() -> None:
    planner, clock = Planner(), Clock()
    planner.let.set()
    plan_cache = PlanCache(planner, clock)
    await plan_cache.plan()
    clock.now -= timedelta(days=1)
    assert (await plan_cache.plan()).made_at == clock.now


async def test_an_error_is_raised_to_all_who_wait_and_is_not_kept() -> None:
    planner = Planner()
    planner.error = TransientError("no answer")
    planner.let.set()
    plan_cache = PlanCache(planner, Clock())
    for error in await asyncio.gather(plan_cache.plan(), plan_cache.plan(), return_exceptions=True):
        assert isinstance(error, TransientError)
    planner.error = None
    assert (await plan_cache.plan()).plans


async def test_a_request_that_is_cancelled_does_not_cancel_the_plan() -> None:
    planner = Planner()
    plan_cache = PlanCache(planner, Clock())
    impatient, patient = asyncio.create_task(plan_cache.plan()), asyncio.create_task(plan_cache.plan())
    await asyncio.sleep(0)
    impatient.cancel()
    planner.let.set()
    assert (await patient).plans


async def test_a_dry_run_has_an_end_in_time_and_its_plan_is_made_to_its_end() -> None:
    ended = list[bool]()

    class Slow(Planner):
        async def plan(self, asked: RunRequest) -> tuple[list[Plan], dict[str, str]]:
            plans = await super().plan(asked)
            ended.append(True)
            return plans

    planner, clock = Slow(), Clock()
    waiting = asyncio.create_task(PlanCache(planner, clock).make(RunRequest(slot=clock.now), clock.now))
    await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.wait([waiting], timeout=1.0)
    assert waiting.cancelled()
    planner.let.set()
    await asyncio.sleep(0.01)
    assert ended == [True]


# --- a report


def only_keys_of(document: object, of: object) -> object:
    """The document without the fields that the other has not."""
    if isinstance(document, dict) and isinstance(of, dict):
        return {key: only_keys_of(document[key], value) for key, value in of.items()}
    if isinstance(document, list) and isinstance(of, list):
        return [only_keys_of(item, value) for item, value in zip(document, of, strict=True)]
    return document


def test_the_api_the_commands_and_the_events_agree_on_a_report() -> None:
    of_commands = report_document(REPORT)
    of_api = json.loads(_of_last(RunThatEnded(OPENING, REPORT)).model_dump_json())
    assert only_keys_of(of_api, of_commands) == of_commands
    assert event_from_plain(event_to_plain(RunEnded(REPORT))) == RunEnded(REPORT)
