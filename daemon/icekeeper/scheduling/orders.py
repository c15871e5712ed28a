"""What operators order from the daemon: a run, a plan, the end of a run. The API and the page: http/, pages/."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID, uuid4

import structlog

from icekeeper.adapters.waiting import first_of
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import NIGHT, Stage, Trigger
from icekeeper.core.errors import Cancelled, ConfigError, IcekeeperError, TransientError
from icekeeper.core.events import Event, RunStarted, Subscriber
from icekeeper.core.formats import iso_second
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.core.tables.plan import Plan
from icekeeper.execution import holding
from icekeeper.execution.acceptance import accept_rewrites
from icekeeper.execution.execute import Executed, make_order
from icekeeper.execution.lock import RunLockHeld
from icekeeper.execution.plans import make_plans
from icekeeper.execution.wiring import Services, spark_options
from icekeeper.night.order import Order
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.worker import Worker
from icekeeper.settings import Settings

log = structlog.get_logger(__name__)

# How long `begin` waits for the run to begin: a session that is being replaced, or that makes a plan, may take longer.
# Less than an HTTP request may take, so that the answer is never an error although the run begins.
BEGIN_S = 20.0


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A run, or a plan, that is ordered. `record` False: an audit that counts and records nothing.

    Its audits count `window`, else the `window_hours` before the slot's whole hour, else the day before the slot; at
    the table's one of `snapshots`, else at its current one. `findings`: the ids of those that the stage `repair`
    repairs; empty: all of the window. `actor`: who orders it, as the ledger has it.
    """

    slot: datetime
    stages: tuple[Stage, ...] = NIGHT
    tables: tuple[str, ...] = ()
    window_hours: int | None = None
    record: bool = True
    window: Window | None = None
    snapshots: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    actor: str | None = None

    def order(self, settings: Settings) -> Order:
        """The order with these settings frozen into it. Raises like `make_order`."""
        return make_order(
            settings,
            self.slot,
            Trigger.MANUAL,
            stages=self.stages,
            tables=self.tables,
            window=self.window or (window_of(self.slot, self.window_hours) if self.window_hours else None),
            snapshots=self.snapshots,
            findings=self.findings,
            actor=self.actor,
        )


@dataclass(frozen=True, slots=True)
class OrderedRun:
    """A run on its way. `end` has its result once it has ended and PostgreSQL has it or is known not to."""

    run_id: UUID
    end: asyncio.Task[Executed]


class Orders:
    """ConfigError where an order is not possible, RunLockHeld where it is not possible now."""

    def __init__(
        self,
        configuration: Configuration,
        worker: Worker,
        standby: Callable[[], Awaitable[str | None]],
        shipped: Callable[[], Awaitable[IcekeeperError | None]],
        begin_s: float = BEGIN_S,
    ) -> None:
        """`standby` returns why this daemon runs nothing now, None where it does. `shipped` waits until PostgreSQL has
        the records, and returns what prevents that.
        """
        self._configuration = configuration
        self._worker = worker
        self._standby = standby
        self._shipped = shipped
        self._begin_s = begin_s
        self._stopping = asyncio.Event()
        self._running: set[asyncio.Task[Executed]] = set()
        self._waiting: dict[UUID, asyncio.Task[Executed]] = {}

    async def begin(
        self, request: RunRequest, emit: Subscriber = lambda event: None, run_id: UUID | None = None
    ) -> OrderedRun:
        """Starts a run that goes on without its caller; returns when it has begun, or is still about to after a while.

        `emit` gets its events. Raises what prevents it from beginning.
        """
        run_id, begun = run_id or uuid4(), asyncio.Event()

        def observe(event: Event) -> None:
            if isinstance(event, RunStarted):
                self._waiting.pop(run_id, None)
                begun.set()
            emit(event)

        end = asyncio.create_task(self._run(run_id, request, observe))
        self._running.add(end)
        self._waiting[run_id] = end
        end.add_done_callback(lambda end: self._ended(run_id, end))
        beginning = asyncio.create_task(begun.wait())
        try:
            await asyncio.wait([end, beginning], timeout=self._begin_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            beginning.cancel()
        if end.done() and not begun.is_set():
            if end.cancelled():
                raise Cancelled("it was cancelled before it began")
            end.result()
        return OrderedRun(run_id, end)

    def cancel(self, run_id: UUID, *, by_operator: bool = True) -> bool:
        """Ends a run under way, or one that is about to begin; False where there is none with that id."""
        waiting = self._waiting.get(run_id)
        done = waiting.cancel() if waiting is not None else self._worker.cancel(run_id, by_operator=by_operator)
        if done:
            log.info("run_cancel_ordered", run_id=str(run_id), by_operator=by_operator)
        return done

    def stop(self) -> None:
        """The daemon ends: no run waits any longer for PostgreSQL to have its records."""
        self._stopping.set()

    async def plan(self, request: RunRequest) -> tuple[list[Plan], dict[str, str]]:
        """What the run would do, and an error for every table that could not be read."""
        async with self._configuration.borrowed() as services:
            order = _order(services, request)
            if not self._worker.busy:  # a run keeps the session that it began with
                await services.engine.use(spark_options(services.settings))
            return await make_plans(order, services.ports)

    async def accept_rewrites(self, table: str, note: str, by: str) -> tuple[str, ...]:
        """Removes a table's tags of before wrong rewrites, and returns their names. Raises like `accept_rewrites`."""
        if (why := await self._standby()) is not None:
            raise RunLockHeld(why)
        async with self._configuration.borrowed() as services:
            if not self._worker.busy:
                await services.engine.use(spark_options(services.settings))
            return await accept_rewrites(services, table, note, by)

    async def hold(
        self, table: str, stages: Collection[Stage], until: datetime | None, note: str, by: str
    ) -> tuple[OperatorHold, ...]:
        """Puts stages of a table on hold, from their next task on. A standby may, too. Raises like `holding.hold`."""
        async with self._configuration.borrowed() as services:
            return await holding.hold(services, table, stages, until, note, by)

    async def release(self, table: str, stages: Collection[Stage], by: str) -> tuple[OperatorHold, ...]:
        """Ends holds, and returns them. Raises like `holding.release`."""
        async with self._configuration.borrowed() as services:
            return await holding.release(services, table, stages, by)

    async def _run(self, run_id: UUID, request: RunRequest, emit: Subscriber) -> Executed:
        if (why := await self._standby()) is not None:
            raise RunLockHeld(why)

        def make(services: Services) -> Order:
            return replace(_order(services, request), run_id=run_id)

        done = await self._worker.order(make, emit, record=request.record)
        if not request.record or done.not_recorded is not None:
            return done
        shipped, _ = await first_of(self._shipped(), self._stopping.wait())
        if shipped.cancelled():
            text = "the daemon stopped before PostgreSQL had taken the run's records"
            return replace(done, not_shipped=TransientError(text, reason=Reason.LEDGER_DOWN))
        return replace(done, not_shipped=shipped.result())

    def _ended(self, run_id: UUID, end: asyncio.Task[Executed]) -> None:
        self._running.discard(end)
        self._waiting.pop(run_id, None)
        if end.cancelled() or (error := end.exception()) is None or isinstance(error, IcekeeperError):
            return
        log.error("ordered_run_crashed", run_id=str(run_id), exc_info=error)


def _order(services: Services, request: RunRequest) -> Order:
    if request.slot > services.ports.clock():
        raise ConfigError([f"the slot {iso_second(request.slot)} lies in the future"])
    return request.order(services.settings)
