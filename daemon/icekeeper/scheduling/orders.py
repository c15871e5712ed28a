"""What operators order from the daemon: a run, a plan, the end of a run. The socket, the API and the page call this."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

import structlog
from pydantic import BaseModel, ConfigDict

from icekeeper.core.enums import Stage, Trigger
from icekeeper.core.errors import ConfigError, IcekeeperError
from icekeeper.core.events import Event, RunStarted, Subscriber
from icekeeper.core.tables.plan import Plan
from icekeeper.execution.execute import Executed, make_order
from icekeeper.execution.lock import RunLockHeld
from icekeeper.execution.plans import make_plans
from icekeeper.execution.wiring import Services, spark_options
from icekeeper.night.run import Order
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.worker import Worker

log = structlog.get_logger(__name__)


class RunRequest(BaseModel):
    """A run, or a plan, that is wanted. `record` False counts, and records nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slot: datetime
    stages: tuple[Stage, ...] = tuple(Stage)
    tables: tuple[str, ...] = ()
    window_hours: int | None = None
    record: bool = True


class Orders:
    """Takes orders. ConfigError where the request can't be met, RunLockHeld where not now."""

    def __init__(
        self, configuration: Configuration, worker: Worker, standby: Callable[[], Awaitable[str | None]]
    ) -> None:
        """`standby` says why this daemon runs nothing now, None where it does."""
        self._configuration = configuration
        self._worker = worker
        self._standby = standby
        self._running: set[asyncio.Task[None]] = set()

    async def run(self, request: RunRequest, emit: Subscriber) -> Executed:
        """Runs it, and returns at its end."""
        if (why := await self._standby()) is not None:
            raise RunLockHeld(why)
        return await self._worker.order(lambda services: _order(services, request), emit, record=request.record)

    async def begin(self, request: RunRequest) -> UUID:
        """Begins a run that goes on behind the caller; its id, as soon as it has begun.

        A caller that is cancelled before that (a request has limited time) takes the order back: it does not begin.
        """
        begun: asyncio.Future[UUID] = asyncio.get_running_loop().create_future()
        # A caller that is gone does not retrieve the error.
        begun.add_done_callback(lambda done: done.cancelled() or done.exception())

        def emit(event: Event) -> None:
            if isinstance(event, RunStarted) and not begun.done():
                begun.set_result(event.opening.run_id)

        async def work() -> None:
            try:
                await self.run(request, emit)
            except Exception as exc:
                if not begun.done():
                    begun.set_exception(exc)
                elif not isinstance(exc, IcekeeperError):  # a bug: the run's end is in the log, this is what came after
                    log.exception("ordered_run_crashed")

        # A task of its own: the caller may be gone long before the run ends.
        self._running.add(running := asyncio.create_task(work()))
        running.add_done_callback(self._running.discard)
        try:
            return await asyncio.shield(begun)
        except asyncio.CancelledError:
            if begun.done():  # at the same moment: the caller must not believe that it did not begin
                return begun.result()
            running.cancel()
            raise

    def cancel(self, run_id: UUID, *, by_operator: bool = True) -> bool:
        """Cancels the run under way; False where it is another, or none."""
        return self._worker.cancel(run_id, by_operator=by_operator)

    async def plan(self, request: RunRequest) -> tuple[list[Plan], dict[str, str]]:
        """What the run would do, and an error for every table that could not be read."""
        async with self._configuration.borrowed() as services:
            order = _order(services, request)
            if not self._worker.busy:  # a run keeps the session that it began with
                await services.engine.use(spark_options(services.settings))
            return await make_plans(order, services.ports)


def _order(services: Services, request: RunRequest) -> Order:
    if request.slot > services.ports.clock():
        raise ConfigError([f"the slot {request.slot:%Y-%m-%dT%H:%M:%SZ} lies in the future"])
    return make_order(
        services.settings,
        request.slot,
        Trigger.MANUAL,
        stages=request.stages,
        tables=request.tables,
        window_hours=request.window_hours,
    )
