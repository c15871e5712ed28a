"""The configuration in force: one path for boot, SIGHUP and POST /-/reload. What a file may say: settings/."""

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
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.errors import ConfigError
from icekeeper.core.history import ConfigLoad
from icekeeper.execution.wiring import Services, build
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling.changes import changes, refuse_unchangeable
from icekeeper.settings import Settings, load
from icekeeper.settings.messages.warnings import warnings

log = structlog.get_logger(__name__)

# Called with the services that were in force (None at boot) and the new ones; raises where these can't be.
PutInForce = Callable[[Services | None, Services], Awaitable[None]]


@dataclass(eq=False)
class _Built:
    """Services, and how many use them."""

    services: Services
    users: int = 0


class Configuration:
    """Reads the file, builds the services, and puts them in force, or keeps the old ones."""

    def __init__(
        self,
        path: Path,
        engine: Callable[[Settings], SparkEngine],
        put_in_force: PutInForce,
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        """`engine` gives the session that the services of some settings share."""
        self.path = path
        self._engine = engine
        self._put_in_force = put_in_force
        self._clock = clock
        self._sleep = sleep
        self._current: _Built | None = None
        # What a reload has replaced and a run still uses.
        self._replaced: list[_Built] = []
        self._turn = asyncio.Lock()

    @property
    def services(self) -> Services:
        """What is in force now."""
        assert self._current is not None  # boot comes first
        return self._current.services

    @property
    def settings(self) -> Settings:
        return self.services.settings

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Services]:
        """The services in force, kept open until the block ends: a reload meanwhile closes them after that."""
        assert self._current is not None  # boot comes first
        built = self._current
        built.users += 1
        try:
            yield built.services
        finally:
            built.users -= 1
            await self._retire(built)

    async def boot(self) -> ConfigLoad:
        """Reads the file for the first time. ConfigError where it is no good."""
        return await self._load("boot")

    async def reload(self, by: str) -> ConfigLoad:
        """Reads it again; a file that is no good changes nothing, and its problems are in the answer."""
        try:
            return await self._load(by)
        except ConfigError as exc:
            problems = exc.problems
        except Exception as exc:  # whatever a file can hold, the next one is read again
            problems = [f"{type(exc).__name__}: {exc}"]
        return self._said(by, problems=tuple(problems))

    async def close(self) -> None:
        """Closes the services in force, if any are."""
        if self._current is not None:
            await self._current.services.close()

    async def _load(self, by: str) -> ConfigLoad:
        async with self._turn:
            # In a thread: a big file and its secrets take a while to read, and the loop has signals to hear.
            settings = await asyncio.to_thread(load, self.path)
            current = self._current
            old = current.services if current is not None else None
            if old is not None and old.settings == settings:
                return self._said(by)
            if old is not None:
                refuse_unchangeable(old.settings, settings)
            new = build(settings, self._engine(settings), clock=self._clock, sleep=self._sleep, before=old)
            await self._put_in_force(old, new)
            self._current = _Built(new)
            if current is None:
                return self._said(by)
            self._replaced.append(current)
            await self._retire(current)
            return self._said(by, changes=changes(current.services.settings, settings))

    def _said(self, by: str, *, changes: tuple[str, ...] = (), problems: tuple[str, ...] = ()) -> ConfigLoad:
        digest = self._current.services.settings.digest() if self._current is not None else ""
        return ConfigLoad(uuid4(), self._clock(), socket.gethostname(), by, digest, changes, problems)

    async def _retire(self, built: _Built) -> None:
        if built not in self._replaced or built.users:
            return
        self._replaced.remove(built)
        used = [*self.services.connections, *(one for other in self._replaced for one in other.services.connections)]
        await built.services.close(but=used)


def tell(load: ConfigLoad, configuration: Configuration) -> None:
    """Logs what a reading of the configuration has brought about."""
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
        for doubt in warnings(settings, memory=memory_room()):
            log.warning("config_doubtful", warning=doubt)
    if load.by != "boot":
        log.info("reloaded", by=load.by, changes=load.changes)
