"""One run at a time on a host: a lock file that the kernel frees however its holder dies; and its directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from daemon.core.errors import IcekeeperError


class RunLockHeld(IcekeeperError):
    """Another process is running a night. Exit code 4."""


def make_state_dir(state_dir: Path) -> None:
    """Makes it where it is missing, for this user alone: its files hold what the logs say. OSError where it can't."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextmanager
def run_lock(state_dir: Path) -> Iterator[None]:
    """Holds the lock of `state_dir`, or raises RunLockHeld with the holder's process id."""
    make_state_dir(state_dir)
    path = state_dir / "run.lock"
    holder = path.with_suffix(".pid")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as exc:
        pid = holder.read_text().strip() if holder.exists() else "unknown"
        raise RunLockHeld(f"another run is under way (process {pid}, {path}): wait for its end") from exc
    try:
        with suppress(OSError):  # on a full disk; the lock is held all the same, only its holder is not told
            holder.write_text(f"{os.getpid()}\n")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()
