"""Steps of a startup or shutdown, each with a time budget; one that overruns is logged. Which steps: supervisor.py."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from icekeeper.core.errors import TransientError

T = TypeVar("T")
log = structlog.get_logger(__name__)

# How long a step may take to end once it was cancelled.
_CANCEL_S = 1.0


async def must(step: str, budget_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Does a step of the startup. Raises what it raises, TransientError where it overruns its budget."""
    task = asyncio.ensure_future(work)
    if not await _done(step, budget_s, task):
        raise TransientError(f"the startup did not get past the step `{step}` within {budget_s:g} s")
    return task.result()


async def attempt(step: str, budget_s: float, work: Coroutine[Any, Any, Any]) -> bool:
    """Does a step of the shutdown. False where it failed or overran: that is logged, and the next step follows."""
    task = asyncio.ensure_future(work)
    if not await _done(step, budget_s, task) or task.cancelled():
        return False
    if (error := task.exception()) is not None:
        log.error("step_failed", step=step, error=f"{type(error).__name__}: {error}")
        return False
    return True


async def _done(step: str, budget_s: float, task: asyncio.Future[Any]) -> bool:
    await asyncio.wait([task], timeout=budget_s)
    if task.done():
        return True
    log.error("step_overran", step=step, budget_s=budget_s, waits_in=_waits_in(task))
    task.cancel()
    await asyncio.wait([task], timeout=_CANCEL_S)
    return False


def _waits_in(task: asyncio.Future[Any]) -> str:
    """Where a task waits: its innermost coroutine that awaits, with the line."""
    coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
    place = "unknown"
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        place = f"{frame.f_code.co_qualname} ({frame.f_globals.get('__name__', '')}:{frame.f_lineno})"
        coroutine = getattr(coroutine, "cr_await", None)
    return place
