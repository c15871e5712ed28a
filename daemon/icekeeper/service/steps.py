"""Steps of a start or a stop: each has a budget, and who overruns it is named. What the steps are: supervisor.py."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from icekeeper.core.errors import TransientError

log = structlog.get_logger(__name__)

# How long a step that was told to give up may take for it.
_GIVE_UP_S = 1.0


async def must(step: str, budget_s: float, work: Coroutine[Any, Any, Any]) -> None:
    """Does a step that all others stand on. Raises what it raises, TransientError where it overruns its budget."""
    if not await _done(step, budget_s, task := asyncio.ensure_future(work)):
        raise TransientError(f"the start did not get past `{step}` in {budget_s:g} s")
    task.result()


async def attempt(step: str, budget_s: float, work: Coroutine[Any, Any, Any]) -> bool:
    """Does a step of the stop. False where it failed or overran: that is logged, and the next step is due."""
    if not await _done(step, budget_s, task := asyncio.ensure_future(work)):
        return False
    if task.cancelled():
        return False
    if (error := task.exception()) is not None:
        log.error("step_failed", step=step, error=f"{type(error).__name__}: {error}")
        return False
    return True


async def _done(step: str, budget_s: float, task: asyncio.Future[Any]) -> bool:
    await asyncio.wait([task], timeout=budget_s)
    if task.done():
        return True
    log.error("step_overran", step=step, budget_s=budget_s, waits_in=waits_in(task))
    task.cancel()
    await asyncio.wait([task], timeout=_GIVE_UP_S)
    return False


def waits_in(task: asyncio.Future[Any]) -> str:
    """Where a task stands: the innermost function of it that awaits, with its line."""
    coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
    place = "unknown"
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None)
        if frame is None:
            break
        place = f"{frame.f_code.co_qualname} ({frame.f_globals.get('__name__', '')}:{frame.f_lineno})"
        coroutine = getattr(coroutine, "cr_await", None)
    return place
