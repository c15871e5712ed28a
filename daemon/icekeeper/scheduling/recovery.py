"""What a daemon owes when it begins to work: runs that died, slots left open, slots that came due while it was away.

It reads this host's spool and, where it answers, the ledger. Working the slots off: worker.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.enums import RunOutcome, Trigger
from icekeeper.core.errors import IcekeeperError, TransientError
from icekeeper.core.history import PastRun
from icekeeper.core.resuming import interrupted_report
from icekeeper.execution.lock import RunLockHeld, run_lock
from icekeeper.execution.recording import close_run, settle_unfinished
from icekeeper.night.ports import Clock
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.slots import Slots

log = structlog.get_logger(__name__)

# How long the ledger may take to answer; without replicas the spool alone will do.
LEDGER_TIMEOUT_S = 10.0
# After months of standing still not every slot is worth a record.
MAX_MISSED = 100
# How far back runs of slots are looked up at least.
_LOOKBACK = timedelta(days=3)

RunsBySlot = Mapping[datetime, tuple[PastRun, ...]]


@dataclass(frozen=True, slots=True)
class Recovery:
    """Run at the begin of each term. Puts what is owed into `slots`."""

    configuration: Configuration
    spool: Spool
    slots: Slots
    clock: Clock
    started_at: datetime

    async def run(self) -> RunsBySlot:
        """Settles and puts what is owed; returns the runs that only the ledger knows, other hosts' among them.

        TransientError where replicas share the slots and the ledger does not answer.
        """
        settings = self.configuration.settings
        accounted = await self.spool.accounted_until()  # first: each slot that is put moves it
        await self.slots.load()
        try:
            with run_lock(settings.state_dir):
                await settle_unfinished(self.spool, self.clock)
        except RunLockHeld as exc:  # a command is at work; the next run settles what is dead then
            log.info("dead_runs_not_settled", why=str(exc))
        except OSError as exc:  # a full disk, for example: the next run tries again
            log.error("dead_runs_not_settled", why=str(exc))
        now = self.clock()
        since = min((now - settings.schedule.catch_up, now - _LOOKBACK, *self.slots.open))
        runs, last = await self._ledger_runs(since)
        by_slot = {slot: await self._compare(slot, of_slot) for slot, of_slot in _by_slot(runs).items()}
        # After the ledger's answer: slots that came due meanwhile were put by the scheduler.
        now = self.clock()
        oldest_to_run = now - settings.schedule.catch_up
        if last is not None and (settings.replicas or accounted is None):
            accounted = last
        if accounted is None:
            # The very first start owes only what came due until this daemon led; a host may boot in 1970.
            accounted = max(self.started_at, oldest_to_run)
        elif accounted > now:  # a clock was ahead once; slots that were done stay done
            accounted = oldest_to_run
        await self._put_since(accounted, now)
        try:
            await self.spool.account(now)
        except IcekeeperError as exc:  # the next start puts slots again that are put already
            log.error("slots_not_accounted", error=str(exc), advice=exc.reason.advice)
        return by_slot

    async def _ledger_runs(self, since: datetime) -> tuple[tuple[PastRun, ...], datetime | None]:
        """The runs of slots since then, and the newest slot of all."""
        services = self.configuration.services
        try:
            async with asyncio.timeout(LEDGER_TIMEOUT_S):
                return await services.ledger.past_runs(since), await services.ledger.last_slot()
        except (IcekeeperError, TimeoutError) as exc:
            if services.settings.replicas:  # another host may have done it: without knowing, no run
                raise TransientError(f"the ledger does not say which slots are done: {exc}") from exc
            log.warning("slots_from_spool_only", error=str(exc) or "no answer in time")
            return (), None

    async def _compare(self, slot: datetime, runs: Iterable[PastRun]) -> tuple[PastRun, ...]:
        """Takes over what only the ledger knows of a slot: where the spool knows a run, the spool is newer."""
        known = {run.run_id for run in await self.spool.slot_runs(slot)}
        remote = tuple(run for run in runs if run.run_id not in known)
        closed = next((run for run in remote if run.outcome not in (None, RunOutcome.INTERRUPTED)), None)
        if closed is not None:
            try:
                await self.slots.close(slot, closed.outcome or RunOutcome.MISSED)
            except IcekeeperError as exc:  # in memory it is closed; the next term reads the ledger again
                log.error("slot_not_noted", slot=slot.isoformat(), error=str(exc), advice=exc.reason.advice)
            return remote
        for run in remote:
            if run.outcome is None:  # no other host is at work, or this one would not lead
                log.warning("run_found_dead", run_id=str(run.run_id), slot=slot.isoformat(), host=run.host)
                await close_run(self.spool, interrupted_report(run, self.clock()))
        if remote:
            await self.slots.put(slot, Trigger.CATCH_UP)
        return tuple(replace(run, outcome=run.outcome or RunOutcome.INTERRUPTED) for run in remote)

    async def _put_since(self, since: datetime, now: datetime) -> None:
        due: list[datetime] = []
        for slot in self.configuration.settings.schedule.calendar().slots(since):
            if slot > now:
                break
            due.append(slot)
        if len(due) > MAX_MISSED:
            log.error("slots_missed", slots=len(due) - MAX_MISSED, since=due[0].isoformat(), recorded=MAX_MISSED)
        for slot in due[-MAX_MISSED:]:
            log.warning("slot_found_due", slot=slot.isoformat())
            await self.slots.put(slot, Trigger.CATCH_UP)


def _by_slot(runs: Iterable[PastRun]) -> dict[datetime, list[PastRun]]:
    by_slot: dict[datetime, list[PastRun]] = {}
    for run in runs:
        by_slot.setdefault(run.slot, []).append(run)
    return by_slot
