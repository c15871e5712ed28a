"""Once a day: log lines that are older than `logs.retention` leave the ledger, and old log files of runs this disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol
from uuid import UUID

import structlog

from icekeeper.adapters.ledger.log_lines import PostgresLogLines
from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.reasons import Reason
from icekeeper.execution.log_files import run_log_path
from icekeeper.execution.wiring import Services
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling.reload import Configuration

log = structlog.get_logger(__name__)

# How often it is looked whether the day is over, and whether a ledger that was away is back.
LOOK_S = 600.0
EVERY = timedelta(days=1)
# The lines of so many runs are deleted at a time, and then others have their turn.
BATCH_RUNS = 20
BATCH_PAUSE_S = 0.2
# A run's file is no more than a copy once the ledger has its lines; so long it is at hand all the same.
FILES_KEPT = timedelta(days=30)


class Lines(Protocol):
    """What the ledger has of log lines: adapters.old_logs.PostgresLogLines."""

    async def delete_lines(self, before: datetime, runs: int) -> int:
        """Deletes the lines of at most so many older runs; how many lines."""

    async def held(self, runs: Iterable[UUID]) -> frozenset[UUID]:
        """Which of these runs the ledger holds to their end."""


class Retention:
    """Runs beside the nights, and not while one is under way."""

    def __init__(
        self,
        configuration: Configuration,
        spool: Spool,
        leading: Callable[[], bool],
        busy: Callable[[], bool],
        clock: Clock,
        sleep: Sleep,
        lines: Callable[[Services], Lines] = lambda services: PostgresLogLines(services.postgres),
    ) -> None:
        """Only who is `leading` deletes in the ledger; the files are each host's own."""
        self._configuration = configuration
        self._spool = spool
        self._leading = leading
        self._busy = busy
        self._clock = clock
        self._sleep = sleep
        self._lines = lines
        self._done_at: datetime | None = None
        # Why the last time did not work, so that it is said once.
        self._told: Reason | None = None

    async def run(self) -> None:
        """Looks for ever. The start has enough to do: the first look is a while after it."""
        while True:
            await self._sleep(LOOK_S)
            if not self._busy() and (self._done_at is None or self._clock() - self._done_at >= EVERY):
                try:
                    await self.tidy()
                except Exception:  # a mistake of ours must not end the daemon: it is told and tried again
                    log.exception("retention_failed")

    async def tidy(self) -> None:
        """Deletes what is old enough. It is done for today also where the role may not delete; not where nobody
        answered."""
        try:
            async with self._configuration.borrowed() as services:
                lines = self._lines(services)
                denied = await self._tidy_ledger(lines, services) if self._leading() else None
                await self._tidy_files(lines, services)
        except IcekeeperError as exc:
            self._tell(exc)
            return
        self._done_at = self._clock()
        self._tell(denied)

    async def _tidy_ledger(self, lines: Lines, services: Services) -> IcekeeperError | None:
        before, total = self._clock() - services.settings.logs.retention, 0
        try:
            while (deleted := await lines.delete_lines(before, BATCH_RUNS)) > 0:
                total += deleted
                await self._sleep(BATCH_PAUSE_S)
        except IcekeeperError as exc:
            if exc.reason is not Reason.ACCESS_DENIED:
                raise
            return exc
        finally:
            if total:
                log.info("logs_pruned", lines=total, before=before.isoformat())
        return None

    async def _tidy_files(self, lines: Lines, services: Services) -> None:
        settings = services.settings
        before = self._clock() - min(FILES_KEPT, settings.logs.retention)
        old = await asyncio.to_thread(_older, settings.state_dir, before)
        if not old:
            return
        # Asked of both: what the ledger holds may wait here for being told something new.
        gone = await lines.held(old) - await self._spool.unshipped_runs()
        await asyncio.to_thread(_delete, [old[run_id] for run_id in gone])
        if gone:
            log.info("run_files_deleted", files=len(gone), before=before.isoformat())

    def _tell(self, error: IcekeeperError | None) -> None:
        reason = error.reason if error is not None else None
        if error is not None and reason is not self._told:
            let = "; let it: icekeeper migrate --grants ROLE" if reason is Reason.ACCESS_DENIED else ""
            log.warning("logs_not_pruned", reason=reason, error=f"{error}{let}")
        self._told = reason


def _older(state_dir: Path, before: datetime) -> dict[UUID, Path]:
    """The log files of runs that nobody has written to since then."""
    found = {}
    for path in run_log_path(state_dir, "x").parent.glob("*.jsonl"):
        try:
            if path.stat().st_mtime < before.timestamp():
                found[UUID(path.stem)] = path
        except (OSError, ValueError):  # gone meanwhile, or not ours
            continue
    return found


def _delete(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
