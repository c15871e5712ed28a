"""Errors of SQLite and the file system on the spool's file, as icekeeper's own errors. Using the file: file.py."""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icekeeper.adapters.users import user_name
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason

WAIT_S = 10.0  # for other processes, whose writes take milliseconds

_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_NO_ROOM = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
_IN_USE = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_NO_RIGHT = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH)
_NO_ROOM_OS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
# SQLite can't open its file where the disk has no room for the index of its log, and reports no cause.
_HARDLY_ANY_ROOM = 256 * 1024


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
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
    message = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) else str(error)
    free = _free(path)
    denied = code in _NO_RIGHT or number in (errno.EACCES, errno.EPERM, errno.EROFS)
    if code in _NO_ROOM or number in _NO_ROOM_OS or (denied and free is not None and free < _HARDLY_ANY_ROOM):
        room = "" if free is None else f"; {free:,} bytes are free there"
        return PermanentError(f"can't be written ({message}){room}", reason=Reason.DISK_LOW, where=where)
    if denied:
        text = (
            f"is not user {_user()}'s to write ({message}): run this as {_owner(path.parent)}, or give it to that user"
        )
        return PermanentError(text, reason=Reason.ACCESS_DENIED, where=where)
    if code in _DAMAGED:
        text = f"is corrupt ({message}): restart icekeeper, which puts it aside and takes over what can be read of it"
        return PermanentError(text, where=where)
    if code in _IN_USE:
        return TransientError(f"another process has held it for {WAIT_S:g} s ({message})", where=where)
    return PermanentError(f"can't be used: {message}", where=where)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether it is the file that is broken, where reading it raised this: a header of nonsense is a plain error."""
    return _code(error) in (*_DAMAGED, sqlite3.SQLITE_ERROR)


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
    return user_name(os.geteuid())


def _owner(directory: Path) -> str:
    try:
        return f"{user_name(directory.stat().st_uid)}, who owns {directory}"
    except OSError:
        return f"the owner of {directory}"
