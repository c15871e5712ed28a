"""Once a day: deletes log lines past `logs.retention` from the ledger, and old log files of runs from this disk."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from uuid import UUID

import structlog

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.reasons import Reason
from icekeeper.execution.log_files import run_log_path
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling.reload import Configuration
from icekeeper.settings import Settings

log = structlog.get_logger(__name__)

# How often it checks whether a day has passed, and tries again where the ledger was unreachable.
POLL_S = 600.0
EVERY = timedelta(days=1)
# The lines of so many runs are deleted at a time, with a pause for other work on the ledger.
BATCH_RUNS = 20
BATCH_PAUSE_S = 0.2
# Once the ledger has a run's lines, its file is a copy; it is kept this long.
FILES_KEPT = timedelta(days=30)


class Lines(Protocol):
    """What is needed of the ledger: adapters.ledger.store.PostgresLedger."""

    async def delete_lines(self, before: datetime, runs: int) -> int:
        """Deletes the lines of at most so many older runs; returns how many lines."""

    async def held(self, runs: Iterable[UUID]) -> frozenset[UUID]:
        """Which of these runs the ledger holds to their end."""


@dataclass(slots=True)
class Retention:
    """Runs while no run is under way. Only a daemon that is `leading` deletes in the ledger; files are each host's."""

    configuration: Configuration
    spool: Spool
    leading: Callable[[], bool]
    busy: Callable[[], bool]
    clock: Clock
    sleep: Sleep
    _done_at: datetime | None = field(default=None, init=False)
    # What kept it from the ledger's lines, so that it is logged once.
    _logged: Reason | None = field(default=None, init=False)

    async def run(self) -> None:
        """Deletes once a day, until cancelled; for the first time a while after the start, which has enough to do."""
        while True:
            await self.sleep(POLL_S)
            if not self.busy() and (self._done_at is None or self.clock() - self._done_at >= EVERY):
                try:
                    await self.delete_old()
                except Exception:  # a bug must not end the daemon: it is logged and tried again
                    log.exception("retention_failed")

    async def delete_old(self) -> None:
        """Deletes what is old enough. A permission error counts as done for today; an unreachable ledger is retried."""
        try:
            async with self.configuration.borrowed() as services:
                ledger, settings = services.ledger, services.settings
                denied = await self._delete_lines(ledger, settings) if self.leading() else None
                await self._delete_files(ledger, settings)
        except IcekeeperError as exc:
            self._log(exc)
            return
        self._done_at = self.clock()
        self._log(denied)

    async def _delete_lines(self, lines: Lines, settings: Settings) -> IcekeeperError | None:
        before, total = self.clock() - settings.logs.retention, 0
        try:
            while (deleted := await lines.delete_lines(before, BATCH_RUNS)) > 0:
                total += deleted
                await self.sleep(BATCH_PAUSE_S)
        except IcekeeperError as exc:
            if exc.reason is not Reason.ACCESS_DENIED:
                raise
            return exc
        finally:
            if total:
                log.info("logs_pruned", lines=total, before=before.isoformat())
        return None

    async def _delete_files(self, lines: Lines, settings: Settings) -> None:
        before = self.clock() - min(FILES_KEPT, settings.logs.retention)
        old = await asyncio.to_thread(_older, settings.state_dir, before)
        if not old:
            return
        held, unshipped = await lines.held(old), await self.spool.outbox.unshipped_runs()
        # Also of a run that the ledger holds something may still wait in the spool.
        copies = [old[run_id] for run_id in held - unshipped]
        unknown = [path for run_id, path in old.items() if run_id not in held | unshipped]
        deleted = await asyncio.to_thread(_delete, copies, unknown)
        if deleted:
            log.info("run_files_deleted", files=deleted, before=before.isoformat())

    def _log(self, error: IcekeeperError | None) -> None:
        reason = error.reason if error is not None else None
        if error is not None and reason is not self._logged:
            let = "; let it: icekeeper migrate --grants ROLE" if reason is Reason.ACCESS_DENIED else ""
            log.warning("logs_not_pruned", reason=reason, error=f"{error}{let}")
        self._logged = reason


def _older(state_dir: Path, before: datetime) -> dict[UUID, Path]:
    """The log files of runs that were last written to before then."""
    found = {}
    for path in run_log_path(state_dir, "x").parent.glob("*.jsonl"):
        try:
            if path.stat().st_mtime < before.timestamp():
                found[UUID(path.stem)] = path
        except (OSError, ValueError):  # deleted meanwhile, or no run's file
            continue
    return found


def _delete(copies: Iterable[Path], unknown: Iterable[Path]) -> int:
    """Deletes the copies, and of runs that no record knows those that never began; returns how many."""
    paths = [*copies, *filter(_never_began, unknown)]
    for path in paths:
        path.unlink(missing_ok=True)
    return len(paths)


def _never_began(path: Path) -> bool:
    """Whether version 0.1 left the file for a dry run, or for an order that was refused: one line, of the order."""
    try:
        with path.open(encoding="utf-8") as file:
            first, more = file.readline(), file.readline()
        return not more and json.loads(first)["event"] == "run_ordered"
    except (OSError, ValueError, KeyError, TypeError):
        return False
