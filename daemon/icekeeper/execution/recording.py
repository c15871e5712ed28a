"""Writes what a run does to the spool, beside the run and in its order. How it is kept: adapters/spool."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType

import structlog

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.events import Event, RunStarted, TaskEnded, TaskStarted
from icekeeper.core.resuming import interrupted_report
from icekeeper.night.ports import Clock

log = structlog.get_logger(__name__)


class Recording:
    """A run's records on their way to the disk. When its block ends, all that it was told is there.

    A record that can't be written is said once: the report that closes the run holds all of them.
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
        while not self._writing.done():
            with suppress(asyncio.CancelledError):  # the run was cancelled, and has answered; this takes a moment
                await asyncio.wait([self._writing])

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

    async def _write(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._run = event
            await self._spool.open_run(event.opening)
        elif self._run is None:
            return
        elif isinstance(event, TaskStarted):
            await self._spool.start_task(self._run.opening.run_id, event.stage, event.table)
        elif isinstance(event, TaskEnded):
            await self._spool.end_task(self._run.opening.run_id, event.result, event.audit)


async def settle_unfinished(spool: Spool, clock: Clock) -> None:
    """Records as `interrupted` the runs whose process died. The caller holds the run lock.

    A disk that can't take that costs the record: whoever asks next has work of its own to do.
    """
    try:
        for run in await spool.unfinished():
            at = None if run.in_flight is None else f"{run.in_flight[0]} of {run.in_flight[1]}"
            log.warning("run_found_dead", run_id=str(run.run_id), slot=run.slot.isoformat(), trigger=run.trigger, at=at)
            await spool.close_run(interrupted_report(run, clock()))
    except IcekeeperError as exc:
        log.error("dead_runs_not_settled", error=str(exc), advice=exc.reason.advice)
