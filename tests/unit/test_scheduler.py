"""A slot that comes due is put on the queue, and none is lost while the lease says nothing."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import pytest

from icekeeper.core.enums import Trigger
from icekeeper.scheduling.scheduler import Scheduler
from icekeeper.scheduling.slots import Slots
from icekeeper.settings.model import Schedule

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
