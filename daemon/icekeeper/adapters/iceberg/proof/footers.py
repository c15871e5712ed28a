"""The rows of files whose footers were read, kept on disk: each footer is read once. Reading them: files.py."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TypeVar

import structlog

from icekeeper.adapters.state_dir import give_to_its_owner, make_state_dir

T = TypeVar("T")
log = structlog.get_logger(__name__)

NAME = "footers.db"
# So many footers are kept, at about 30 bytes each; those that were not asked for for longest go first.
MOST_FOOTERS = 500_000
# More than one process uses it at a time only for a moment.
_WAIT_S = 5.0
_ASKED_AT_ONCE = 500
# SQLITE_ERROR: it has tables of another kind.
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
# `turn` counts the calls of `keep`, in the file's user_version: the higher, the more recently a footer was used.
_SCHEMA = """
    CREATE TABLE IF NOT EXISTS footers (file BLOB PRIMARY KEY, records INTEGER NOT NULL, turn INTEGER NOT NULL)
    WITHOUT ROWID
"""
_KEEP = """
    INSERT INTO footers (file, records, turn) VALUES (?, ?, ?)
    ON CONFLICT (file) DO UPDATE SET records = excluded.records, turn = excluded.turn
"""
_FORGET = """
    DELETE FROM footers WHERE file IN (
      SELECT file FROM footers ORDER BY turn LIMIT max(0, (SELECT count(*) FROM footers) - ?)
    )
"""

# A file by its path, its length in bytes, and where in it a deletion vector begins (-1: it is a whole file).
Footer = tuple[str, int, int]


class Footers:
    """The file `footers.db`. Without it, or where it can't be used, every footer is read again: no error is raised."""

    def __init__(self, state_dir: Path, most: int = MOST_FOOTERS) -> None:
        self.path = state_dir / NAME
        self._most = most

    def records(self, files: Iterable[Footer]) -> dict[Footer, int]:
        """The rows of those of these files whose footers were read before."""
        keys = {_key(file): file for file in files}

        def ask(db: sqlite3.Connection) -> dict[Footer, int]:
            ordered = list(keys)
            found: dict[Footer, int] = {}
            for start in range(0, len(ordered), _ASKED_AT_ONCE):
                some = ordered[start : start + _ASKED_AT_ONCE]
                marks = ", ".join("?" * len(some))
                rows = db.execute(f"SELECT file, records FROM footers WHERE file IN ({marks})", some)
                found.update((keys[key], records) for key, records in rows)
            return found

        return self._use(ask, {}) if keys and self.path.exists() else {}

    def keep(self, records: Mapping[Footer, int]) -> None:
        """Keeps the rows of files whose footers were read, or were asked for again."""

        def write(db: sqlite3.Connection) -> None:
            with db:
                db.execute("BEGIN IMMEDIATE")
                turn = db.execute("PRAGMA user_version").fetchone()[0] + 1
                db.execute(f"PRAGMA user_version = {turn}")
                db.executemany(_KEEP, ((_key(file), rows, turn) for file, rows in records.items()))
                db.execute(_FORGET, (self._most,))

        if records:
            self._use(write, None)

    def _use(self, work: Callable[[sqlite3.Connection], T], otherwise: T) -> T:
        """What `work` returns; `otherwise` where the file can't be used. A damaged one is removed."""
        try:
            with closing(self._connected()) as db:
                # Not flushed: what a power cut takes or damages is read again, and a mismatch is never believed.
                db.execute("PRAGMA synchronous = OFF")
                db.execute(_SCHEMA)
                return work(db)
        except (sqlite3.Error, OSError) as exc:
            log.warning("footers_not_kept", file=str(self.path), error=str(exc))
            # The last byte of SQLite's code says which kind of error it is.
            if getattr(exc, "sqlite_errorcode", 0) & 0xFF in _DAMAGED:
                with suppress(OSError):
                    self.path.unlink(missing_ok=True)
        return otherwise

    def _connected(self) -> sqlite3.Connection:
        if not self.path.exists():
            make_state_dir(self.path.parent)
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            give_to_its_owner(self.path)
        return sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None)


def _key(file: Footer) -> bytes:
    path, length, offset = file
    return hashlib.blake2b(f"{length} {offset} {path}".encode("utf-8", "surrogatepass"), digest_size=16).digest()
