"""What operators ask of the daemon: a run, a plan, the end of a run. Who asks (socket, API, page) lives elsewhere."""

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
    """What somebody wants: a run, or a plan. `record` False counts, and records nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slot: datetime
    stages: tuple[Stage, ...] = tuple(Stage)
    tables: tuple[str, ...] = ()
    window_hours: int | None = None
    record: bool = True


class Orders:
    """Takes them. ConfigError where what is asked for can't be, RunLockHeld where not now."""

    def __init__(
        self, configuration: Configuration, worker: Worker, standby: Callable[[], Awaitable[str | None]]
    ) -> None:
        """`standby` says why this daemon runs nothing now, None where it does."""
        self._configuration = configuration
        self._worker = worker
        self._standby = standby
        self._begun: set[asyncio.Task[None]] = set()

    async def run(self, asked: RunRequest, emit: Subscriber) -> Executed:
        """Has it done, and waits for its end."""
        if (why := await self._standby()) is not None:
            raise RunLockHeld(why)
        return await self._worker.order(lambda services: _order(services, asked), emit, record=asked.record)

    async def begin(self, asked: RunRequest) -> UUID:
        """Has it done behind the caller: its id, as soon as it has begun."""
        begun: asyncio.Future[UUID] = asyncio.get_running_loop().create_future()
        # Whoever asked may not wait for it: an error that nobody hears is no news.
        begun.add_done_callback(lambda done: done.cancelled() or done.exception())

        def emit(event: Event) -> None:
            if isinstance(event, RunStarted) and not begun.done():
                begun.set_result(event.opening.run_id)

        async def work() -> None:
            try:
                await self.run(asked, emit)
            except Exception as exc:
                if not begun.done():
                    begun.set_exception(exc)
                elif not isinstance(exc, IcekeeperError):  # a bug: the run's end is in the log, this is what came after
                    log.exception("ordered_run_crashed")

        # On its own: whoever asked may be gone long before it ends.
        self._begun.add(working := asyncio.create_task(work()))
        working.add_done_callback(self._begun.discard)
        return await asyncio.shield(begun)

    def cancel(self, run_id: UUID, *, by_operator: bool = True) -> bool:
        """Asks a run in hand to end; False where it isn't."""
        return self._worker.cancel(run_id, by_operator=by_operator)

    async def plan(self, asked: RunRequest) -> tuple[list[Plan], dict[str, str]]:
        """What the run would do, and an error for every table that could not be read."""
        async with self._configuration.borrowed() as services:
            order = _order(services, asked)
            if not self._worker.busy:  # a run keeps the session that it began with
                await services.engine.use(spark_options(services.settings))
            return await make_plans(order, services.ports)


def _order(services: Services, asked: RunRequest) -> Order:
    if asked.slot > services.ports.clock():
        raise ConfigError([f"the slot {asked.slot:%Y-%m-%dT%H:%M:%SZ} lies in the future"])
    return make_order(
        services.settings,
        asked.slot,
        Trigger.MANUAL,
        stages=asked.stages,
        tables=asked.tables,
        window_hours=asked.window_hours,
    )
