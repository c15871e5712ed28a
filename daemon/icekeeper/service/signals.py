"""SIGTERM, SIGINT and SIGHUP. The handlers only set events, which the supervisor and the reloads wait for."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import structlog

from icekeeper.service.ending import end_at_once

log = structlog.get_logger(__name__)


class Signals:
    """`stop`: the daemon stops, by a signal or of itself. `reload`: it reads its configuration again."""

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.reload = asyncio.Event()
        self._stop_signalled = False
        self._before_kill: list[Callable[[], None]] = []

    def install(self) -> None:
        """Replaces the handlers of this process."""
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self._stop_or_kill)
        loop.add_signal_handler(signal.SIGHUP, self.reload.set)

    def before_kill(self, end: Callable[[], None]) -> None:
        """Has `end` called before a second SIGTERM ends this process at once. It must not wait."""
        self._before_kill.append(end)

    def _stop_or_kill(self) -> None:
        if not self._stop_signalled:
            self._stop_signalled = True
            self.stop.set()
            return
        log.error("service_killed", why="a second signal to stop")
        for end in self._before_kill:
            end()
        end_at_once(130)  # the spool has every record so far; the next start closes the run as interrupted
