"""Opening the spool: creates a missing file and replaces a corrupt one. Using it: file.py.

Every process that has it open holds a shared lock on `spool.lock`; it is created and replaced under an exclusive one,
so that no process goes on writing to a file that another one has moved away.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import structlog

from icekeeper.adapters.spool.errors import WAIT_S, is_damage
from icekeeper.adapters.spool.salvage import copy_readable_rows
from icekeeper.adapters.state_dir import flush_to_disk, give_to_its_owner, make_state_dir
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.night.ports import Clock

log = structlog.get_logger(__name__)

NAME = "spool.db"
VERSION = 1  # of the schema, in PRAGMA user_version
_SCHEMA = Path(__file__).with_name("spool.sql")
# Tables that older files lack. They need no new version: an older icekeeper that comes back leaves them alone.
ADDED = Path(__file__).with_name("spool_added.sql")
_BESIDE = ("", "-wal", "-shm")


def open_sound_file(path: Path, clock: Clock) -> int:
    """Creates or replaces the file where needed; returns the shared lock that keeps it in its place."""
    make_state_dir(path.parent)
    guard = path.with_suffix(".lock")
    lock = os.open(guard, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_to_its_owner(guard)
        deadline = time.monotonic() + WAIT_S
        while (obstacle := _share(lock, path, clock)) is not None:
            if time.monotonic() > deadline:
                raise obstacle
            time.sleep(0.02)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _share(lock: int, path: Path, clock: Clock) -> IcekeeperError | None:
    """None when the file is sound and the lock is shared; else the error if the others keep it locked."""
    busy = TransientError("another process has been opening it all the time: try again", where=str(path))
    if _locked(lock, fcntl.LOCK_EX):
        _mend(path, clock)
        # Between the two locks another process may have taken the exclusive one.
        return None if _locked(lock, fcntl.LOCK_SH) else busy
    if not _locked(lock, fcntl.LOCK_SH):
        return busy
    # Another process has it open and found it sound then. Damage since then can't be repaired while it is open.
    problem = _problem(path) if path.exists() else "it was removed"
    if problem is None:
        return None
    fcntl.flock(lock, fcntl.LOCK_UN)
    text = f"is corrupt ({problem}), and another icekeeper has it open: end that one, and start again"
    return PermanentError(text, where=str(path))


def _locked(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _problem(path: Path) -> str | None:
    """Why the file is no spool; None where it is one. PermanentError where it is a newer icekeeper's.

    All of it is read, which takes milliseconds.
    """
    try:
        with _opened(path, "ro") as db:
            result = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
        if result == "ok" and version == VERSION:
            # The checks of the schema, which a connection that only reads doesn't know.
            with _opened(path, "rw") as db:
                result = db.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as exc:
        if not is_damage(exc):
            raise
        return str(exc)
    if result != "ok":
        return str(result).replace("\n", " ")
    if version > VERSION:
        text = f"was made by a newer icekeeper (schema {version}, known is {VERSION}): install that one again"
        raise PermanentError(text, where=str(path))
    return None if version == VERSION else "it is empty"


@contextmanager
def _opened(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """A connection outside of the loop. Read only, it leaves also the log beside the file as it was."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=WAIT_S, isolation_level=None)
    try:
        yield db
    finally:
        db.close()


def _mend(path: Path, clock: Clock) -> None:
    """Makes the file where it is missing and replaces it where it is corrupt, under the exclusive lock.

    After a crash in the middle the next opening finishes it: `spool.db.broken` exists until all was copied.
    """
    broken = path.with_name(f"{NAME}.broken")
    begun = any(_beside(broken, end).exists() for end in _BESIDE)
    problem = "its replacement was interrupted" if begun else _damage(path)
    if problem is not None and not broken.exists():
        # Its log goes first: beside a new file, SQLite would take it for that one's.
        for end in reversed(_BESIDE):
            with suppress(FileNotFoundError):
                _beside(path, end).rename(_beside(broken, end))
        broken.touch(mode=0o600)
    if not path.exists():
        _create(path)
    if problem is None:
        return
    with _opened(path, "rw") as db:
        taken_over = copy_readable_rows(broken, db)
    kept_as = _kept_as(path, clock())
    for end in reversed(_BESIDE):
        with suppress(FileNotFoundError):
            _beside(broken, end).rename(_beside(kept_as, end))
    flush_to_disk(path.parent)
    log.error("spool_corrupt", file=str(path), problem=problem, kept_as=str(kept_as), taken_over=taken_over)


def _damage(path: Path) -> str | None:
    if path.exists():
        return _problem(path)
    return "it is missing, and only its log is there" if _beside(path, "-wal").exists() else None


def _create(path: Path) -> None:
    """Makes the file with its tables at once: an empty file would look like one that lost its tables."""
    new = path.with_name(f"{NAME}.new")
    for end in _BESIDE:
        _beside(new, end).unlink(missing_ok=True)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    give_to_its_owner(new)
    with _opened(new, "rw") as db:
        # Readers don't wait for a writer, and a commit is one flush.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        schema = "\n".join(file.read_text(encoding="utf-8") for file in (_SCHEMA, ADDED))
        db.executescript(f"BEGIN;\n{schema}\nPRAGMA user_version = {VERSION};\nCOMMIT;")
    flush_to_disk(new)
    new.rename(path)
    flush_to_disk(path.parent)


def _kept_as(path: Path, now: datetime) -> Path:
    stamp = f"{now:%Y%m%dT%H%M%SZ}"
    names: Sequence[str] = [stamp, *(f"{stamp}-{n}" for n in range(2, 1000))]
    return next(file for name in names if not (file := path.with_name(f"{NAME}.corrupt-{name}")).exists())


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def corrupt_files(state_dir: Path) -> tuple[Path, ...]:
    """The corrupt files that were put aside, oldest first."""
    return tuple(sorted(p for p in state_dir.glob(f"{NAME}.corrupt-*") if not p.name.endswith(_BESIDE[1:])))
