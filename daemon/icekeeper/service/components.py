"""What stands on the state directory: made when the start has come that far, and run side by side until the stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spool.shipper import Shipper
from icekeeper.adapters.spool.spool import Spool
from icekeeper.control.server import ControlSocket
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.events import Subscriber
from icekeeper.execution.execute import logs_of
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling.notifier import Notifier
from icekeeper.scheduling.orders import Orders
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.retention import Retention
from icekeeper.scheduling.session_keeper import SparkSessionKeeper
from icekeeper.scheduling.worker import Worker
from icekeeper.service.web import Web
from icekeeper.status.health import LOOK_S, ServiceHealth
from icekeeper.status.metrics import Metrics

log = structlog.get_logger(__name__)

# How long a command waits for its run's records to be in PostgreSQL.
_SHIPPED_S = 20.0
# How long records stay on this disk after they were shipped: the slots of a week or two are looked up there.
_KEPT = timedelta(days=30)
_PRUNE_EVERY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Owner:
    """What the components need of the daemon that they are in; `standby`: see Orders, `answered`: see Shipper."""

    configuration: Configuration
    engine: SparkEngine
    metrics: Metrics
    health: ServiceHealth
    web: Web
    clock: Clock
    sleep: Sleep
    observe: Subscriber
    no_run: Callable[[], None]
    leading: Callable[[], bool]
    next_slot: Callable[[], datetime | None]
    standby: Callable[[], Awaitable[str | None]]
    answered: Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class Components:
    owner: Owner
    spool: Spool
    shipper: Shipper
    worker: Worker
    control: ControlSocket
    session_keeper: SparkSessionKeeper
    notifier: Notifier
    retention: Retention

    @classmethod
    async def open(cls, owner: Owner) -> Components:
        """Raises what Spool.open does."""
        configuration, clock = owner.configuration, owner.clock
        state_dir = configuration.settings.state_dir
        spool = await Spool.open(state_dir, clock=clock)
        shipper = Shipper(
            spool,
            lambda: configuration.services.ledger,
            lambda run_id: logs_of(state_dir, run_id),
            on_answer=owner.answered,
        )
        worker = Worker(configuration, spool, owner.observe, clock, owner.leading, owner.no_run)
        orders = Orders(configuration, worker, owner.standby)
        owner.web.open(orders)
        components = cls(
            owner=owner,
            spool=spool,
            shipper=shipper,
            worker=worker,
            control=ControlSocket(orders, lambda: shipper.ship_within(_SHIPPED_S), owner.web.add_api),
            session_keeper=SparkSessionKeeper(
                owner.engine, lambda: configuration.settings, owner.next_slot, lambda: worker.busy, clock
            ),
            notifier=Notifier(spool, lambda: configuration.settings, clock, owner.sleep, owner.metrics.notified),
            retention=Retention(configuration, spool, owner.leading, lambda: worker.busy, clock, owner.sleep),
        )
        await components._prune()
        return components

    def work(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What goes on beside the worker."""
        yield self.shipper.run()
        yield self.session_keeper.run()
        yield self.notifier.run()
        yield self.retention.run()
        yield self._keep_the_spool()

    def follow(self) -> None:
        """The settings have changed: everybody looks."""
        self.session_keeper.wake()
        self.shipper.wake()
        self.worker.slots.wake()

    async def close(self) -> None:
        await self.control.stop()
        await self.spool.close()

    async def _keep_the_spool(self) -> None:
        """Keeps the numbers that a scrape shows, and the spool small."""
        clock = self.owner.clock
        pruned = clock()
        while True:
            if clock() - pruned > _PRUNE_EVERY:
                pruned = clock()
                await self._prune()
            await self.owner.health.look_at(self.spool)
            await self.owner.sleep(LOOK_S)

    async def _prune(self) -> None:
        try:
            await self.spool.prune(self.owner.clock() - _KEPT)
        except IcekeeperError as exc:  # a full disk; it is tried again
            log.error("spool_not_pruned", error=str(exc), advice=exc.reason.advice)
