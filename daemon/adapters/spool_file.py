"""The spool's file: found sound or put aside, read and written, its errors in our words. What it holds: spool.py.

Whoever has it open holds a shared lock on `spool.lock`; it is made, and put aside, under an exclusive one. So nobody
goes on writing to a file that somebody else has moved away.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import getpass
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite
import structlog

from daemon.adapters.spool_salvage import take_over
from daemon.adapters.state_dir import give_to_its_owner, make_state_dir
from daemon.core.errors import IcekeeperError, PermanentError, TransientError
from daemon.core.reasons import Reason
from daemon.ports import Clock

T = TypeVar("T")
log = structlog.get_logger(__name__)

NAME = "spool.db"
VERSION = 1  # of the schema, in PRAGMA user_version
_SCHEMA = Path(__file__).with_name("spool.sql")
_WAIT_S = 10.0  # for others, who write for milliseconds
_BESIDE = ("", "-wal", "-shm")

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_NO_RIGHT = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
_NO_ROOM_OS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
# SQLite can't open its file where the disk has no room for the index of its log, and says no more than that.
_HARDLY_ANY_ROOM = 256 * 1024


class SpoolFile:
    """One connection to the file, in a thread of its own. Use `open` and `close`."""

    def __init__(self, path: Path, connection: aiosqlite.Connection, lock: int) -> None:
        self.path = path
        self._db = connection
        self._lock = lock
        self._identity = _identity(path)
        self._turn = asyncio.Lock()
        self._writing: set[asyncio.Task[Any]] = set()
        self._closed = False

    @classmethod
    async def open(cls, state_dir: Path, clock: Clock) -> SpoolFile:
        """Opens it, made anew where it is missing, put aside and made anew where it is corrupt.

        PermanentError `disk_low` or `access_denied`; TransientError where another process has it in use for long.
        """
        path = state_dir / NAME
        with in_our_words(path):
            lock = await asyncio.to_thread(_made_ready, path, clock)
            try:
                connecting = aiosqlite.connect(path, timeout=_WAIT_S, isolation_level=None)
                # A process that failed must end: its exit would wait for aiosqlite's thread for ever. Until 0.21 the
                # connection was that thread itself.
                getattr(connecting, "_thread", connecting).daemon = True
                connection = await connecting
                connection.row_factory = sqlite3.Row
                # An acknowledged record outlives a power cut: the log is flushed at every commit.
                await connection.execute("PRAGMA synchronous = FULL")
                return cls(path, connection, lock)
            except BaseException:
                os.close(lock)
                raise

    async def close(self) -> None:
        """Waits for what is being written. Closed, it stays closed."""
        if self._closed:
            return
        self._closed = True
        await asyncio.gather(*self._writing, return_exceptions=True)
        try:
            with in_our_words(self.path):
                await self._db.close()
        finally:
            os.close(self._lock)

    async def read(self, query: str, *values: object) -> list[sqlite3.Row]:
        """The rows of one query."""
        if self._closed:
            raise PermanentError("is closed", where=str(self.path))
        async with self._turn:
            with in_our_words(self.path):
                self._check()
                return list(await self._db.execute_fetchall(query, values))

    async def write(self, body: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        """Runs `body` as one transaction; on the disk when this returns. Raises like `open`, and then wrote nothing.

        A cancellation meanwhile doesn't tear it: it is written to its end, only its caller doesn't wait for that.
        """
        if self._closed:
            raise PermanentError("was closed before this was written", where=str(self.path))
        task = asyncio.ensure_future(self._transaction(body))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return await asyncio.shield(task)

    async def _transaction(self, body: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        async with self._turn:
            with in_our_words(self.path):
                self._check()
                await self._db.execute("BEGIN IMMEDIATE")
                try:
                    result = await body(self._db)
                    await self._db.execute("COMMIT")
                except BaseException:
                    # Some errors have rolled it back already, and on a full disk this may be one more of the kind.
                    with suppress(sqlite3.Error):
                        if self._db.in_transaction:
                            await self._db.execute("ROLLBACK")
                    raise
                return result

    def _check(self) -> None:
        if _identity(self.path) != self._identity:
            raise PermanentError(
                "was removed or replaced while it was open, and what is written now would be lost: restart icekeeper",
                where=str(self.path),
            )


def corrupt_files(state_dir: Path) -> tuple[Path, ...]:
    """What was put aside, oldest first."""
    return tuple(sorted(p for p in state_dir.glob(f"{NAME}.corrupt-*") if not p.name.endswith(_BESIDE[1:])))


# --- errors


@contextmanager
def in_our_words(path: Path) -> Iterator[None]:
    """Turns SQLite's and the file system's errors into ours."""
    try:
        yield
    except (sqlite3.Error, OSError) as exc:
        raise translated(exc, path) from exc


def translated(error: Exception, path: Path) -> IcekeeperError:
    """Our error for one of SQLite's or the file system's, which names the file and what to do."""
    where = str(path)
    code = _code(error)
    number = error.errno if isinstance(error, OSError) else None
    said = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
    free = _free(path)
    denied = code in _NO_RIGHT or number in (errno.EACCES, errno.EPERM, errno.EROFS)
    if code in _NO_ROOM or number in _NO_ROOM_OS or (denied and free is not None and free < _HARDLY_ANY_ROOM):
        room = "" if free is None else f"; {free:,} bytes are free there"
        return PermanentError(f"can't be written ({said}){room}", reason=Reason.DISK_LOW, where=where)
    if denied:
        text = f"is not ours to write ({said}): let user {_user()} own {path.parent} and what lies in it"
        return PermanentError(text, reason=Reason.ACCESS_DENIED, where=where)
    if code in _DAMAGED:
        text = f"is corrupt ({said}): restart icekeeper, which puts it aside and takes over what can be read of it"
        return PermanentError(text, where=where)
    if code in _IN_USE:
        return TransientError(f"another process has held it for {_WAIT_S:g} s ({said})", where=where)
    return PermanentError(f"can't be used: {said}", where=where)


def _code(error: Exception) -> int | None:
    """SQLite's primary result code; the extended ones carry it in their lowest byte."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def _free(path: Path) -> int | None:
    try:
        room = os.statvfs(path.parent)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return str(os.geteuid())


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


