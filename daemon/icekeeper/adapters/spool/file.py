"""The spool's open file: reads and transactions. Opening it: opening.py. What it holds: spool.py and outbox.py."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import aiosqlite

from icekeeper.adapters.spool.errors import WAIT_S, translated_errors
from icekeeper.adapters.spool.opening import ADDED, NAME, open_sound_file
from icekeeper.core.errors import PermanentError
from icekeeper.night.ports import Clock

T = TypeVar("T")


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
        with translated_errors(path):
            lock = await asyncio.to_thread(open_sound_file, path, clock)
            try:
                return cls(path, await _connected(path), lock)
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
            async with self._turn:
                with translated_errors(self.path):
                    await self._db.close()
        finally:
            os.close(self._lock)

    async def read(self, query: str, *values: object) -> list[sqlite3.Row]:
        """The rows of one query."""
        async with self._turn:
            with translated_errors(self.path):
                if self._closed:
                    raise PermanentError("was closed before this was read", where=str(self.path))
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

    async def execute(self, statement: str, *values: object) -> int:
        """Runs one statement as a transaction, like `write`; how many rows it inserted, updated or deleted."""
        return await self.write(lambda db: changes(db, statement, *values))

    async def _transaction(self, body: Callable[[aiosqlite.Connection], Awaitable[T]]) -> T:
        async with self._turn:
            with translated_errors(self.path):
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


async def changes(db: aiosqlite.Connection, statement: str, *values: object) -> int:
    """Runs the statement; how many rows it inserted, updated or deleted."""
    async with db.execute(statement, values) as cursor:
        return cursor.rowcount


async def _connected(path: Path) -> aiosqlite.Connection:
    connecting = aiosqlite.connect(path, timeout=WAIT_S, isolation_level=None)
    # A process that failed must end: its exit would wait for aiosqlite's thread for ever. Until 0.21 the connection was
    # that thread itself.
    thread: Any = getattr(connecting, "_thread", connecting)
    thread.daemon = True
    connection = await connecting
    try:
        connection.row_factory = sqlite3.Row
        # An acknowledged record outlives a power cut: the log is flushed at every commit.
        await connection.execute("PRAGMA synchronous = FULL")
        # Writes only where a table is missing.
        await connection.executescript(ADDED.read_text(encoding="utf-8"))
    except BaseException:
        await connection.close()
        raise
    return connection


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
