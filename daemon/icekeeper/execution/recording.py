"""Writes what a run does to the spool, beside the run and in its order. How it is kept there: adapters/spool."""

from __future__ import annotations

import asyncio
from types import TracebackType

import structlog

from icekeeper.adapters.spool.spool import Spool
from icekeeper.adapters.waiting import uninterrupted
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.events import Event, OlderDayAudited, RunStarted, TaskEnded, TaskStarted
from icekeeper.core.resuming import interrupted_report
from icekeeper.core.runs import RunReport
from icekeeper.night.ports import Clock

log = structlog.get_logger(__name__)


class Recording:
    """Takes a run's events and writes them to the disk; when its block ends, all of them are written.

    Only the first error is logged: the report that closes the run holds everything once more.
    """

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._writing: asyncio.Task[None] | None = None
        self._run: RunStarted | None = None
        self._failed = False

    async def __aenter__(self) -> Recording:
        self._writing = asyncio.create_task(self._write_all())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writing is not None  # __aenter__ made it
        self._events.put_nowait(None)
        await uninterrupted(self._writing, drop_cancellation=True)  # the run has ended anyway

    def observe(self, event: Event) -> None:
        """Takes an event of the run; never waits."""
        self._events.put_nowait(event)

    async def _write_all(self) -> None:
        while (event := await self._events.get()) is not None:
            try:
                await self._write(event)
            except IcekeeperError as exc:
                if not self._failed:
                    log.error("record_not_written", error=str(exc), advice=exc.reason.advice)
                self._failed = True
            except Exception:  # a bug in one record must not cost those after it
                log.exception("record_not_written")

    async def _write(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._run = event
            await self._spool.open_run(event.opening)
        elif self._run is None:
            return
        elif isinstance(event, TaskStarted):
            await self._spool.mark_in_flight(self._run.opening.run_id, *event.at_work)
        elif isinstance(event, TaskEnded):
            await self._spool.end_task(self._run.opening.run_id, event.result, event.audit)
        elif isinstance(event, OlderDayAudited):
            await self._spool.add_older_day(self._run.opening.run_id, event.audit)


async def close_run(spool: Spool, report: RunReport) -> IcekeeperError | None:
    """Records the end of a run; the error that stood in the way, if one did."""
    try:
        await spool.close_run(report)
    except IcekeeperError as exc:
        log.error("run_not_recorded", run_id=str(report.run_id), outcome=report.outcome, error=str(exc))
        return exc
    return None


class UnrecordedRuns:
    """Runs that ended while the disk could not take their record."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._reports: list[RunReport] = []
        self._one_at_a_time = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._reports)

    def add(self, report: RunReport) -> None:
        """Keeps the report until `record` succeeds with it."""
        self._reports.append(report)

    async def record(self) -> None:
        """Tries all of them again."""
        async with self._one_at_a_time:
            for report in tuple(self._reports):
                if await close_run(self._spool, report) is None:
                    self._reports.remove(report)
                    log.info("run_recorded_late", run_id=str(report.run_id))


async def settle_unfinished(spool: Spool, clock: Clock) -> None:
    """Records as `interrupted` the runs whose process died. The caller holds the run lock.

    Where the disk can't take that, it is logged and left to the next run.
    """
    try:
        for run in await spool.unfinished():
            at = None if run.in_flight is None else f"{run.in_flight[0]} of {run.in_flight[1]}"
            log.warning("run_found_dead", run_id=str(run.run_id), slot=run.slot.isoformat(), trigger=run.trigger, at=at)
            await spool.close_run(interrupted_report(run, clock()))
    except IcekeeperError as exc:
        log.error("dead_runs_not_settled", error=str(exc), advice=exc.reason.advice)
