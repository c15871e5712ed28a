"""The event loop's heartbeat: every second it measures how late the loop is and feeds systemd's watchdog."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

BEAT_S = 1.0
# A beat that comes so late is logged: something blocks the loop.
LATE_S = 1.0


class Heartbeat:
    def __init__(self, on_beat: Callable[[], None]) -> None:
        self._on_beat = on_beat
        self._worst = 0.0

    async def run(self) -> None:
        """Beats until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + BEAT_S
            await asyncio.sleep(BEAT_S)
            lag = loop.time() - due
            self._worst = max(self._worst, lag)
            if lag > LATE_S:
                log.warning("loop_was_late", lag_s=round(lag, 3))
            self._on_beat()

    def worst_lag_s(self) -> float:
        """How late the latest beat since the last call was, in seconds."""
        worst, self._worst = self._worst, 0.0
        return worst
