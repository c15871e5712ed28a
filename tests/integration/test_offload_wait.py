"""A night on a Hadoop catalog beside an offload that writes, with Spark: nothing of ours commits while it does."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from icekeeper.adapters.iceberg.lakehouse import IcebergLakehouse
from icekeeper.core.enums import Stage, TaskOutcome, Trigger
from icekeeper.core.events import Event, TaskProgressed
from icekeeper.core.tables import planning
from icekeeper.execution.execute import make_order
from icekeeper.night.run import run_night
from icekeeper.sandbox import Offload
from icekeeper.sandbox.offload import OffloadClock
from tests.conftest import COINBASE, SLOT, MakeNight

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)


@dataclass
class Watched:
    """The lakehouse of a night; says when each slice begins and ends, and runs something after the first."""

    lakehouse: IcebergLakehouse
    now: Callable[[], datetime]
    after_first: Callable[[], Awaitable[None]]

    def __post_init__(self) -> None:
        self.began: list[datetime] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.lakehouse, name)

    async def compact(self, *args: Any, **more: Any) -> bool:
        self.began.append(self.now())
        rewrote = await self.lakehouse.compact(*args, **more)
        if len(self.began) == 1:
            await self.after_first()
        return rewrote


async def test_an_offload_that_begins_between_two_slices_makes_the_second_wait(
    make_night: MakeNight, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning._Bounds, "hold", lambda bounds, groups: False)  # each partition is a slice
    night = await make_night(COINBASE, catalog="hadoop", old_snapshots=0, days=1.25, commits_per_day=96, symbols=3)
    offload = OffloadClock(Offload(night.world), SLOT + 7 * MINUTE)
    before = night.world.rows_iceberg(COINBASE)

    async def sleep(seconds: float) -> None:
        await asyncio.to_thread(offload.move, offload.now() + seconds * SECOND)

    async def begins() -> None:
        await asyncio.to_thread(offload.move, SLOT + 15 * MINUTE + 1 * SECOND)

    ports = night.services.ports
    assert isinstance(ports.lakehouse, IcebergLakehouse)
    watched = Watched(ports.lakehouse, offload.now, begins)
    ports = replace(ports, lakehouse=watched, clock=offload.now, sleep=sleep)
    order = make_order(night.settings, SLOT, Trigger.MANUAL, stages=(Stage.COMPACT,))
    events: list[Event] = []

    (task,) = (await run_night(order, ports, events.append)).tasks

    assert (task.outcome, task.attempts) == (TaskOutcome.DONE, 1), task.error
    assert "of 3 partitions into 3, in 3 slices;" in task.note
    first, second, _ = watched.began
    assert first == SLOT + 7 * MINUTE
    ((status, updated),) = night.ledger("SELECT status, updated_at FROM offload_watermarks")
    assert status == "success"
    assert SLOT + 15 * MINUTE < updated <= second
    notes = [event.note for event in events if isinstance(event, TaskProgressed)]
    assert any(note.startswith("waits for the offload's cycle of 2026-02-18T02:15Z, which may be") for note in notes)
    assert any(note.startswith("waits for the offload's cycle, running for") for note in notes)
    assert night.world.rows_iceberg(COINBASE) > before, "the offload's rows are there, too"
    health = (await night.state(COINBASE)).health
    assert health.records == night.world.rows_iceberg(COINBASE)
