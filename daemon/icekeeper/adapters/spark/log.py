"""spark.log: what Spark's JVM says, in files that stay bounded. Who starts the JVM: `spark_launch.py`.

Read from a pipe, not written by log4j: so it also holds what the launcher, the package resolver and a JVM that crashes
say, of any version of Spark, and nobody's log4j settings matter.
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

# Where it would grow larger (bytes) it becomes spark.log.1, which becomes spark.log.2, and so on up to the last.
LARGEST = 16 * 1024**2
OLDER_FILES = 4
# What is told of a task: so many lines at most, and so many characters.
TOLD_LINES = 40
TOLD_CHARACTERS = 8000
_REMEMBERED = 64 * 1024
_CHUNK = 64 * 1024


class SparkLog:
    """Implements ports.EngineLog. One for all JVMs of a process; other processes may write to the same file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._pipes: list[IO[bytes]] = []
        self._said = 0
        self._recent = bytearray()

    def follow(self, pipe: IO[bytes]) -> None:
        """Takes what comes out of a JVM from now on, until it has left."""
        os.set_blocking(pipe.fileno(), False)
        with self._lock:
            self._pipes.append(pipe)
        threading.Thread(target=self._follow, args=(pipe,), name="spark-log", daemon=True).start()

    def mark(self) -> int:
        """Where the log ends now."""
        with self._lock:
            self._take_what_is_there()
            return self._said

    def since(self, mark: int) -> str:
        """The last lines since then, secrets hidden; empty where nothing was said."""
        return hide_in_text("\n".join(self.all_since(mark).splitlines()[-TOLD_LINES:]))[-TOLD_CHARACTERS:]

    def all_since(self, mark: int) -> str:
        """What was said since then, as it was said; of much the last 64 KiB."""
        with self._lock:
            self._take_what_is_there()
            new = min(self._said - mark, len(self._recent))
            return self._recent[len(self._recent) - new :].decode(errors="replace")

    def _follow(self, pipe: IO[bytes]) -> None:
        waiting = select.poll()
        waiting.register(pipe.fileno(), select.POLLIN)
        open_ = True
        while open_:
            waiting.poll()
            with self._lock:
                open_ = self._take(pipe) is not None
        with self._lock:
            self._pipes.remove(pipe)
            pipe.close()

    def _take_what_is_there(self) -> None:
        """What a call that just failed made the JVM say is in the pipe by now, and its thread may not have come yet."""
        for pipe in self._pipes:
            while self._take(pipe):
                pass

    def _take(self, pipe: IO[bytes]) -> bool | None:
        """Whether there was something; None at the end."""
        try:
            chunk = os.read(pipe.fileno(), _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            return None
        self._said += len(chunk)
        self._recent += chunk
        del self._recent[:-_REMEMBERED]
        with suppress(OSError):  # a full disk must not hold up the JVM, which waits where nobody reads
            self._write(chunk)
        return True

    def _write(self, chunk: bytes) -> None:
        with suppress(FileNotFoundError):
            if self.path.stat().st_size + len(chunk) > LARGEST:
                self._shift()
        # Opened each time: another process may have moved it away meanwhile.
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
