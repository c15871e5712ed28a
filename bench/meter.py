"""What a turn takes beside time: CPU seconds and peak memory of the rival's processes, read while it goes on."""

from __future__ import annotations

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

import psutil
import pyarrow as pa

POLL_S = 0.05
# Finding processes that were started meanwhile reads all of /proc: often would steal from what is measured.
DISCOVER_S = 0.5
MIB = 1024**2


@dataclass(slots=True)
class _Watched:
    process: psutil.Process
    cpu_before: float
    cpu_s: float = 0.0

    def read(self) -> tuple[bool, float]:
        """Whether it is a JVM by now (the script that starts Java becomes it), and its resident memory in MiB."""
        with self.process.oneshot():
            self.cpu_s = _cpu(self.process) - self.cpu_before
            return self.process.name() == "java", float(self.process.memory_info().rss) / MIB


class Meter:
    """Measures the block: seconds, and what the processes `pids` and those started meanwhile used.

    Servers, and the sessions of other rivals, were there before and are none of `pids`: they are left out, with what
    they start meanwhile (PostgreSQL a process for each connection, each of which counts the shared memory as its own).
    The CPU time of a process that has ended is known as of the last reading. `others`: the cores that other programs
    of this machine used meanwhile.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        self.seconds = self.python_peak_mib = self.jvm_peak_mib = self.others = 0.0
        self._own = psutil.Process()
        processes = [psutil.Process(pid) for pid in pids]
        self._watched = {process.pid: _Watched(process, _cpu(process)) for process in processes}
        self._servers = {child.pid for child in self._own.children(recursive=True)} - self._watched.keys()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on, name="meter", daemon=True)
        self._begun = self._others_before = 0.0

    @property
    def cpu_s(self) -> float:
        return sum(each.cpu_s for each in self._watched.values())

    def cpu_of(self, pid: int) -> float:
        """The CPU seconds of one of the processes."""
        return self._watched[pid].cpu_s

    def __enter__(self) -> Meter:
        self._look()
        self._thread.start()
        self._others_before = _busy_s() - self._ours_s()
        self._begun = time.perf_counter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.seconds = time.perf_counter() - self._begun
        self._over.set()
        self._thread.join()
        self._look()
        others_s = _busy_s() - self._ours_s() - self._others_before
        self.others = max(0.0, others_s / max(time.perf_counter() - self._begun, POLL_S))

    def _ours_s(self) -> float:
        """The CPU seconds of this process and all that it has started, servers and those that have ended included."""
        total = 0.0
        for process in (self._own, *self._own.children(recursive=True)):
            with suppress(psutil.Error):  # it has ended just now
                total += sum(process.cpu_times()[:4])  # user, system, and both of children that have ended
        return total

    def _look_on(self) -> None:
        discovered = time.monotonic()
        while not self._over.wait(POLL_S):
            if time.monotonic() - discovered >= DISCOVER_S:
                self._discover()
                discovered = time.monotonic()
            self._look()

    def _discover(self) -> None:
        children = self._own.children(recursive=True)
        parents: dict[int, int] = {}
        for child in children:
            with suppress(psutil.Error):  # it has ended just now
                parents[child.pid] = child.ppid()
        for child in children:
            if not self._is_servers(child.pid, parents):
                self._watched.setdefault(child.pid, _Watched(child, 0.0))

    def _is_servers(self, pid: int, parents: Mapping[int, int]) -> bool:
        """Whether a server is the process, or any of those it comes from."""
        return pid in self._servers or (pid in parents and self._is_servers(parents[pid], parents))

    def _look(self) -> None:
        python = jvm = 0.0
        for each in self._watched.values():
            try:
                java, resident = each.read()
            except psutil.Error:
                continue  # it has ended; its CPU time stays as it was seen last
            if java:
                jvm += resident
            else:
                python += resident
        self.python_peak_mib = max(self.python_peak_mib, python)
        self.jvm_peak_mib = max(self.jvm_peak_mib, jvm)


def give_back() -> None:
    """Gives what earlier turns have left in this process back to the system: it is not the next one's memory."""
    gc.collect()
    pa.default_memory_pool().release_unused()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _busy_s() -> float:
    """The CPU seconds of all programs of this machine."""
    times = psutil.cpu_times()
    return float(times.user + times.nice + times.system)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
