"""This host: its clock compared with the servers' clocks, its disks, its memory limits."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import structlog

from icekeeper.core.errors import IcekeeperError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.restraints import Disk
from icekeeper.night.ports import Clock

log = structlog.get_logger(__name__)

# The clock of a server that takes longer to answer is not compared.
_CLOCK_TIMEOUT_S = 5.0
# A local disk answers in microseconds; a network mount whose server is away blocks for ever.
_DISK_TIMEOUT_S = 10.0
_CGROUP = Path("/sys/fs/cgroup")
# Kernels write "no limit" as a number near the largest possible one.
_NO_LIMIT = 1 << 60


def wall_clock() -> datetime:
    """Now, in UTC: the clock of everything outside tests."""
    return datetime.now(UTC)


class Host:
    """Implements ports.Surroundings. `servers` tell their time by name; `directories` are those the work needs."""

    def __init__(
        self,
        clock: Clock,
        servers: Mapping[str, Callable[[], Awaitable[datetime]]],
        directories: tuple[Path, ...],
        free_bytes: Callable[[Path], int] | None = None,
    ) -> None:
        self._clock = clock
        self._servers = servers
        self._directories = directories
        self._free_bytes = free_bytes or disk_free

    async def clock_ahead(self) -> Mapping[str, timedelta]:
        """All servers are asked at once; one that does not answer in time is left out."""
        ahead = await asyncio.gather(*map(self._ahead_of, self._servers))
        return {name: by for name, by in zip(self._servers, ahead, strict=True) if by is not None}

    async def _ahead_of(self, name: str) -> timedelta | None:
        before = self._clock()
        try:
            async with asyncio.timeout(_CLOCK_TIMEOUT_S):
                theirs = await self._servers[name]()
        except (IcekeeperError, TimeoutError) as exc:
            log.debug("clock_not_read", server=name, error=str(exc))
            return None
        after = self._clock()
        return before + (after - before) / 2 - theirs

    async def disks(self) -> tuple[Disk, ...]:
        """The directories with the free bytes of their file systems. TransientError where one does not answer."""
        return tuple(await asyncio.gather(*map(self._disk, self._directories)))

    async def _disk(self, directory: Path) -> Disk:
        reading = asyncio.wrap_future(_read_in_thread(self._free_bytes, directory))
        await asyncio.wait([reading], timeout=_DISK_TIMEOUT_S)
        if not reading.done():
            reading.cancel()  # only this caller's future; the thread goes on
            text = f"the file system did not answer within {_DISK_TIMEOUT_S:g} s"
            raise TransientError(text, reason=Reason.STORAGE_DOWN, where=str(directory))
        try:
            return Disk(str(directory), reading.result())
        except OSError as exc:
            reason = Reason.ACCESS_DENIED if isinstance(exc, PermissionError) else Reason.STORAGE_DOWN
            text = f"the free space can't be read: {exc.strerror or exc}"
            raise TransientError(text, reason=reason, where=str(directory)) from exc


# Directories that are being read, of all hosts in this process: while a thread hangs, no second one is started.
_reading: dict[Path, Future[int]] = {}
_reading_lock = threading.Lock()


def _read_in_thread(read: Callable[[Path], int], directory: Path) -> Future[int]:
    """Calls `read` in a daemon thread of its own, which neither blocks the default executor nor the exit."""
    with _reading_lock:
        if (pending := _reading.get(directory)) is not None:
            return pending
        future = _reading[directory] = Future[int]()
        future.set_running_or_notify_cancel()

    def work() -> None:
        try:
            settle = partial(future.set_result, read(directory))
        except Exception as exc:
            settle = partial(future.set_exception, exc)
        with _reading_lock:
            del _reading[directory]
        settle()

    threading.Thread(target=work, name=f"disk {directory}", daemon=True).start()
    return future


def disk_free(path: Path) -> int:
    """Free bytes of a directory's file system; of one that does not exist yet, of its nearest parent's. OSError."""
    try:
        return shutil.disk_usage(path).free
    except (FileNotFoundError, NotADirectoryError):
        if path == path.parent:
            raise
        return disk_free(path.parent)


def memory_limit(root: Path = _CGROUP, process: Path = Path("/proc/self/cgroup")) -> int | None:
    """The smallest memory limit in bytes of this process's cgroups (v2 or v1), None where there is none."""
    return min((limit for limit, _ in _limited(root, process)), default=None)


def memory_room(
    root: Path = _CGROUP, process: Path = Path("/proc/self/cgroup"), physical: int | None = None
) -> tuple[int, str]:
    """How many bytes this process may use, and whose they are: the smaller of the limit and the machine's memory."""
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if physical is None else physical
    limit = memory_limit(root, process)
    return (limit, "the container") if limit is not None and limit < machine else (machine, "this machine")


def memory_free(root: Path = _CGROUP, process: Path = Path("/proc/self/cgroup")) -> int | None:
    """The free bytes of the cgroup with the least left, None where there is no limit or it can't be read.

    The kernel's cache of files counts as free: it is dropped when memory is needed.
    """
    free = []
    for limit, directory in _limited(root, process):
        current = _number(directory / "memory.current") or _number(directory / "memory.usage_in_bytes")
        if current is not None:
            free.append(limit - current + _droppable(directory / "memory.stat"))
    return min(free, default=None)


def _limited(root: Path, process: Path) -> Iterator[tuple[int, Path]]:
    """The limits on this process's memory, each with its cgroup's directory."""
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
        # In a container the path may be the host's: then only the visible root limits us.
        for directory in (group, *group.parents):
            if directory != base and base not in directory.parents:
                break
            limit = _number(directory / file)
            if limit is not None:
                yield limit, directory


def _droppable(file: Path) -> int:
    try:
        statistics = dict(line.split(" ", 1) for line in file.read_text().splitlines())
    except (OSError, ValueError):
        return 0
    # In v1 the plain key leaves out the cgroups below.
    return int(statistics.get("total_inactive_file", statistics.get("inactive_file", "0")))


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() and int(text) < _NO_LIMIT else None
