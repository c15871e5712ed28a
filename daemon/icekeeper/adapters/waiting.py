"""Waiting for an event or for some time, whichever comes first, by the injected sleep."""

from __future__ import annotations

import asyncio

from icekeeper.night.ports import Sleep


async def wait_for_event(event: asyncio.Event, timeout_s: float, sleep: Sleep) -> None:
    """Returns when the event is set, at the latest after `timeout_s` seconds."""
    waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(sleep(timeout_s))]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
