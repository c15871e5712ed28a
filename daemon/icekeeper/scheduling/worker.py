"""The worker: runs the oldest open slot, and what operators order meanwhile. One run at a time.

What is owed when it begins: recovery.py. What becomes of a slot is decided in core/resuming.py, what happens within a
run in night/.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID, uuid4

import structlog

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.enums import RunOutcome
from icekeeper.core.errors import Cancelled
from icekeeper.core.events import Event, RunEnded, RunStarted, Subscriber
from icekeeper.core.formats import iso_minute
from icekeeper.core.history import PastRun
from icekeeper.core.resuming import Decision, closing_report, decide, earlier_work
from icekeeper.execution.execute import Executed, execute, make_order
from icekeeper.execution.lock import RunLockHeld
from icekeeper.execution.recording import UnrecordedRuns, close_run
from icekeeper.execution.wiring import Services, spark_options
from icekeeper.night.order import Order
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling import pause
from icekeeper.scheduling.in_flight import InFlightMarker
from icekeeper.scheduling.recovery import Recovery
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.slots import Slots

log = structlog.get_logger(__name__)

# How long a slot waits where another process holds the run lock, or where its run crashed.
RETRY_S = 60.0
# How soon a slot that waits for an overdue answer of the lease is begun after that.
LEASE_CHECK_S = 1.0


@dataclass(slots=True)
class _CurrentRun:
    """The run under way."""

    order: Order
    task: asyncio.Task[Executed]
    cancelled: bool = False
    # Its end is known to all who hear of it; what goes on is recording it.
    ended: bool = False


class Worker:
    """Works off slots and orders. `emit` gets all events of all runs."""

    def __init__(
        self,
        configuration: Configuration,
        spool: Spool,
        emit: Subscriber,
        clock: Clock,
        leading: Callable[[], bool] = lambda: True,
        no_run: Callable[[], None] = lambda: None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        """`leading`: whether this daemon may work; checked before each task. `no_run`: called when a run is over, also
        where it crashed and emitted no end."""
        self._configuration = configuration
        self._spool = spool
        self._emit = emit
        self._clock = clock
        self._leading = leading
        self._no_run = no_run
        self.slots = Slots(spool, sleep)
        self._recovery = Recovery(configuration, spool, self.slots, clock, started_at=clock())
        # Held while a table is changed: no two tasks of this process ever work on tables at once.
        self._tables_lock = asyncio.Lock()
        self._run_mutex = asyncio.Lock()
        self._current: _CurrentRun | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self._unrecorded = UnrecordedRuns(spool)
        # What only the ledger knew of slots when a term began, by slot.
        self._remote_runs: dict[datetime, tuple[PastRun, ...]] = {}

    @property
    def unrecorded(self) -> int:
        """How many runs ended whose record the disk could not take."""
        return len(self._unrecorded)

    @property
    def busy(self) -> bool:
        return not self._idle.is_set()

    async def idle(self) -> None:
        """Returns when no run is under way."""
        await self._idle.wait()

    # --- the loop

    async def run(self) -> None:
        """Works off what is owed and what comes due after that, until it is stopped."""
        self._stopping = False
        await self._unrecorded.record()
        self._remote_runs |= await self._recovery.run()
        while not self._stopping:
            await self._idle.wait()  # an operator's run first; the settings and the pause are read after it
            await self._unrecorded.record()
            # One snapshot: slots are put and closed while their runs are read.
            open_slots = self.slots.open
            if open_slots and not self._leading():  # until the lease answers or the term ends
                await self.slots.wait(LEASE_CHECK_S)
                continue
            runs = {slot: await self._runs_of(slot) for slot in open_slots}
            decisions = decide(open_slots, runs, self._clock(), self._configuration.settings.schedule.catch_up)
            for decision in decisions:
                if decision.outcome is not None:
                    await self._close_without_run(decision, runs[decision.slot])
            due = next((decision for decision in decisions if decision.outcome is None), None)
            if due is None:
                await self.slots.wait(RETRY_S if self._unrecorded else None)
            elif (paused := await self._pause()) is not None:
                self.slots.hold(paused)
                await self.slots.wait(pause.poll_after_s(paused, self._clock()))
            else:
                await self._run_slot(due, runs[due.slot])

    async def _pause(self) -> pause.Pause | None:
        # In a thread: a disk that hangs must not hold up the loop.
        return await asyncio.to_thread(pause.in_force, self._configuration.settings.state_dir, self._clock())

    async def stop(self) -> None:
        """Ends the run under way as `interrupted`, records that, and begins no other."""
        self._stopping = True
        self.slots.wake()
        while (current := self._current) is not None and not current.task.done():
            current.task.cancel()
            await asyncio.wait([current.task])
        await self._unrecorded.record()

    def cancel(self, run_id: UUID, *, by_operator: bool = True) -> bool:
        """Cancels the run under way; False where it is another, or none. By an operator, it ends as `cancelled`."""
        current = self._current
        if current is None or current.order.run_id != run_id or current.ended:
            return False
        if by_operator:
            current.order.stop.by_operator = True
        if not current.cancelled:  # cancelled again while it ends, it could not record its end
            current.cancelled = True
            current.task.cancel()
        return True

    async def order(self, make: Callable[[Services], Order], emit: Subscriber, *, record: bool = True) -> Executed:
        """Runs what an operator ordered, now. RunLockHeld where a run is under way; ConfigError from `make`."""
        if self._run_mutex.locked():
            raise RunLockHeld(f"another run is under way in the daemon ({self._current_name()}): wait for its end")
        async with self._configuration.borrowed() as services:
            order = make(services)

            def observe(event: Event) -> None:
                if isinstance(event, RunStarted):  # not before: a run that can't begin leaves no log file
                    stages = list(order.stages)
                    log.info("run_ordered", run_id=str(order.run_id), slot=order.slot.isoformat(), stages=stages)
                emit(event)
                if record:
                    self._emit(event)

            return await self._execute(services, order, observe, self._spool if record else None)

    # --- one slot

    async def _runs_of(self, slot: datetime) -> tuple[PastRun, ...]:
        local = await self._spool.slot_runs(slot)
        known = {run.run_id for run in local}
        remote = [run for run in self._remote_runs.get(slot, ()) if run.run_id not in known]
        return tuple(sorted((*local, *remote), key=lambda run: run.started_at))

    async def _run_slot(self, due: Decision, runs: tuple[PastRun, ...]) -> None:
        if self.busy:  # an operator's run has begun meanwhile
            return
        slot = due.slot.isoformat()
        try:
            async with self._configuration.borrowed() as services:
                order = make_order(services.settings, due.slot, due.trigger, earlier=earlier_work(runs))
                log.info("slot_begun", slot=slot, trigger=due.trigger, why=due.why)
                done = await self._execute(services, order, self._emit, self._spool)
                # Before anything is awaited: a term that ends here must not leave the slot open to the next one.
                if done.report.outcome is not RunOutcome.INTERRUPTED:
                    self.slots.closed(due.slot)
        except Cancelled as exc:
            log.info("slot_not_begun", slot=slot, why=str(exc))
        except RunLockHeld as exc:
            log.warning("slot_waits", slot=slot, error=str(exc), retry_s=RETRY_S)
            await self.slots.wait(RETRY_S)
        except Exception:  # the daemon outlives a bug in one run; the slot stays open, and is resumed at most twice
            log.exception("slot_crashed", slot=slot, retry_s=RETRY_S)
            await self.slots.wait(RETRY_S)

    async def _close_without_run(self, decision: Decision, runs: tuple[PastRun, ...]) -> None:
        """Records a slot that no run will answer for any more."""
        digest = self._configuration.settings.digest()
        report = closing_report(decision, runs, uuid4(), self._clock(), digest)
        event = "slot_missed" if decision.outcome is RunOutcome.MISSED else "slot_given_up"
        log.error(event, slot=decision.slot.isoformat(), why=decision.why, run_id=str(report.run_id))
        self.slots.closed(decision.slot)
        self._emit(RunEnded(report))
        if await close_run(self._spool, report) is not None:
            self._unrecorded.add(report)

    # --- one run

    async def _execute(self, services: Services, order: Order, emit: Subscriber, spool: Spool | None) -> Executed:
        """Raises Cancelled where it could not begin."""
        async with self._run_mutex:
            self._idle.clear()
            marker = InFlightMarker(services.ledger) if services.settings.replicas else None

            def observe(event: Event) -> None:
                if marker is not None:
                    marker.observe(event)
                if isinstance(event, RunEnded) and self._current is not None:
                    self._current.ended = True
                emit(event)

            try:
                # First: a run without a record would be taken for one that died.
                await self._unrecorded.record()
                if self._stopping or not self._leading():
                    raise Cancelled("the daemon is stopping, or leads no longer")
                work = execute(
                    services,
                    order,
                    observe,
                    spool,
                    tables_lock=self._tables_lock,
                    may_go_on=self._leading,
                    prepare=lambda: services.engine.use(spark_options(services.settings)),
                )
                self._current = current = _CurrentRun(order, asyncio.create_task(work))
                done = await current.task
                if done.not_recorded is not None:
                    self._unrecorded.add(done.report)
                    self.slots.wake()
                return done
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                raise Cancelled("it was cancelled before it began") from None  # the run was, not the worker
            finally:
                self._current = None
                if marker is not None:
                    marker.close()
                self._no_run()
                self._idle.set()

    def _current_name(self) -> str:
        if self._current is None:
            return "it begins"
        return f"run {self._current.order.run_id}, slot {iso_minute(self._current.order.slot)}"
