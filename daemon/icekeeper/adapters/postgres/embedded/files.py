"""Files and locks of the embedded ledger's directory. Where it is another user's, root follows no links in it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

SHARED, ALONE = fcntl.LOCK_SH, fcntl.LOCK_EX


def file(path: Path, flags: int) -> int:
    """A file descriptor; what root makes there belongs to the directory's owner all the same."""
    opened = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | _no_links(), 0o600)
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.fchown(opened, owner.st_uid, owner.st_gid)
    return opened


def directory(path: Path) -> int:
    """A file descriptor of a directory that is its owner's alone, as PostgreSQL demands: Kubernetes' fsGroup opens it
    to a group at each start, and a restore may."""
    opened = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | _no_links())
    if os.fstat(opened).st_mode & 0o7077:
        os.fchmod(opened, 0o700)
    return opened


def try_lock(path: Path, operation: int = ALONE) -> int | None:
    """A file descriptor that holds the lock; None where another process holds it."""
    lock = file(path, os.O_RDWR)
    if keep(lock, operation):
        return lock
    os.close(lock)
    return None


def keep(lock: int, operation: int) -> bool:
    """Whether the lock could be had; one that was held in another way is given up where it could not."""
    try:
        fcntl.flock(lock, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _no_links() -> int:
    return os.O_NOFOLLOW if os.geteuid() == 0 else 0
