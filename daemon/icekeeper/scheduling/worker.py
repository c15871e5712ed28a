"""The worker: takes the oldest open slot, runs it, and runs what operators order meanwhile. One run at a time.

What becomes of a slot is decided in core/resuming.py, what happens within a run in night.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import structlog

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.enums import RunOutcome, Trigger
from icekeeper.core.errors import Cancelled, IcekeeperError, TransientError
from icekeeper.core.events import Event, RunEnded, RunStarted, Subscriber, TaskStarted
from icekeeper.core.history import PastRun
from icekeeper.core.resuming import Decision, before, closing_report, decide, interrupted_report
from icekeeper.core.runs import RunOpening, RunReport
from icekeeper.execution.execute import Executed, close, execute, make_order
from icekeeper.execution.lock import RunLockHeld, run_lock
from icekeeper.execution.recording import settle_unfinished
from icekeeper.execution.wiring import Services, spark_options
from icekeeper.night.ports import Clock
from icekeeper.night.run import Order
from icekeeper.scheduling import pause
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.slots import Slots

log = structlog.get_logger(__name__)

# How long a slot waits where another process holds the run lock, or where its run crashed.
RETRY_S = 60.0
# How soon a slot that waits for the end of a pause sees that it is over. Without such a slot nobody looks.
PAUSE_LOOK_S = 5.0
# How soon a slot that waits for an overdue answer of the lease is begun after that.
LEASE_CHECK_S = 1.0
# How long the ledger may take to say what it knows of slots; without replicas the spool alone will do.
LEDGER_S = 10.0
# After months of standing still not every slot is worth a record.
MOST_MISSED = 100
# How far back runs of slots are looked up at least.
_LOOK_BACK = timedelta(days=3)


class Worker:
    """Works off slots. `emit` hears all events of all runs."""

    def __init__(
        self,
        configuration: Configuration,
        spool: Spool,
        emit: Subscriber,
        clock: Clock,
        leading: Callable[[], bool] = lambda: True,
        no_run: Callable[[], None] = lambda: None,
    ) -> None:
        """`leading`: whether this daemon may work; asked before each task. `no_run`: told when none is in hand."""
        self._configuration = configuration
        self._spool = spool
        self._emit = emit
        self._clock = clock
        self._leading = leading
        self._no_run = no_run
        self._began = clock()
        self.slots = Slots(spool)
        # Whoever changes a table holds this: no two tasks of this process ever work on tables at once.
        self._tables_lock = asyncio.Lock()
        self._turn = asyncio.Lock()
        self._running: asyncio.Task[Executed] | None = None
        self._order: Order | None = None
        self._cancelled: UUID | None = None
        self.opening: RunOpening | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        # Runs that ended while the disk could not take their record.
        self._unrecorded: list[RunReport] = []
        # What the ledger knew of slots when this worker began, by slot: runs of other hosts among them.
        self._elsewhere: dict[datetime, tuple[PastRun, ...]] = {}

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

    # --- the worker

    async def run(self) -> None:
        """Finds out what is owed, and works it off, and what comes due after that, until it is stopped."""
        self._stopping = False
        await self._recover()
        while not self._stopping:
            await self._idle.wait()  # an operator's run first, and then by the settings and the pause of then
            await self._record_what_is_left()
            runs = {slot: await self._runs_of(slot) for slot in self.slots.open}
            catch_up = self._configuration.settings.schedule.catch_up
            decisions = decide(self.slots.open, runs, self._clock(), catch_up)
            for decision in decisions:
                if decision.outcome is not None:
                    await self._close_unrun(decision, runs[decision.slot])
            due = next((decision for decision in decisions if decision.outcome is None), None)
            if due is None:
                await self.slots.wait(RETRY_S if self._unrecorded else None)
            elif not self._leading():  # an answer of the lease is overdue: it comes, or the term ends
                await self.slots.wait(LEASE_CHECK_S)
            elif (holding := pause.in_force(self._configuration.settings.state_dir, self._clock())) is not None:
                self.slots.keep(holding)
                await self.slots.wait(until_a_look(holding, self._clock()))
            else:
                await self._run_slot(due, runs[due.slot])

    async def stop(self) -> None:
        """Ends a run in hand as `interrupted`, records that, and takes no other."""
        self._stopping = True
        self.slots.wake()
        while (running := self._running) is not None and not running.done():
            running.cancel()
            await asyncio.wait([running])
        await self._record_what_is_left()

    def cancel(self, run_id: UUID, *, by_operator: bool = True) -> bool:
        """Asks the run under way to end; False where it is another, or none. By an operator, it ends as `cancelled`."""
        if self._running is None or self._order is None or self.opening is None or self.opening.run_id != run_id:
            return False
        if by_operator:
            self._order.stop.by_operator = True
        if self._cancelled != run_id:  # asked again, it is still on its way to its end
            self._cancelled = run_id
            self._running.cancel()
        return True

    async def order(self, make: Callable[[Services], Order], emit: Subscriber, *, record: bool = True) -> Executed:
        """Runs what an operator ordered, now. RunLockHeld where a run is under way; ConfigError from `make`."""
        if self._turn.locked():
            raise RunLockHeld(f"another run is under way in the daemon ({self._shown()}): wait for its end")
        async with self._configuration.borrowed() as services:
            order = make(services)
            log.info("run_ordered", run_id=str(order.run_id), slot=order.slot.isoformat(), stages=list(order.stages))

            def observe(event: Event) -> None:
                emit(event)
                if record:
                    self._emit(event)

            return await self._execute(services, order, observe, self._spool if record else None)

    # --- what is owed

    async def _recover(self) -> None:
        """Settles what earlier processes left behind, here and, by the ledger, elsewhere."""
        settings = self._configuration.settings
        now = self._clock()
        await self._record_what_is_left()
        await self.slots.load()
        try:
            with run_lock(settings.state_dir):
                await settle_unfinished(self._spool, self._clock)
        except RunLockHeld as exc:  # a command is at work; whoever runs next settles what is dead then
            log.info("dead_runs_not_settled", why=str(exc))
        last = await self._ask_the_ledger(min((now - settings.schedule.catch_up, now - _LOOK_BACK, *self.slots.open)))
        mark = await self._spool.accounted_until()
        if last is not None and (settings.replicas or mark is None):
            mark = last
        if mark is not None and mark > now:  # a clock was ahead once; slots that were done stay done
            mark = now - settings.schedule.catch_up
        # The very first start owes nothing of before, but what came due until this daemon led; a host may boot in 1970.
        began = max(self._began, now - settings.schedule.catch_up)
        await self._put_since(began if mark is None else mark, now)
        try:
            await self._spool.account(now)
        except IcekeeperError as exc:  # the next start looks at slots again that it need not
            log.error("slots_not_accounted", error=str(exc), advice=exc.reason.advice)

    async def _ask_the_ledger(self, since: datetime) -> datetime | None:
        """Takes over what the ledger knows of slots since then; the newest slot it knows of."""
        services = self._configuration.services
        try:
            async with asyncio.timeout(LEDGER_S):
                past = await services.ledger.past_runs(since)
                last = await services.ledger.last_slot()
        except (IcekeeperError, TimeoutError) as exc:
            if services.settings.replicas:  # another host may have done it: without knowing, no run
                raise TransientError(f"the ledger does not say which slots are done: {exc}") from exc
            log.warning("slots_by_the_spool_alone", error=str(exc) or "no answer in time")
            return None
        by_slot: dict[datetime, list[PastRun]] = {}
        for run in past:
            by_slot.setdefault(run.slot, []).append(run)
        for slot, runs in by_slot.items():
            await self._compare(slot, runs)
        return last

    async def _compare(self, slot: datetime, runs: list[PastRun]) -> None:
        """What the ledger knows of a slot against what the spool does, which is newer where it knows a run."""
        ours = {run.run_id for run in await self._spool.slot_runs(slot)}
        theirs = [run for run in runs if run.run_id not in ours]
        self._elsewhere[slot] = tuple(theirs)
        closed = next((run for run in theirs if run.outcome not in (None, RunOutcome.INTERRUPTED)), None)
        if closed is not None:
            await self.slots.close(slot, closed.outcome or RunOutcome.MISSED)
            return
        for run in theirs:
            if run.outcome is None:  # nobody else is at work, or we would not be
                log.warning("run_found_dead", run_id=str(run.run_id), slot=slot.isoformat(), host=run.host)
                await self._spool.close_run(interrupted_report(run, self._clock()))
        if theirs:
            await self.slots.put(slot, Trigger.CATCH_UP)

    async def _put_since(self, mark: datetime, now: datetime) -> None:
        calendar = self._configuration.settings.schedule.calendar()
        owed: list[datetime] = []
        for slot in calendar.slots(mark):
            if slot > now:
                break
            owed.append(slot)
        if len(owed) > MOST_MISSED:
            log.error("slots_missed", slots=len(owed) - MOST_MISSED, since=owed[0].isoformat(), recorded=MOST_MISSED)
        for slot in owed[-MOST_MISSED:]:
            log.warning("slot_found_due", slot=slot.isoformat())
            await self.slots.put(slot, Trigger.CATCH_UP)

    async def _runs_of(self, slot: datetime) -> tuple[PastRun, ...]:
        here = await self._spool.slot_runs(slot)
        known = {run.run_id for run in here}
        others = tuple(run for run in self._elsewhere.get(slot, ()) if run.run_id not in known)
        return tuple(sorted((*here, *others), key=lambda run: run.started_at))

    # --- one slot

    async def _run_slot(self, due: Decision, runs: tuple[PastRun, ...]) -> None:
        slot = due.slot.isoformat()
        try:
            async with self._configuration.borrowed() as services:
                order = make_order(services.settings, due.slot, due.trigger, before=before(runs))
                log.info("slot_begun", slot=slot, trigger=due.trigger, why=due.why)
                done = await self._execute(services, order, self._emit, self._spool)
                # Before anything is awaited: a term that ends here must not leave the slot open to the next one.
                if done.report.outcome is not RunOutcome.INTERRUPTED:
                    self.slots.closed(due.slot)
        except Cancelled as exc:
            log.info("slot_left", slot=slot, why=str(exc))
        except RunLockHeld as exc:
            log.warning("slot_waits", slot=slot, error=str(exc), retry_s=RETRY_S)
            await self.slots.wait(RETRY_S)
        except Exception:  # the daemon outlives a bug in one night; the slot stays open, and is resumed at most twice
            log.exception("slot_crashed", slot=slot, retry_s=RETRY_S)
            await self.slots.wait(RETRY_S)

    async def _execute(self, services: Services, order: Order, emit: Subscriber, spool: Spool | None) -> Executed:
        async with self._turn:
            self._idle.clear()
            try:
                # Before what is open in the spool is taken for dead.
                await self._record_what_is_left()
                await services.engine.use(spark_options(services.settings))
                if self._stopping or not self._leading():
                    raise Cancelled("the daemon is stopping, or leads no longer")
                observe = self._watched(services, emit)
                work = execute(services, order, observe, spool, tables_lock=self._tables_lock, may_go_on=self._leading)
                self._running, self._order = asyncio.create_task(work), order
                done = await self._running
                if done.not_recorded is not None:
                    self._unrecorded.append(done.report)
                    self.slots.wake()
                return done
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) is None or task.cancelling():
                    raise
                raise Cancelled("it was cancelled before it began") from None  # the run was, not the worker
            finally:
                self._running, self._order, self.opening = None, None, None
                self._no_run()  # one that crashed has told no end
                self._idle.set()

    def _watched(self, services: Services, emit: Subscriber) -> Subscriber:
        telling: set[asyncio.Task[None]] = set()

        def observe(event: Event) -> None:
            if isinstance(event, RunStarted):
                self.opening = event.opening
            elif isinstance(event, TaskStarted) and services.settings.replicas and self.opening is not None:
                # So that a standby knows where we died.
                telling.add(told := asyncio.create_task(_tell(services, self.opening.run_id, event)))
                told.add_done_callback(telling.discard)
            emit(event)

        return observe

    async def _close_unrun(self, decision: Decision, runs: tuple[PastRun, ...]) -> None:
        """Records a slot that no run will answer for any more."""
        digest = self._configuration.settings.digest()
        report = closing_report(decision, runs, uuid4(), self._clock(), digest)
        event = "slot_missed" if decision.outcome is RunOutcome.MISSED else "slot_given_up"
        log.error(event, slot=decision.slot.isoformat(), why=decision.why, run_id=str(report.run_id))
        self.slots.closed(decision.slot)
        self._emit(RunEnded(report))
        if await close(self._spool, report) is not None:
            self._unrecorded.append(report)

    async def _record_what_is_left(self) -> None:
        for report in tuple(self._unrecorded):
            if await close(self._spool, report) is None:
                self._unrecorded.remove(report)
                log.info("run_recorded_late", run_id=str(report.run_id))

    def _shown(self) -> str:
        return f"run {self.opening.run_id}, slot {self.opening.slot:%Y-%m-%dT%H:%MZ}" if self.opening else "it begins"


async def _tell(services: Services, run_id: UUID, event: TaskStarted) -> None:
    try:
        await services.ledger.mark_in_flight(run_id, event.stage, event.table)
    except IcekeeperError as exc:  # the lease sees the same, and ends the run if it must
        log.warning("task_not_told", error=str(exc))


def until_a_look(holding: pause.Pause, now: datetime) -> float:
    """For how many seconds a slot that waits for the end of a pause need not look."""
    left = PAUSE_LOOK_S if holding.until is None else (holding.until - now).total_seconds()
    return min(PAUSE_LOOK_S, max(left, 0.0))
