"""The loop's heartbeat: beats every second, measures how late it is, feeds systemd's watchdog."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

log = structlog.get_logger(__name__)

BEAT_S = 1.0
# A loop that was held up so long gets a line: something blocks that should not.
LATE_S = 1.0


class Heartbeat:
    """`worst_lag_s` is the latest that a beat has come since it was last asked for."""

    def __init__(self, alive: Callable[[], None]) -> None:
        """`alive` is called at every beat."""
        self._alive = alive
        self._worst = 0.0

    async def run(self) -> None:
        """Beats for ever."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + BEAT_S
            await asyncio.sleep(BEAT_S)
            lag = loop.time() - due
            self._worst = max(self._worst, lag)
            if lag > LATE_S:
                log.warning("loop_was_late", lag_s=round(lag, 3))
            self._alive()

    def worst_lag_s(self) -> float:
        """Seconds; asking begins a new measurement."""
        worst, self._worst = self._worst, 0.0
        return worst
