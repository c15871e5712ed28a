"""The log lines of a run: a file for each run, written by one thread and read back. Levels and formats: logging.py.

A process that is killed, or that ends by os._exit, loses the lines that still wait for the thread: those of its last
moment. A process that ends by itself loses none, and a run's report is recorded only after its lines are written.
"""

from __future__ import annotations

import atexit
import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any
from uuid import UUID

from structlog.typing import EventDict

from icekeeper.adapters.state_dir import give_to_its_owner

# Bound while a dry run is under way: it changes nothing, so it has no file.
_DRY = "dry_run"
UNRECORDED = {_DRY: True}
# How long a disk may take to write what waits before the process goes on without it.
FLUSH_S = 5.0


def run_log_path(state_dir: Path, run_id: UUID | str) -> Path:
    """Where the log lines of a run are kept, one JSON object each."""
    return state_dir / "runs" / f"{run_id}.jsonl"


class RunFiles:
    """A processor of structlog's: has every line that carries a run_id written to that run's file."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir

    def __call__(self, logger: Any, name: str, event: EventDict) -> EventDict:
        run_id = event.get("run_id")
        dry = event.pop(_DRY, False)
        if run_id is not None and not dry:
            _writer.append(run_log_path(self._state_dir, run_id), json.dumps(dict(event), default=str) + "\n")
        return event


def flush(timeout_s: float = FLUSH_S) -> bool:
    """Waits until all lines logged so far are written; False: not in time. Not to be called on the loop."""
    return _writer.flush(timeout_s)


def logs_of(state_dir: Path, run_id: UUID) -> tuple[Mapping[str, Any], ...]:
    """The log lines of a run that were logged so far. Not to be called on the loop."""
    flush()
    path = run_log_path(state_dir, run_id)
    if not path.exists():
        return ()
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):  # half a line, of a full disk or a kill
            lines.append(json.loads(line))
    return tuple(lines)


class _Writer:
    """Appends lines to files, in the order in which they come, in a thread of its own: logging waits for no disk."""

    def __init__(self) -> None:
        # An event in the queue is set when everything before it is written.
        self._queue: SimpleQueue[tuple[Path, str] | threading.Event] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def append(self, path: Path, line: str) -> None:
        self._queue.put((path, line))
        self._ensure_started()

    def flush(self, timeout_s: float) -> bool:
        if self._thread is None:
            return True
        written = threading.Event()
        self._queue.put(written)
        return written.wait(timeout_s)

    def _ensure_started(self) -> None:
        if self._thread is not None:
            return
        with self._starting:
            if self._thread is None:
                # A daemon thread: a disk that hangs must not keep the process from ending.
                self._thread = threading.Thread(target=self._write_all, name="run-logs", daemon=True)
                self._thread.start()
                atexit.register(self.flush, FLUSH_S)

    def _write_all(self) -> None:
        while True:
            item = self._queue.get()
            if isinstance(item, threading.Event):
                item.set()
            else:
                with suppress(OSError):  # a full disk; the line is on stderr all the same
                    _append(*item)


def _append(path: Path, line: str) -> None:
    if not path.parent.exists():
        path.parent.mkdir(parents=True)
        give_to_its_owner(path.parent)
    # Opened for each line: a run writes a few hundred, and its file may be removed meanwhile.
    with path.open("a", encoding="utf-8") as file:
        file.write(line)
    give_to_its_owner(path)


_writer = _Writer()
