"""What stands on the state directory: made when the start has come that far, and run side by side until the stop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from icekeeper.adapters.spark.session import SparkEngine
from icekeeper.adapters.spool.shipper import Shipper
from icekeeper.adapters.spool.spool import Spool
from icekeeper.control.server import ControlSocket
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.events import Subscriber
from icekeeper.execution.execute import logs_of
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling.notifier import Teller
from icekeeper.scheduling.orders import Orders
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.retention import Retention
from icekeeper.scheduling.session_keeper import Warmth
from icekeeper.scheduling.worker import Nights
from icekeeper.service.web import Front
from icekeeper.status.health import LOOK_S, Condition
from icekeeper.status.metrics import Metrics

log = structlog.get_logger(__name__)

# How long a command waits for its run's records to be in PostgreSQL.
_SHIPPED_S = 20.0
# How long records stay on this disk after they were shipped: the slots of a week or two are looked up there.
_KEPT = timedelta(days=30)
_PRUNE_EVERY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Owner:
    """What the rooms need of the daemon that they are in; `standby`: see Orders, `answered`: see Shipper."""

    configuration: Configuration
    engine: SparkEngine
    metrics: Metrics
    condition: Condition
    front: Front
    clock: Clock
    sleep: Sleep
    observe: Subscriber
    no_run: Callable[[], None]
    leading: Callable[[], bool]
    next_slot: Callable[[], datetime | None]
    standby: Callable[[], Awaitable[str | None]]
    answered: Callable[[bool], None]


@dataclass(frozen=True, slots=True)
class Rooms:
    owner: Owner
    spool: Spool
    shipper: Shipper
    nights: Nights
    control: ControlSocket
    warmth: Warmth
    teller: Teller
    retention: Retention

    @classmethod
    async def open(cls, owner: Owner) -> Rooms:
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
        nights = Nights(configuration, spool, owner.observe, clock, owner.leading, owner.no_run)
        orders = Orders(configuration, nights, owner.standby)
        owner.front.open(orders)
        rooms = cls(
            owner=owner,
            spool=spool,
            shipper=shipper,
            nights=nights,
            control=ControlSocket(orders, lambda: shipper.ship_within(_SHIPPED_S), owner.front.add_api),
            warmth=Warmth(owner.engine, lambda: configuration.settings, owner.next_slot, lambda: nights.busy, clock),
            teller=Teller(spool, lambda: configuration.settings, clock, owner.sleep, owner.metrics.notified),
            retention=Retention(configuration, spool, owner.leading, lambda: nights.busy, clock, owner.sleep),
        )
        await rooms._prune()
        return rooms

    def work(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What goes on beside the nights."""
        yield self.shipper.run()
        yield self.warmth.run()
        yield self.teller.run()
        yield self.retention.run()
        yield self._keep_the_spool()

    def follow(self) -> None:
        """The settings have changed: everybody looks."""
        self.warmth.wake()
        self.shipper.wake()
        self.nights.slots.wake()

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
            await self.owner.condition.look_at(self.spool)
            await self.owner.sleep(LOOK_S)

    async def _prune(self) -> None:
        try:
            await self.spool.prune(self.owner.clock() - _KEPT)
        except IcekeeperError as exc:  # a full disk; it is tried again
            log.error("spool_not_pruned", error=str(exc), advice=exc.reason.advice)
