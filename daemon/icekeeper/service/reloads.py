"""Reloads on SIGHUP and by HTTP: announced to systemd, logged, recorded, as rotated secrets are.

What a reload does: scheduling/reload.py.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

import structlog

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.history import ConfigLoad
from icekeeper.http.identity import actor
from icekeeper.night.ports import Sleep
from icekeeper.scheduling.reload import Configuration, log_load
from icekeeper.service.signals import Signals
from icekeeper.service.status_line import StatusLine
from icekeeper.service.systemd import Systemd
from icekeeper.status.health import ServiceHealth
from icekeeper.status.metrics import Metrics

log = structlog.get_logger(__name__)

_PAUSE_S = 1.0


@dataclass(frozen=True, slots=True)
class Reloads:
    """Takes requests from the start; they wait until the startup is over."""

    configuration: Configuration
    signals: Signals
    spool: Spool
    health: ServiceHealth
    metrics: Metrics
    systemd: Systemd
    status_line: StatusLine
    sleep: Sleep
    _started: asyncio.Event = field(default_factory=asyncio.Event, init=False)

    def started(self) -> None:
        """The startup is over: requests are answered from now on."""
        self._started.set()

    async def run(self) -> None:
        """Reloads at every SIGHUP, until cancelled."""
        while True:
            await self.signals.reload.wait()
            self.signals.reload.clear()
            await self._reload("sighup")
            # Of a storm of signals one a second is answered, and the last.
            await self.sleep(_PAUSE_S)

    async def rotated(self, load: ConfigLoad | None) -> None:
        """The secret files were read; None: they hold what is in force."""
        if load is not None:
            await self.record(load)
        else:
            self.health.note("configuration", True)

    async def by_http(self) -> ConfigLoad:
        # In a task of its own: a client that disconnects must not leave half of a configuration in force.
        return await asyncio.shield(asyncio.create_task(self._reload("http")))

    async def record(self, load: ConfigLoad) -> None:
        """Shows, logs and stores what a reading of the configuration has changed."""
        self.health.note("configuration", not load.problems)
        if not load.problems:
            self.metrics.reload_time.set(load.at.timestamp())
        log_load(load, self.configuration)
        if load.by != "boot" and not load.problems and not load.changes:
            return
        try:
            await self.spool.record_load(load)
        except IcekeeperError as exc:
            log.error("reload_not_recorded", error=str(exc), advice=exc.reason.advice)

    async def _reload(self, by: str) -> ConfigLoad:
        await self._started.wait()  # the control socket listens before
        self.systemd.reloading()
        try:
            load = replace(await self.configuration.reload(by), actor=actor())
            await self.record(load)
        finally:
            self.systemd.ready(self.status_line.text)
        return load
