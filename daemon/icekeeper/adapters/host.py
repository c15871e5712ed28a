"""The host that we run on: its clock against the servers' clocks, its disks, the memory that it grants."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from icekeeper.core.errors import IcekeeperError
from icekeeper.core.tables.restraints import Disk
from icekeeper.night.ports import Clock

log = structlog.get_logger(__name__)

# Whoever needs longer to tell the time can't be compared with.
_CLOCK_TIMEOUT_S = 5.0
_CGROUP = Path("/sys/fs/cgroup")
# Kernels write "no limit" as a number near the largest that fits.
_NO_LIMIT = 1 << 60


class Host:
    """Implements ports.Surroundings. `servers` tell their time by name; `directories` are those the work needs."""

    def __init__(
        self, clock: Clock, servers: Mapping[str, Callable[[], Awaitable[datetime]]], directories: tuple[Path, ...]
    ) -> None:
        self._clock = clock
        self._servers = servers
        self._directories = directories

    async def clock_ahead(self) -> Mapping[str, timedelta]:
        """Asked all at once; a server that does not answer in time is left out."""
        told = await asyncio.gather(*map(self._ahead_of, self._servers))
        return {name: ahead for name, ahead in zip(self._servers, told, strict=True) if ahead is not None}

    async def _ahead_of(self, name: str) -> timedelta | None:
        before = self._clock()
        try:
            async with asyncio.timeout(_CLOCK_TIMEOUT_S):
                theirs = await self._servers[name]()
        except (IcekeeperError, TimeoutError) as exc:
            log.debug("clock_not_told", server=name, error=str(exc))
            return None
        after = self._clock()
        return before + (after - before) / 2 - theirs

    def disks(self) -> tuple[Disk, ...]:
        """The directories with what their file systems have free; one that is not there yet counts by its parent."""
        return tuple(Disk(str(path), shutil.disk_usage(_existing(path)).free) for path in self._directories)


def _existing(path: Path) -> Path:
    return next(each for each in (path, *path.parents) if each.exists())


def memory_limit(root: Path = _CGROUP, process: Path = Path("/proc/self/cgroup")) -> int | None:
    """The smallest memory limit in bytes of the cgroups that we are in (v2 or v1), None where there is none."""
    return min((limit for limit, _ in _limited(root, process)), default=None)


def memory_room(
    root: Path = _CGROUP, process: Path = Path("/proc/self/cgroup"), physical: int | None = None
) -> tuple[int, str]:
    """How many bytes we may use, and who has them: by the limit or, where none is smaller, by the machine's memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if physical is None else physical
    limit = memory_limit(root, process)
    return (limit, "the container") if limit is not None and limit < machine else (machine, "this machine")


def memory_free(root: Path = _CGROUP, process: Path = Path("/proc/self/cgroup")) -> int | None:
    """What the tightest of these cgroups has left in bytes, None where there is no limit or no telling.

    Files that the kernel keeps in memory and nobody uses don't count: it drops them when it needs the room.
    """
    free = []
    for limit, directory in _limited(root, process):
        current = _number(directory / "memory.current") or _number(directory / "memory.usage_in_bytes")
        if current is not None:
            free.append(limit - current + _droppable(directory / "memory.stat"))
    return min(free, default=None)


def _limited(root: Path, process: Path) -> Iterator[tuple[int, Path]]:
    """The cgroups that limit our memory, each with its limit."""
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory") and "memory" not in controllers.split(","):
            continue
        base = root if controllers == "" else root / "memory"
        file = "memory.max" if controllers == "" else "memory.limit_in_bytes"
        group = base / path.lstrip("/")
        # In a container the path may be the host's: then only the root of what we see is ours.
        for directory in (group, *group.parents):
            if directory != base and base not in directory.parents:
                break
            limit = _number(directory / file)
            if limit is not None:
                yield limit, directory


def _droppable(file: Path) -> int:
    try:
        told = dict(line.split(" ", 1) for line in file.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    # In v1 the plain word leaves out the groups below.
    return int(told.get("total_inactive_file", told.get("inactive_file", "0")))


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None
