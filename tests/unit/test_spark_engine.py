"""The engine without a JVM: calls that are stopped, the end of a session, changes of its options."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.options import SparkOptions, take_scratch
from icekeeper.adapters.spark.session import Session
from icekeeper.core.errors import DeadlineExceeded
from icekeeper.core.reasons import Reason


class Stubborn(SparkEngine):
    """An engine whose work goes on until it is let go; that takes as long as `stopping` is not set."""

    def __init__(self) -> None:
        super().__init__(SparkOptions("local[1]", "1g", Path("/nowhere")))
        self.let_go = threading.Event()
        self.stopping = asyncio.Event()
        self.stop_requested = asyncio.Event()
        self._session = Busy(self.options, self.log)
        self._session.let_go = self.let_go

    async def _ensure_started(self) -> None:
        pass

    async def _blocked_on(self) -> Reason | None:
        return Reason.STORAGE_DOWN

    async def _stop_work(self, tag: str | None, done: asyncio.Future[Any]) -> bool:
        self.stop_requested.set()
        await self.stopping.wait()
        self.let_go.set()
        await asyncio.wait([done])
        return False


class Busy(Session):
    let_go: threading.Event

    def call(self, work: Callable[[Any], Any], tag: str | None, where: str | None) -> Any:
        self.let_go.wait(10)
        return "done"


async def test_work_past_its_deadline_names_what_it_was_blocked_on() -> None:
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
    await engine.stop_requested.wait()
    for _ in range(3):  # Ctrl-C, again and again
        running.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not running.done(), "the thread is still busy, and the next call would wait behind it"
    engine.stopping.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert engine.let_go.is_set()


# --- the end of a session


class SlowToLeave(subprocess.Popen[bytes]):
    """A JVM's process that the kernel takes a while to end; `let_go` is set by the event loop, if it is free."""

    let_go: threading.Event

    def wait(self, timeout: float | None = None) -> int:
        assert self.let_go.wait(10), "the event loop was blocked"
        return super().wait(timeout)


@pytest.mark.parametrize("ending", ["recycle", "stop"])
async def test_the_loop_is_free_while_a_jvm_leaves_and_its_files_are_removed(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SparkEngine(SparkOptions("local[1]", "1g", tmp_path))
    take_scratch(engine.options)
    removed = threading.Event()

    def remove(directory: Path, ignore_errors: bool) -> None:
        assert removed.wait(10), "the event loop was blocked"

    monkeypatch.setattr("icekeeper.adapters.spark.options.shutil.rmtree", remove)
    with SlowToLeave([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        process.let_go = threading.Event()
        engine._session._jvm = process
        ended = asyncio.create_task(getattr(engine, ending)())
        await asyncio.sleep(0.05)
        process.let_go.set()
        await asyncio.sleep(0.05)
        removed.set()
        await ended
        assert process.returncode is not None
    assert engine.jvm_pid is None


async def test_two_callers_that_take_over_the_same_options_end_one_session(tmp_path: Path) -> None:
    class Counted(SparkEngine):
        ended = 0

        async def _end_session(self) -> None:
            self.ended += 1
            await asyncio.sleep(0)

    engine = Counted(SparkOptions("local[1]", "1g", tmp_path))
    other = replace(engine.options, driver_memory="2g")
    await asyncio.gather(engine.use(other), engine.use(other))
    assert (engine.ended, engine.options) == (1, other)
