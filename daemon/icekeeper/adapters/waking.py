"""Waiting for somebody or for some time, whichever comes first, by the injected sleep."""

from __future__ import annotations

import asyncio

from icekeeper.night.ports import Sleep


async def woken(event: asyncio.Event, seconds: float, sleep: Sleep) -> None:
    """Returns when the event is set, at the latest after so many seconds."""
    waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(sleep(seconds))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
