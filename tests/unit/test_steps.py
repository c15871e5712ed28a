"""Steps with a budget: one that overruns is named with the place where it waits, and the next one is due."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from structlog.testing import capture_logs

from icekeeper.core.errors import PermanentError, TransientError
from icekeeper.service.steps import attempt, must


async def hangs() -> None:
    await deeper()


async def deeper() -> None:
    await asyncio.Event().wait()


async def fails() -> None:
    raise PermanentError("no")


async def works() -> None:
    await asyncio.sleep(0)


async def deaf(released: asyncio.Event) -> None:
    """Does not even end when it is cancelled."""
    while not released.is_set():
        with suppress(asyncio.CancelledError):
            await released.wait()


async def test_a_step_of_the_stop_that_overruns_is_named_with_where_it_waits() -> None:
    with capture_logs() as logs:
        assert not await attempt("connections", 0.01, hangs())
    (line,) = logs
    assert (line["event"], line["step"], line["budget_s"]) == ("step_overran", "connections", 0.01)
    assert "wait (asyncio.locks" in line["waits_in"]


async def test_a_step_of_the_stop_that_fails_costs_no_other() -> None:
    with capture_logs() as logs:
        assert not await attempt("the records", 1, fails())
    assert (logs[0]["event"], logs[0]["error"]) == ("step_failed", "PermanentError: no")
    assert await attempt("http", 1, works())


async def test_a_step_that_does_not_give_up_is_left_behind() -> None:
    released = asyncio.Event()
    with capture_logs():
        async with asyncio.timeout(10):
            assert not await attempt("deaf", 0.01, deaf(released))
    released.set()


async def test_a_step_of_the_start_that_overruns_ends_the_start() -> None:
    with capture_logs(), pytest.raises(TransientError, match=r"did not get past the step `the spool` within 0\.01 s"):
        await must("the spool", 0.01, hangs())
    with pytest.raises(PermanentError):
        await must("the spool", 1, fails())
