"""ClickHouse's counts that begin before they are asked for, on a fake of the source."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from daemon.core.calendar import window_of
from daemon.core.model import RunOutcome, SourceCount, Stage, Trigger
from daemon.core.reasons import Reason
from daemon.night import Order, run_night
from daemon.stages.ahead import FRESH, CountsAhead
from tests.unit.builders import SLOT, WINDOW_START, table_policy
from tests.unit.fakes import RUN_ID, FakeSource, ManualClock, Step, World, fails, transient

pytestmark = pytest.mark.usefixtures("logs")

TRADES = "market.trades"
WINDOW = window_of(SLOT, None)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def source() -> FakeSource:
    found = FakeSource(ManualClock(), [])
    found.hours[TRADES] = {WINDOW_START: 7}
    return found


@pytest.fixture
def counts(source: FakeSource) -> CountsAhead:
    return CountsAhead(source, source.clock)


def begin(counts: CountsAhead) -> None:
    counts.begin(TRADES, "ts", WINDOW, None, MINUTE)


async def count(counts: CountsAhead, final: bool | None = None) -> SourceCount:
    return await counts.count(TRADES, "ts", WINDOW, final, MINUTE)


async def test_what_is_under_way_is_waited_for_and_given_once(counts: CountsAhead, source: FakeSource) -> None:
    go_on = asyncio.Event()
    source.script("source.count", TRADES, Step(until=go_on))
    begin(counts)
    asked = asyncio.create_task(count(counts))
    await source.entered.wait()
    go_on.set()
    assert (await asked).rows == 7
    assert len(source.calls) == 1
    await count(counts)
    assert len(source.calls) == 2


async def test_another_count_is_made_for_itself(counts: CountsAhead, source: FakeSource) -> None:
    begin(counts)
    assert (await count(counts, final=True)).final is True
    assert (await count(counts)).final is False
    assert len(source.calls) == 2


async def test_one_that_failed_is_made_anew_with_the_time_that_is_left(counts: CountsAhead, source: FakeSource) -> None:
    source.script("source.count", TRADES, fails(transient(Reason.SOURCE_DOWN), takes=timedelta(seconds=20)))
    begin(counts)
    assert (await count(counts)).rows == 7
    assert [call.timeout for call in source.calls] == [MINUTE, timedelta(seconds=40)]


async def test_one_that_was_ready_long_ago_is_made_anew(counts: CountsAhead, source: FakeSource) -> None:
    begin(counts)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    source.clock.advance(FRESH + timedelta(seconds=1))
    await count(counts)
    assert len(source.calls) == 2


async def test_what_nobody_asks_for_is_ended(counts: CountsAhead, source: FakeSource) -> None:
    source.script("source.count", TRADES, Step(until=asyncio.Event()))
    begin(counts)
    await source.entered.wait()
    counts.end()
    await asyncio.sleep(0)
    assert {task for task in asyncio.all_tasks() if task is not asyncio.current_task()} == set()


async def test_clickhouse_counts_the_next_table_while_iceberg_counts_this_one() -> None:
    world, policies = World(), [table_policy(name) for name in ("cold.a", "cold.b", "cold.c")]
    for policy in policies:
        world.add(policy)
    done = asyncio.Event()
    world.lakehouse.script("count", "cold.a", Step(until=done))
    order = Order(RUN_ID, SLOT, Trigger.MANUAL, tables=tuple(policies), stages=(Stage.AUDIT,))
    run = asyncio.create_task(run_night(order, world.parts, world.events.append))
    await world.lakehouse.entered.wait()
    await asyncio.sleep(0)
    assert counted(world) == [policies[0].source, policies[1].source]
    done.set()
    assert (await run).outcome is RunOutcome.SUCCESS
    assert counted(world) == [policy.source for policy in policies]


def counted(world: World) -> list[str]:
    return [call.table for call in world.called("source.count")]
