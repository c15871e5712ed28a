"""What a night found missing is repaired after it, where `repair.automatic` says so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import structlog

from icekeeper.adapters.ledger.findings import AuditFindings
from icekeeper.core.audit.records import Explanation
from icekeeper.core.calendar import Window
from icekeeper.core.enums import RunOutcome, Stage, Trigger
from icekeeper.core.errors import IcekeeperError, TransientError
from icekeeper.core.events import Event, RunEnded
from icekeeper.core.history import PastRun
from icekeeper.core.runs import RunReport
from icekeeper.execution.lock import RunLockHeld
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling import pause
from icekeeper.scheduling.orders import OrderedRun, Orders, RunRequest
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.repairs.selection import repair_requests, repairable

log = structlog.get_logger(__name__)

T = TypeVar("T")

# How often it is tried again in a pause, where another run is under way, or PostgreSQL does not have the findings yet.
RETRY_S = 60.0
# No longer than this: by then an operator has seen the night's alert.
PATIENCE = timedelta(hours=2)


@dataclass(slots=True)
class AutomaticRepairs:
    """Orders a repair after each night that found missing rows. What orders by hand find is left to who gave them.

    `idle` returns when no run is under way, `shipped` what keeps PostgreSQL from having the night's findings,
    `slot_runs` the runs of a slot.
    """

    configuration: Configuration
    orders: Orders
    idle: Callable[[], Awaitable[None]]
    shipped: Callable[[], Awaitable[IcekeeperError | None]]
    slot_runs: Callable[[datetime], Awaitable[Sequence[PastRun]]]
    clock: Clock
    sleep: Sleep
    _nights: asyncio.Queue[RunReport] = field(default_factory=asyncio.Queue, init=False)

    def observe(self, event: Event) -> None:
        """Takes the end of a night."""
        if not isinstance(event, RunEnded) or event.report.trigger is Trigger.MANUAL:
            return
        if event.report.outcome is RunOutcome.FAILED or any(audit.findings for audit in event.report.audits):
            self._nights.put_nowait(event.report)

    async def run(self) -> None:
        """Repairs after one night after the other, until cancelled."""
        while True:
            night = await self._nights.get()
            settings = self.configuration.settings
            if not settings.repair.automatic or settings.mode == "observe":
                continue
            try:
                await self._repair(night)
            except IcekeeperError as exc:
                log.error("repair_not_begun", slot=night.slot.isoformat(), error=str(exc))
            except Exception:  # a bug must not end the daemon
                log.exception("repair_not_begun", slot=night.slot.isoformat())

    async def _repair(self, night: RunReport) -> None:
        # All runs of the slot: one that went on after an interruption has audited a part of the tables only. An older
        # day that is no worse than before was repaired then, or could not be.
        audits = [audit for run in await self.slot_runs(night.slot) for audit in run.audits if audit.decides]
        windows = {(audit.iceberg_table, audit.window) for audit in audits}
        requests = await self._patiently(partial(self._requests, windows))
        for request in requests:
            ordered = await self._patiently(partial(self._begin, request))
            log.info("repair_ordered", run_id=str(ordered.run_id), tables=list(request.tables))
            await asyncio.wait([ordered.end])
            if not ordered.end.cancelled() and (error := ordered.end.exception()) is not None:
                log.error("repair_failed", run_id=str(ordered.run_id), error=str(error))

    async def _requests(self, windows: Collection[tuple[str, Window]]) -> list[RunRequest]:
        """What is to be repaired of these windows of tables, by the ledger."""
        async with self.configuration.borrowed() as services:
            keyed = [policy.name for policy in services.settings.policies() if policy.keys is not None]
            found = await repairable(services.findings, keyed, self.clock())
        lost = [_without_rows_to_come(audit) for audit in found if (audit.table, audit.window) in windows]
        like = RunRequest(self.clock(), (Stage.REPAIR, Stage.AUDIT))
        return repair_requests([audit for audit in lost if audit.findings], like)

    async def _begin(self, request: RunRequest) -> OrderedRun:
        state_dir = self.configuration.settings.state_dir
        if (paused := await asyncio.to_thread(pause.in_force, state_dir, self.clock())) is not None:
            raise RunLockHeld(str(paused))
        return await self.orders.begin(request)

    async def _patiently(self, work: Callable[[], Awaitable[T]]) -> T:
        """Does it once no run is under way and the ledger is up to date; tries again for PATIENCE, then raises."""
        waited = timedelta()
        while True:
            await self.idle()  # a run is shipped after its end only
            try:
                if (error := await self.shipped()) is not None:
                    raise error
                return await work()
            except (RunLockHeld, TransientError):
                if waited >= PATIENCE:
                    raise
                await self.sleep(RETRY_S)
                waited += timedelta(seconds=RETRY_S)


def _without_rows_to_come(audit: AuditFindings) -> AuditFindings:
    """The audit without the findings of rows that the offload will bring by itself."""
    lost = tuple(finding for finding in audit.findings if finding.explanation is not Explanation.NOT_OFFLOADED)
    return replace(audit, findings=lost)
