"""A slot that comes due is put on the queue, and none is lost while the lease says nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.enums import RunOutcome, Trigger
from icekeeper.core.events import Event, RunEnded
from icekeeper.execution.wiring import build, spark_options
from icekeeper.scheduling import worker
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.scheduler import Scheduler
from icekeeper.scheduling.slots import Slots
from icekeeper.scheduling.worker import Worker
from icekeeper.settings.model import Schedule
from tests.unit.builders import SLOT
from tests.unit.fakes import World
from tests.unit.test_worker import Replaced, settings_of_one_table

# Long ago: APScheduler fires at once.
LONG_AGO = datetime(2020, 2, 18, 1, 59, tzinfo=UTC)


class Queue:
    def __init__(self) -> None:
        self.slots: list[tuple[datetime, Trigger]] = []
        self.fired = asyncio.Event()

    async def put(self, slot: datetime, trigger: Trigger) -> None:
        self.slots.append((slot, trigger))
        self.fired.set()


async def fired(queue: Queue, *, in_term: bool, leads: bool) -> list[tuple[datetime, Trigger]]:
    """What is on the queue when the first slot has come due."""
    leadership: Any = SimpleNamespace(in_term=in_term, leads=lambda: leads)
    schedule = Schedule(cron="0 2 * * *", timezone="UTC")
    scheduler = Scheduler(schedule, cast(Slots, queue), leadership, lambda: LONG_AGO, asyncio.sleep)
    scheduler.start()
    with suppress(TimeoutError):
        async with asyncio.timeout(5 if in_term else 0.1):
            await queue.fired.wait()
    scheduler.stop()
    return queue.slots[:1]


@pytest.mark.parametrize("leads", [True, False])
async def test_a_slot_of_a_term_is_kept_also_while_an_answer_of_the_lease_is_overdue(leads: bool) -> None:
    due = await fired(Queue(), in_term=True, leads=leads)
    assert due == [(datetime(2020, 2, 18, 2, tzinfo=UTC), Trigger.SCHEDULE)]


async def test_a_standby_keeps_no_slot() -> None:
    assert await fired(Queue(), in_term=False, leads=False) == []


async def test_a_slot_waits_for_an_overdue_answer_of_the_lease_and_runs_as_soon_as_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "LEASE_CHECK_S", 0.1)
    settings, world, events, answered = settings_of_one_table(tmp_path), World(), list[Event](), asyncio.Event()
    settings.state_dir.mkdir()
    for policy in settings.policies():
        world.add(policy)
    services = replace(build(settings, SparkEngine(spark_options(settings))), ports=world.ports)
    configuration = Replaced(services)
    spool = await Spool.open(settings.state_dir, clock=world.clock)
    try:
        subject = Worker(cast(Configuration, configuration), spool, events.append, world.clock, answered.is_set)
        await subject.slots.put(SLOT, Trigger.SCHEDULE)
        with capture_logs() as logs:
            term = asyncio.create_task(subject.run())
            await asyncio.sleep(0.5)
            assert events == []
            assert len(logs) < 20  # it waits, and does not try again and again
            answered.set()
            async with asyncio.timeout(10):
                await configuration.closing.wait()
        await subject.stop()
        term.cancel()
        await asyncio.wait([term])
        assert [event.report.outcome for event in events if isinstance(event, RunEnded)] == [RunOutcome.SUCCESS]
    finally:
        await spool.close()
        await services.close()
