"""The session's calls without a JVM: who is waited for when a call is stopped."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.adapters.spark.session import SparkEngine
from icekeeper.core.errors import DeadlineExceeded
from icekeeper.core.reasons import Reason


class Stubborn(SparkEngine):
    """An engine whose work goes on until it is let go; that takes as long as `stopping` is not set."""

    def __init__(self) -> None:
        super().__init__(SparkOptions("local[1]", "1g", Path("/nowhere")))
        self.let_go = threading.Event()
        self.stopping = asyncio.Event()
        self.told_to_stop = asyncio.Event()

    async def _ensure_started(self) -> None:
        pass

    def _call(self, work: Callable[[Any], Any], tag: str | None, where: str | None) -> Any:
        self.let_go.wait(10)
        return "done"

    async def _waited_for(self) -> Reason | None:
        return Reason.STORAGE_DOWN

    async def _stop_work(self, tag: str | None, done: asyncio.Future[Any]) -> bool:
        self.told_to_stop.set()
        await self.stopping.wait()
        self.let_go.set()
        await asyncio.wait([done])
        return False


async def test_work_past_its_deadline_says_whom_it_waited_for() -> None:
    engine = Stubborn()
    engine.stopping.set()
    with pytest.raises(DeadlineExceeded) as caught:
        await engine.run(lambda spark: None, timeout=timedelta(seconds=0.01), where="cold.t")
    assert str(caught.value) == "cold.t: stopped after 0 s, waiting for the object store"


@pytest.mark.parametrize("late", [True, False])
async def test_a_caller_that_is_cancelled_while_work_is_stopped_leaves_none_behind(late: bool) -> None:
    engine = Stubborn()
    timeout = timedelta(seconds=0.01 if late else 60)
    running = asyncio.create_task(engine.run(lambda spark: None, timeout=timeout))
    if not late:
        await asyncio.sleep(0.01)
        running.cancel()
    await engine.told_to_stop.wait()
    for _ in range(3):  # Ctrl-C, again and again
        running.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not running.done(), "the thread is still busy, and the next call would wait behind it"
    engine.stopping.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert engine.let_go.is_set()
