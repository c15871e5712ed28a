"""The holds in force on disk, for the time that the ledger is away."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from uuid import uuid4

import structlog
from filelock import AsyncFileLock

from icekeeper.adapters.records import from_plain
from icekeeper.adapters.state_dir import flush_to_disk, give_to_its_owner
from icekeeper.core.errors import PermanentError
from icekeeper.core.plain import to_plain
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.holds import OperatorHold

log = structlog.get_logger(__name__)

FILE = "holds.json"
# Whoever has the lock waits for one answer of PostgreSQL at most.
_LOCK_S = 30.0


class HoldsNotKept(PermanentError):
    """What is on hold can't be written to state_dir."""

    def __init__(self, path: Path, exc: OSError) -> None:
        reason = Reason.ACCESS_DENIED if isinstance(exc, PermissionError) else Reason.UNEXPECTED
        super().__init__(f"what is on hold is not kept in {path} ({exc})", reason=reason)


class KeptHolds:
    """The holds in state_dir that were in force when the ledger last answered. No file: that is not known."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / FILE
        self._said = ""

    @property
    def damaged(self) -> bool:
        """Whether the file was there when it was last read, and could not be."""
        return bool(self._said)

    @asynccontextmanager
    async def lock(self) -> AsyncIterator[None]:
        """Held from the ledger's answer to `write`: what is read later is written later, by any process.

        HoldsNotKept where it can't be had.
        """
        if not self._path.parent.is_dir():
            yield
            return
        path = self._path.with_name(f"{FILE}.lock")
        lock = AsyncFileLock(path, timeout=_LOCK_S)
        try:
            await lock.acquire()
            give_to_its_owner(path)
        except OSError as exc:
            raise HoldsNotKept(self._path, exc) from exc
        try:
            yield
        finally:
            await lock.release()

    def read(self) -> tuple[OperatorHold, ...] | None:
        """None where there is no file, or it can't be read. Raises nothing."""
        said, found = "", None
        try:
            document = json.loads(self._path.read_text(encoding="utf-8"))
            found = tuple(from_plain(OperatorHold, one) for one in document["holds"])
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError, KeyError, TypeError) as exc:
            said = f"{type(exc).__name__}: {exc}"
            if said != self._said:  # once: it is read every few seconds
                log.warning("kept_holds_not_read", path=str(self._path), error=said)
        self._said = said
        return found

    def write(self, holds: Iterable[OperatorHold]) -> None:
        """In place of those before, wholly or not at all. Under `lock`.

        HoldsNotKept where that can't be done; the file of before is removed then, as it may lack one.
        """
        holds = tuple(holds)
        if not self._path.parent.is_dir() or self.read() == holds:
            return
        new = self._path.with_name(f".{FILE}.{uuid4()}")
        try:
            with new.open("w", encoding="utf-8") as file:
                file.write(json.dumps({"holds": to_plain(holds, exact=True)}, indent=2) + "\n")
                file.flush()
                os.fsync(file.fileno())
            give_to_its_owner(new)
            new.replace(self._path)
            flush_to_disk(self._path.parent)
        except OSError as exc:
            for path in (new, self._path):
                with suppress(OSError):
                    path.unlink(missing_ok=True)
            raise HoldsNotKept(self._path, exc) from exc
