"""A run without a daemon: in the command's own process, where no daemon serves the state directory."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from icekeeper.adapters.postgres.lease import Lease
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spool.shipper import Shipper
from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.events import Subscriber
from icekeeper.execution.execute import Executed, execute
from icekeeper.execution.lock import RunLockHeld
from icekeeper.execution.log_files import logs_of
from icekeeper.execution.wiring import Services, build, spark_options
from icekeeper.night.order import Order
from icekeeper.settings import Settings

# How long shipping to PostgreSQL may take; after that the records wait in the spool.
_SHIP_S = 60.0


@asynccontextmanager
async def session(settings: Settings) -> AsyncIterator[Services]:
    """Services with an engine of their own; the JVM starts with the first thing that needs it."""
    engine = SparkEngine(spark_options(settings))
    services = build(settings, engine)
    try:
        yield services
    finally:
        await services.close()
        await engine.stop()


async def run_standalone(services: Services, order: Order, emit: Subscriber, *, record: bool = True) -> Executed:
    """Runs the order and ships its records. RunLockHeld where another run is under way on this host or, with replicas,
    on another one."""
    if not record:
        return await execute(services, order, emit, None)
    settings = services.settings
    spool = await Spool.open(settings.state_dir, clock=services.ports.clock)
    try:
        async with _leading(services):
            done = await execute(services, order, emit, spool)
        if done.not_recorded is not None:
            return done
        shipper = Shipper(spool, lambda: services.ledger, lambda run_id: logs_of(settings.state_dir, run_id))
        return replace(done, not_shipped=await shipper.ship_within(_SHIP_S))
    finally:
        await spool.close()


@asynccontextmanager
async def _leading(services: Services) -> AsyncIterator[None]:
    """Holds the lease for the run, with replicas."""
    if (lease := lease_of(services)) is None:
        yield
        return
    try:
        if not await lease.try_acquire():
            holder = await lease.holder()
            where = f"the daemon on {holder.host} leads" if holder is not None else "another host leads"
            raise RunLockHeld(f"{where} (replicas: true): run it there, or stop that daemon")
        owner = asyncio.current_task()
        watch = asyncio.create_task(lease.lost())
        # Without an operator's StopRequest: the run is `interrupted`.
        watch.add_done_callback(lambda ended: None if ended.cancelled() or owner is None else owner.cancel())
        try:
            yield
        finally:
            watch.cancel()
    finally:
        await lease.release()


def lease_of(services: Services) -> Lease | None:
    """The lease; None without replicas."""
    if not services.settings.replicas:
        return None
    postgres, installation = services.settings.postgres, services.installation.settled
    assert postgres is not None  # the settings hold that
    dsn = postgres.lease_dsn or postgres.dsn
    return Lease(dsn, postgres.secret(), host=socket.gethostname(), installation=installation)
