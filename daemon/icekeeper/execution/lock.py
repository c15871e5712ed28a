"""One run at a time on a host: a lock file that the kernel frees however its holder dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from icekeeper.adapters.state_dir import give_to_its_owner, make_state_dir
from icekeeper.core.errors import IcekeeperError, PermanentError
from icekeeper.core.reasons import Reason


class RunLockHeld(IcekeeperError):
    """Another run is under way, or another daemon serves this state directory. Exit code 4."""


@contextmanager
def run_lock(state_dir: Path) -> Iterator[None]:
    """Holds the lock that every run takes, or raises RunLockHeld with the holder's process id."""
    with _held(state_dir / "run.lock", "another run is under way", "wait for its end"):
        yield


@contextmanager
def daemon_lock(state_dir: Path) -> Iterator[None]:
    """Holds the lock of the one daemon that a state directory has, or raises RunLockHeld."""
    advice = "stop it, or give this one a state_dir of its own"
    with _held(state_dir / "daemon.lock", "another daemon serves this state_dir", advice):
        yield


@contextmanager
def _held(path: Path, what: str, advice: str) -> Iterator[None]:
    make_state_dir(path.parent)
    holder = path.with_suffix(".pid")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
        give_to_its_owner(path)
    except Timeout as exc:
        pid = holder.read_text().strip() if holder.exists() else "unknown"
        raise RunLockHeld(f"{what} (process {pid}, {path}): {advice}") from exc
    except PermissionError as exc:
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise  # its text names the directory
        text = f"{path} is not ours to lock: run this as the owner of {path.parent}, or remove that file"
        raise PermanentError(text, reason=Reason.ACCESS_DENIED) from exc
    try:
        with suppress(OSError):  # a full disk: the lock is held, its holder is not named
            holder.write_text(f"{os.getpid()}\n")
            give_to_its_owner(holder)
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()
