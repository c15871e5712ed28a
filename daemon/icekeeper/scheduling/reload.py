"""The configuration in force, and how another replaces it while the daemon runs. What a file may hold: settings/."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import structlog

from icekeeper.adapters.host import memory_room
from icekeeper.core.errors import ConfigError
from icekeeper.core.history import ConfigLoad
from icekeeper.execution.wiring import Services, build
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling.changes import changes, refuse_unchangeable
from icekeeper.settings import Settings, load
from icekeeper.settings.messages.warnings import warnings

log = structlog.get_logger(__name__)

# Both are called with the settings in force and the new ones; a ConfigError of the first refuses the new ones.
Prepare = Callable[[Settings, Settings], Awaitable[None]]
Follow = Callable[[Settings, Settings], None]


@dataclass(eq=False)
class _InUse:
    """Services, and how many users they have now."""

    services: Services
    users: int = 0


class Configuration:
    """The services in force. A reload replaces them; a run goes on with those that it has borrowed."""

    def __init__(self, path: Path, services: Services, clock: Clock, sleep: Sleep) -> None:
        """`services` are those of the settings that were read from `path` at boot."""
        self.path = path
        self._clock = clock
        self._sleep = sleep
        self._current = _InUse(services)
        # Services that a reload has replaced and a run still uses.
        self._replaced: list[_InUse] = []
        self._one_reload = asyncio.Lock()
        self._prepares: list[Prepare] = []
        self._followers: list[Follow] = []

    @property
    def services(self) -> Services:
        return self._current.services

    @property
    def settings(self) -> Settings:
        return self.services.settings

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Services]:
        """The services in force, kept open until the block ends also where a reload replaces them meanwhile."""
        in_use = self._current
        in_use.users += 1
        try:
            yield in_use.services
        finally:
            in_use.users -= 1
            await self._close_unused(in_use)

    def before_change(self, *prepare: Prepare) -> None:
        """Has each called before new settings are put in force. One that refuses them has to leave all as it was."""
        self._prepares += prepare

    def on_change(self, *follow: Follow) -> None:
        """Has each called after new settings were put in force."""
        self._followers += follow

    async def reload(self, by: str) -> ConfigLoad:
        """Reads the file again. One that is no good changes nothing, and its problems are in the answer."""
        async with self._one_reload:
            try:
                return self.record(by, changes=await self._replace())
            except ConfigError as exc:
                problems = exc.problems
            except Exception as exc:  # a bug, or a file that none of the checks foresees: the next reload may do better
                problems = [f"{type(exc).__name__}: {exc}"]
            return self.record(by, problems=tuple(problems))

    def record(self, by: str, *, changes: tuple[str, ...] = (), problems: tuple[str, ...] = ()) -> ConfigLoad:
        """The record of a reading of the file, with the settings in force after it."""
        return ConfigLoad(uuid4(), self._clock(), socket.gethostname(), by, self.settings.digest(), changes, problems)

    async def close(self) -> None:
        await self.services.close()

    async def _replace(self) -> tuple[str, ...]:
        """What has changed, a line each; empty where nothing has."""
        # In a thread: a big file and its secrets take a while to read.
        settings = await asyncio.to_thread(load, self.path)
        replaced = self._current
        old = replaced.services.settings
        if old == settings:
            return ()
        refuse_unchangeable(old, settings)
        services = build(
            settings, replaced.services.engine, clock=self._clock, sleep=self._sleep, before=replaced.services
        )
        for prepare in self._prepares:
            await prepare(old, settings)
        self._current = _InUse(services)
        self._replaced.append(replaced)
        for follow in self._followers:
            follow(old, settings)
        await self._close_unused(replaced)
        return changes(old, settings)

    async def _close_unused(self, in_use: _InUse) -> None:
        if in_use not in self._replaced or in_use.users:
            return
        self._replaced.remove(in_use)
        others = [self._current, *self._replaced]
        await in_use.services.close(but=[one for other in others for one in other.services.connections])


def log_load(load: ConfigLoad, configuration: Configuration) -> None:
    """Logs what a reading of the configuration has changed."""
    if load.problems:
        log.error("reload_failed", by=load.by, problems=load.problems, kept=True)
        return
    if load.by == "boot" or load.changes:
        settings = configuration.settings
        log.info(
            "config_loaded",
            path=str(configuration.path),
            settings_hash=load.settings_hash,
            tables=len(settings.policies()),
            disabled=[table.name for table in settings.tables if not table.enabled],
            mode=settings.mode,
        )
        for warning in warnings(settings, memory=memory_room()):
            log.warning("config_doubtful", warning=warning)
    if load.by != "boot":
        log.info("reloaded", by=load.by, changes=load.changes)
