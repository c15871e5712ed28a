"""spark.log: the output of Spark's JVM, in files of bounded size. `launch.py` starts the JVM.

Read from a pipe, not written by log4j: so it also holds the output of the launcher, of the package resolver and of a
crash, with any version of Spark and any log4j settings.
"""

from __future__ import annotations

import os
import select
import threading
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import IO

from icekeeper.adapters.state_dir import give_to_its_owner
from icekeeper.core.secrets import hide_in_text

# Before it grows larger (bytes) it becomes spark.log.1, which becomes spark.log.2, and so on up to the last.
LARGEST = 16 * 1024**2
OLDER_FILES = 4
# How much of it is attached to a failed task at most.
TAIL_LINES = 40
TAIL_CHARACTERS = 8000
_RECENT = 64 * 1024
_CHUNK = 64 * 1024


class SparkLog:
    """Implements ports.EngineLog. One for all JVMs of a process; other processes may write to the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._pipes: list[IO[bytes]] = []
        # Bytes so far, and the last of them.
        self._total = 0
        self._recent = bytearray()

    def follow(self, pipe: IO[bytes]) -> None:
        """Reads the output of a JVM from now on, in a thread, until it exits."""
        os.set_blocking(pipe.fileno(), False)
        with self._lock:
            self._pipes.append(pipe)
        threading.Thread(target=self._follow, args=(pipe,), name="spark-log", daemon=True).start()

    def mark(self) -> int:
        """Where the log ends now."""
        with self._lock:
            self._drain()
            return self._total

    def since(self, mark: int) -> str:
        """The last lines since then, secrets hidden; empty where there are none."""
        return hide_in_text("\n".join(self.all_since(mark).splitlines()[-TAIL_LINES:]))[-TAIL_CHARACTERS:]

    def all_since(self, mark: int) -> str:
        """The output since then, secrets and all; at most the last 64 KiB."""
        with self._lock:
            self._drain()
            new = min(self._total - mark, len(self._recent))
            return self._recent[len(self._recent) - new :].decode(errors="replace")

    def _follow(self, pipe: IO[bytes]) -> None:
        waiting = select.poll()
        waiting.register(pipe.fileno(), select.POLLIN)
        open_ = True
        while open_:
            waiting.poll()
            with self._lock:
                open_ = self._read(pipe) is not None
        with self._lock:
            self._pipes.remove(pipe)
            pipe.close()

    def _drain(self) -> None:
        """Reads what is in the pipes: the thread may not have read the output of a call that just failed."""
        for pipe in self._pipes:
            while self._read(pipe):
                pass

    def _read(self, pipe: IO[bytes]) -> bool | None:
        """Whether there was output; None at its end."""
        try:
            chunk = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            return None
        self._total += len(chunk)
        self._recent += chunk
        del self._recent[:-_RECENT]
        with suppress(OSError):  # a full disk must not block the JVM, as an unread pipe would
            self._write(chunk)
        return True

    def _write(self, chunk: bytes) -> None:
        with suppress(FileNotFoundError):
            if self.path.stat().st_size + len(chunk) > LARGEST:
                self._shift()
        # Opened each time: another process may have renamed it meanwhile.
        with self.path.open("ab") as file:
            file.write(chunk)
            new = file.tell() == len(chunk)
        if new:
            give_to_its_owner(self.path)

    def _shift(self) -> None:
        names = [self.path.name, *(f"{self.path.name}.{number}" for number in range(1, OLDER_FILES + 1))]
        for younger, older in reversed(list(pairwise(names))):
            with suppress(FileNotFoundError):
                self.path.with_name(younger).rename(self.path.with_name(older))
