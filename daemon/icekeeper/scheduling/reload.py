"""The configuration in force, and how another replaces it while the daemon runs. What a file may hold: settings/."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import structlog

from icekeeper.adapters.host import memory_room
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.core.errors import ConfigError
from icekeeper.core.history import ConfigLoad
from icekeeper.execution.wiring import Services, build, spark_options
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling.changes import changes, refuse_unchangeable
from icekeeper.settings import Settings, load
from icekeeper.settings.messages.warnings import warnings

log = structlog.get_logger(__name__)

# Who asked for a reading: a secret's file has changed.
_BY_ROTATION = "rotation"

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
        return await self._read(by, self._put_in_force)

    async def renew_secrets(self) -> ConfigLoad | None:
        """Puts in force what secret files hold now; None where they hold the same.

        Other keys of the file may differ by now: those wait for a reload, and the secrets with them.
        """
        load = await self._read(_BY_ROTATION, self._put_secrets_in_force)
        return load if load.changes or load.problems else None

    def with_secrets(self, used: SparkOptions) -> SparkOptions:
        """`used` with the catalog's secrets that are in force. Nothing else changes: the run under way goes on with the
        settings that it began with."""
        settings = self.settings
        fresh = spark_options(settings).session_conf
        catalog = f"spark.sql.catalog.{settings.catalog.name}"
        secrets = {f"{catalog}.{at[-1]}" for at in settings.secret_files if at[0] == "catalog"}
        if any(used.session_conf.get(name) != value for name, value in fresh.items() if name not in secrets):
            return used  # a reload has brought another catalog
        return replace(used, session_conf={**used.session_conf, **{name: fresh[name] for name in secrets}})

    def record(self, by: str, *, changes: tuple[str, ...] = (), problems: tuple[str, ...] = ()) -> ConfigLoad:
        """The record of a reading of the file, with the settings in force after it."""
        return ConfigLoad(uuid4(), self._clock(), socket.gethostname(), by, self.settings.digest(), changes, problems)

    async def close(self) -> None:
        await self.services.close()

    async def _read(self, by: str, put_in_force: Callable[[Settings], Awaitable[tuple[str, ...]]]) -> ConfigLoad:
        async with self._one_reload:
            try:
                # In a thread: a big file and its secrets take a while to read.
                settings = await asyncio.to_thread(load, self.path)
                return self.record(by, changes=() if settings == self.settings else await put_in_force(settings))
            except ConfigError as exc:
                problems = exc.problems
            except Exception as exc:  # a bug, or a file that none of the checks foresees: the next reload may do better
                problems = [f"{type(exc).__name__}: {exc}"]
            return self.record(by, problems=tuple(problems))

    async def _put_secrets_in_force(self, settings: Settings) -> tuple[str, ...]:
        old = self.settings
        same_files = settings.secret_files == old.secret_files
        if not same_files or settings.without_file_secrets() != old.without_file_secrets():
            raise ConfigError(["a secret file has changed, and other keys, too: they wait for a reload"])
        return await self._put_in_force(settings)

    async def _put_in_force(self, settings: Settings) -> tuple[str, ...]:
        """What has changed, a line each."""
        replaced = self._current
        old = replaced.services.settings
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
