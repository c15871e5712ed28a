"""ClickHouse's counts that begin before they are asked for, on a fake of the source."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from icekeeper.core.audit.records import SourceCount
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import window_of
from icekeeper.core.enums import RunOutcome, Stage, Trigger
from icekeeper.core.errors import DeadlineExceeded, IcekeeperError
from icekeeper.core.reasons import Reason
from icekeeper.night.order import Order
from icekeeper.night.run import run_night
from icekeeper.night.stages.prefetch import FRESH, CountRequest, PrefetchedCounts
from tests.unit.builders import SLOT, WINDOW_START, table_policy
from tests.unit.fakes import RUN_ID, FakeSource, ManualClock, Step, World, fails, permanent, transient

pytestmark = pytest.mark.usefixtures("logs")

TRADES = "market.trades"
SOURCE = Source((TRADES,), "ts")
WINDOW = window_of(SLOT, None)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def source() -> FakeSource:
    found = FakeSource(ManualClock(), [])
    found.hours[TRADES] = {WINDOW_START: 7}
    return found


@pytest.fixture
def counts(source: FakeSource) -> PrefetchedCounts:
    return PrefetchedCounts(source, source.clock)


NEXT = CountRequest(SOURCE, WINDOW, None)


async def begun(counts: PrefetchedCounts, source: FakeSource) -> None:
    """A count of another table has come, and the one of TRADES has begun after it."""
    source.hours["market.quotes"] = {WINDOW_START: 3}
    counts.prefetch(NEXT, MINUTE)
    assert (await counts.count(Source(("market.quotes",), "ts"), WINDOW, None, MINUTE)).rows == 3
    assert asked(source) == ["market.quotes"], "one at a time"
    await asyncio.sleep(0)


async def count(counts: PrefetchedCounts, final: bool | None = None) -> SourceCount:
    return await counts.count(SOURCE, WINDOW, final, MINUTE)


def asked(source: FakeSource) -> list[str]:
    return [call.table for call in source.calls]


async def test_what_is_under_way_is_waited_for_and_given_once(counts: PrefetchedCounts, source: FakeSource) -> None:
    go_on = asyncio.Event()
    source.script("source.count", TRADES, Step(until=go_on))
    await begun(counts, source)
    waiting = asyncio.create_task(count(counts))
    await source.entered.wait()
    go_on.set()
    assert (await waiting).rows == 7
    assert asked(source) == ["market.quotes", TRADES]
    await count(counts)
    assert asked(source) == ["market.quotes", TRADES, TRADES]


async def test_another_count_is_made_for_itself(counts: PrefetchedCounts, source: FakeSource) -> None:
    source.merging = {"market.quotes"}
    await begun(counts, source)
    assert (await count(counts, final=True)).final is True
    assert (await count(counts)).final is False
    assert asked(source) == ["market.quotes", TRADES, TRADES]


async def test_one_that_failed_for_now_is_made_anew_with_the_time_that_is_left(
    counts: PrefetchedCounts, source: FakeSource
) -> None:
    go_on = asyncio.Event()
    down = Step(transient(Reason.SOURCE_DOWN), acts=False, takes=timedelta(seconds=20), until=go_on)
    source.script("source.count", TRADES, down)
    await begun(counts, source)
    waiting = asyncio.create_task(count(counts))
    await asyncio.sleep(0)
    go_on.set()
    assert (await waiting).rows == 7
    assert [call.timeout for call in source.calls[1:]] == [MINUTE, timedelta(seconds=40)]


@pytest.mark.parametrize("error", [DeadlineExceeded("too long"), permanent(Reason.SOURCE_TABLE_NOT_FOUND)])
async def test_an_error_that_another_try_would_meet_again_is_reported(
    counts: PrefetchedCounts, source: FakeSource, error: IcekeeperError
) -> None:
    source.script("source.count", TRADES, fails(error))
    await begun(counts, source)
    with pytest.raises(type(error)):
        await count(counts)
    assert len(source.calls) == 2


async def test_one_that_was_ready_long_ago_is_made_anew(counts: PrefetchedCounts, source: FakeSource) -> None:
    await begun(counts, source)
    await asyncio.sleep(0)
    source.clock.advance(FRESH + timedelta(seconds=1))
    await count(counts)
    assert len(source.calls) == 3


async def test_a_count_that_is_not_needed_is_ended(counts: PrefetchedCounts, source: FakeSource) -> None:
    others = asyncio.all_tasks()  # servers of other tests on this loop among them
    source.script("source.count", TRADES, Step(until=asyncio.Event()))
    await begun(counts, source)
    await counts.end()
    assert asyncio.all_tasks() <= others


async def test_clickhouse_counts_the_next_table_while_iceberg_counts_this_one() -> None:
    world, policies = World(), [table_policy(name) for name in ("cold.a", "cold.b", "cold.c")]
    for policy in policies:
        world.add(policy)
    done = asyncio.Event()
    world.lakehouse.script("count", "cold.a", Step(until=done))
    order = Order(RUN_ID, SLOT, Trigger.MANUAL, tables=tuple(policies), stages=(Stage.AUDIT,))
    run = asyncio.create_task(run_night(order, world.ports, world.events.append))
    await world.lakehouse.entered.wait()
    await asyncio.sleep(0)
    assert counted(world) == [str(policies[0].source), str(policies[1].source)]
    done.set()
    assert (await run).outcome is RunOutcome.SUCCESS
    assert counted(world) == [str(policy.source) for policy in policies]


def counted(world: World) -> list[str]:
    return [call.table for call in world.called("source.count")]
