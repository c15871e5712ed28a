"""The daemon's life: startup, main loop, shutdown. What it is built of: components.py."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path

import structlog

from icekeeper.adapters.host import wall_clock
from icekeeper.adapters.spool.spool import Spool
from icekeeper.execution import logging as logs
from icekeeper.execution.lock import daemon_lock
from icekeeper.night.ports import Clock, Sleep
from icekeeper.service.components import Components
from icekeeper.service.signals import Signals
from icekeeper.service.steps import attempt, must
from icekeeper.service.systemd import Systemd
from icekeeper.settings import load

log = structlog.get_logger(__name__)

# What each step may take, in seconds. systemd's TimeoutStopSec has to be longer than those of the shutdown together.
_START_S = 10.0
# How long the first scrape waits for what PostgreSQL knows of the last nights.
_FIRST_READ_S = 2.0
STOP_S = {
    "current run": 40.0,
    "ship records": 10.0,
    "background tasks": 5.0,
    "connections": 5.0,
    "Spark session": 25.0,
    "http": 5.0,
    "threads": 5.0,  # by the command `serve`, when everything else has ended
}


class Supervisor:
    """One daemon. `run` returns once it was asked to stop and has stopped."""

    def __init__(
        self,
        config: Path,
        *,
        clock: Clock = wall_clock,
        sleep: Sleep = asyncio.sleep,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._config = config
        self._clock = clock
        self._sleep = sleep
        self._signals = Signals()
        self._systemd = Systemd.from_environment(environ)

    async def run(self) -> None:
        """Serves until SIGTERM or SIGINT.

        ConfigError where the configuration is no good, RunLockHeld where another daemon serves the state directory.
        """
        self._signals.install()
        # In a thread: a big file and its secrets take a while to read, and the loop has signals to handle.
        settings = await asyncio.to_thread(load, self._config)
        logs.configure(settings.logs.level, settings.logs.format, settings.state_dir)
        with daemon_lock(settings.state_dir):
            spool = await must("spool", _START_S, Spool.open(settings.state_dir, clock=self._clock))
            components = Components(
                self._config,
                settings,
                spool,
                signals=self._signals,
                systemd=self._systemd,
                clock=self._clock,
                sleep=self._sleep,
            )
            tasks: list[asyncio.Task[None]] = []
            try:
                await self._startup(components)
                tasks += [asyncio.create_task(work) for work in components.tasks()]
                await self._main_loop(tasks)
            finally:
                await self._shutdown(components, tasks)
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def _startup(self, components: Components) -> None:
        configuration = components.configuration
        await must("control socket", _START_S, components.control.start(configuration.settings.state_dir))
        components.scheduler.start()
        await components.reloads.record(configuration.record("boot"))
        await components.files.refresh()
        components.ledger_poller.refresh()
        await components.ledger_poller.settled(_FIRST_READ_S)
        await must("http", _START_S, components.web.start())
        if (pause := components.files.pause) is not None:
            log.warning("nights_paused", message=str(pause))
        log.info("service_started", port=components.web.port, next_slot=str(components.scheduler.next_slot))
        self._systemd.ready(components.status_line.text)
        components.reloads.started()

    async def _main_loop(self, tasks: list[asyncio.Task[None]]) -> None:
        stopping = asyncio.create_task(self._signals.stop.wait())
        # A daemon whose worker has died would be alive and do nothing: if one task ends, the daemon ends.
        await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        for task in tasks:  # at once: the shutdown that follows can take a while, or be killed
            if task.done() and (error := task.exception()) is not None:
                log.error("component_failed", component=_name(task), exc_info=error)

    async def _shutdown(self, components: Components, tasks: list[asyncio.Task[None]]) -> None:
        log.info("service_stopping")
        self._systemd.stopping("stopping")
        self._signals.stop.set()
        components.scheduler.stop()
        await attempt("current run", STOP_S["current run"], components.leadership.end())
        # Before the lease is given back: the next leader reads from the ledger how our run ended.
        await attempt("ship records", STOP_S["ship records"], components.shipper.ship())
        for task in tasks:
            task.cancel()
        await attempt("background tasks", STOP_S["background tasks"], _ended(tasks))
        # Before what they read is closed.
        await attempt("http", STOP_S["http"], components.stop_serving())
        await attempt("connections", STOP_S["connections"], components.close())
        if not await attempt("Spark session", STOP_S["Spark session"], components.engine.stop()):
            components.engine.abort()
        log.info("service_stopped")


def _name(task: asyncio.Task[None]) -> str:
    return getattr(task.get_coro(), "__qualname__", task.get_name())


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)
