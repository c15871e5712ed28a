"""Waiting for the first of several things, by the injected sleep where time is one of them, or for one to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from icekeeper.night.ports import Sleep

T = TypeVar("T")


async def first_of(*works: Awaitable[Any]) -> tuple[asyncio.Future[Any], ...]:
    """Waits until one of them has ended, and cancels the others; returns them all, and all have ended then."""
    tasks = tuple(map(asyncio.ensure_future, works))
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return tasks


async def wait_for_event(event: asyncio.Event, timeout_s: float, sleep: Sleep) -> None:
    """Returns when the event is set, at the latest after `timeout_s` seconds."""
    await first_of(event.wait(), sleep(timeout_s))


async def uninterrupted(work: Awaitable[T], *, drop_cancellation: bool = False) -> T:
    """Awaits work to its end even if the caller is cancelled meanwhile; the cancellation is raised or dropped then."""
    task, cancelled = asyncio.ensure_future(work), None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as exc:
            cancelled = cancelled or exc
    if cancelled is not None and not drop_cancellation:
        retrieve(task)
        raise cancelled
    return task.result()


def retrieve(future: asyncio.Future[Any]) -> None:
    """Retrieves an exception that is reported elsewhere: Python complains of one that never was."""
    if not future.cancelled():
        future.exception()
