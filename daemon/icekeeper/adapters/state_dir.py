"""The directory that icekeeper's own files lie in. What lies there is each owner's: the spool, the run lock, logs."""

from __future__ import annotations

import os
from pathlib import Path


def make_state_dir(state_dir: Path) -> None:
    """Makes it where it is missing, for this user alone: its files hold what the logs say. OSError where it can't."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)


def give_to_its_owner(path: Path) -> None:
    """What root made there while it ran a command is the daemon's all the same."""
    owner = path.parent.stat()
    if os.geteuid() == 0 and owner.st_uid != 0:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def flush_to_disk(path: Path) -> None:
    """A file, or the names in a directory, outlive a loss of power: a rename does only then. OSError where it can't."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
