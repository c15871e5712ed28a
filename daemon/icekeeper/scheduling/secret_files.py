"""Takes up what secret files hold when they have changed: credentials are rotated there while the daemon runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.core.history import ConfigLoad
from icekeeper.night.ports import Sleep
from icekeeper.scheduling.reload import Configuration

log = structlog.get_logger(__name__)

# A mounted secret of Kubernetes takes up to a minute to change as well.
_EVERY_S = 30.0
# Files that belong together (an id and its key) are written one after the other: for so long none has changed.
_SETTLED_S = 2.0
# How long a new session waits for them.
_WITHIN_S = 20.0
# Of each file the inode, the size and the time of the last change; None where there is none.
_Versions = list[tuple[int, int, int] | None]


@dataclass(slots=True)
class SecretFiles:
    """`taken_up` hears of each reading that was due; None: the files hold what is in force."""

    configuration: Configuration
    taken_up: Callable[[ConfigLoad | None], Awaitable[None]]
    sleep: Sleep
    # What was read last.
    _read: _Versions | None = field(default=None, init=False)
    _one: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    async def watch(self) -> None:
        """Reads the files again once they have changed, until cancelled."""
        while True:
            await self._read_changed()
            await self.sleep(_EVERY_S)

    async def after_refusal(self, used: SparkOptions) -> SparkOptions:
        """The options of the session after `used`, whose credentials were refused: with what the files hold now."""
        # Shielded: half of a configuration must not stay in force.
        reading = asyncio.create_task(self._read_changed())
        _, late = await asyncio.wait([reading], timeout=_WITHIN_S)
        if late:
            log.warning("secret_files_not_read", within_s=_WITHIN_S)
        return self.configuration.with_secrets(used)

    async def _read_changed(self) -> None:
        async with self._one:
            versions = await self._versions()
            if not versions or versions == self._read:
                return
            settled = None
            while versions != settled:
                settled = versions
                await self.sleep(_SETTLED_S)
                versions = await self._versions()
            load = await self.configuration.renew_secrets()
            self._read = versions
            await self.taken_up(load)

    async def _versions(self) -> _Versions:
        # In a thread: the files may be on a mount that hangs.
        return await asyncio.to_thread(_versions, self.configuration.settings.secret_files.values())


def _versions(files: Iterable[Path]) -> _Versions:
    versions: _Versions = []
    for file in files:
        try:
            found = file.stat()
        except OSError:
            versions.append(None)
        else:
            versions.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return versions