# --- opening


def _made_ready(path: Path, clock: Clock) -> int:
    """Sees to it that there is a sound file; the shared lock that keeps it in its place."""
    make_state_dir(path.parent)
    guard = path.with_suffix(".lock")
    lock = os.open(guard, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_to_its_owner(guard)
        deadline = time.monotonic() + _WAIT_S
        while (obstacle := _share(lock, path, clock)) is not None:
            if time.monotonic() > deadline:
                raise obstacle
            time.sleep(0.02)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _share(lock: int, path: Path, clock: Clock) -> IcekeeperError | None:
    """None when the file is sound and the lock is shared; else what is to be told if others don't let go soon."""
    busy = TransientError("another process has been opening it all the time: try again", where=str(path))
    if _locked(lock, fcntl.LOCK_EX):
        _mend(path, clock)
        # There is a moment between the two locks, and somebody may have taken the exclusive one.
        return None if _locked(lock, fcntl.LOCK_SH) else busy
    if not _locked(lock, fcntl.LOCK_SH):
        return busy
    # Somebody has it open, and saw then that it is sound. A damage since then can't be mended under his feet.
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
    """Why the file is no spool; None where it is one. Reads only. PermanentError where it is a newer icekeeper's."""
    try:
        # Not the quick check: the full one sees indexes that miss a row, and of this file it takes milliseconds.
        with closing_db(path, "ro") as db:
            said = db.execute("PRAGMA integrity_check(1)").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as exc:
        if _code(exc) not in _DAMAGED:
            raise
        return str(exc)
    if said != "ok":
        return str(said).replace("\n", " ")
    if version > VERSION:
        text = f"was made by a newer icekeeper (schema {version}, known is {VERSION}): install that one again"
        raise PermanentError(text, where=str(path))
    return None if version == VERSION else "it is empty"


@contextmanager
def closing_db(path: Path, mode: str) -> Iterator[sqlite3.Connection]:
    """A connection outside of the loop. Read only, it leaves also the log beside the file as it was."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode={mode}", uri=True, timeout=_WAIT_S, isolation_level=None)
    try:
        yield db
    finally:
        db.close()


def _mend(path: Path, clock: Clock) -> None:
    """Makes the file where it is missing and replaces it where it is corrupt, under the exclusive lock.

    A crash anywhere in it is finished by the next who opens: `spool.db.broken` is there until all was taken over.
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
    with closing_db(path, "rw") as db:
        taken_over = take_over(broken, db)
    kept_as = _kept_as(path, clock())
    for end in reversed(_BESIDE):
        with suppress(FileNotFoundError):
            _beside(broken, end).rename(_beside(kept_as, end))
    _flush(path.parent)
    log.error("spool_corrupt", file=str(path), problem=problem, kept_as=str(kept_as), taken_over=taken_over)


def _damage(path: Path) -> str | None:
    if path.exists():
        return _problem(path)
    return "it is missing, and only its log is there" if _beside(path, "-wal").exists() else None


def _create(path: Path) -> None:
    """Makes the file with its tables, or none: an empty one would look like one that was emptied."""
    new = path.with_name(f"{NAME}.new")
    for end in _BESIDE:
        _beside(new, end).unlink(missing_ok=True)
    os.close(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    give_to_its_owner(new)
    with closing_db(new, "rw") as db:
        # Readers don't wait for a writer, and a commit is one flush.
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.executescript(f"BEGIN;\n{_SCHEMA.read_text(encoding='utf-8')}\nPRAGMA user_version = {VERSION};\nCOMMIT;")
    _flush(new)
    new.rename(path)
    _flush(path.parent)


def _kept_as(path: Path, now: datetime) -> Path:
    stamp = f"{now:%Y%m%dT%H%M%SZ}"
    names: Sequence[str] = [stamp, *(f"{stamp}-{n}" for n in range(2, 1000))]
    return next(file for name in names if not (file := path.with_name(f"{NAME}.corrupt-{name}")).exists())


def _beside(path: Path, end: str) -> Path:
    return path.with_name(path.name + end)


def _flush(path: Path) -> None:
    """A rename outlives a power cut only when its directory is flushed."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
