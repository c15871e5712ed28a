"""Executes an order: under the run lock, recorded in the spool, with its log file. What a run does: night/."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import uuid4

import structlog
from structlog.contextvars import bound_contextvars

from icekeeper.adapters.spool.spool import Spool
from icekeeper.adapters.waiting import uninterrupted
from icekeeper.core.calendar import Window
from icekeeper.core.enums import NIGHT, Stage, Trigger
from icekeeper.core.errors import ConfigError, IcekeeperError
from icekeeper.core.events import Event, RunEnded, Subscriber
from icekeeper.core.policy import TablePolicy
from icekeeper.core.resuming import EarlierWork
from icekeeper.core.runs import RunReport
from icekeeper.execution.lock import run_lock
from icekeeper.execution.log_files import UNRECORDED, flush
from icekeeper.execution.recording import Recording, close_run, settle_unfinished
from icekeeper.execution.wiring import Services
from icekeeper.night.order import Order
from icekeeper.night.run import Prepare, run_night
from icekeeper.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Executed:
    """A run that ended. `not_recorded`: why it isn't in the spool; `not_shipped`: why it isn't in PostgreSQL yet."""

    report: RunReport
    not_recorded: IcekeeperError | None = None
    not_shipped: IcekeeperError | None = None


def make_order(
    settings: Settings,
    slot: datetime,
    trigger: Trigger,
    *,
    stages: tuple[Stage, ...] = NIGHT,
    tables: tuple[str, ...] = (),
    window: Window | None = None,
    snapshots: Mapping[str, int] | None = None,
    findings: tuple[str, ...] = (),
    earlier: EarlierWork | None = None,
    actor: str | None = None,
) -> Order:
    """The order for a slot with the settings frozen into it. ConfigError where a table is unknown or disabled."""
    return Order(
        run_id=uuid4(),
        slot=slot,
        trigger=trigger,
        tables=_chosen(settings, tables),
        stages=stages,
        window=window,
        snapshots=snapshots or {},
        findings=findings,
        settings_hash=settings.digest(),
        policy=settings.run_policy(),
        host=socket.gethostname(),
        actor=actor,
        earlier=earlier or EarlierWork(),
    )


def _chosen(settings: Settings, names: tuple[str, ...]) -> tuple[TablePolicy, ...]:
    policies = settings.policies()
    if not names:
        return policies
    known = [policy.name for policy in policies]
    unknown = [name for name in names if name not in known]
    if unknown:
        enabled = ", ".join(known)
        raise ConfigError([f"--table {name}: no enabled table has that name; there are {enabled}" for name in unknown])
    return tuple(policy for policy in policies if policy.name in names)


async def execute(
    services: Services,
    order: Order,
    emit: Subscriber,
    spool: Spool | None,
    *,
    tables_lock: asyncio.Lock | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
    prepare: Prepare | None = None,
) -> Executed:
    """Runs the order under the host's run lock. RunLockHeld where another run is under way.

    `spool` None is a dry run: nothing is recorded. What was recorded is not yet in PostgreSQL: shipping it is the
    caller's business. The other options: see `run_night`.
    """
    with run_lock(services.settings.state_dir):
        if spool is None:
            with bound_contextvars(**UNRECORDED):
                order = replace(order, recorded=False)
                return Executed(await run_night(order, services.ports, emit, tables_lock, may_go_on, prepare))
        await settle_unfinished(spool, services.ports.clock)
        await _settle_installation(services)
        order = replace(order, ledger_behind=(await spool.outbox.waiting()).records > 0)
        async with Recording(spool) as recording:

            def observe(event: Event) -> None:
                recording.observe(event)
                if not isinstance(event, RunEnded):
                    emit(event)

            report = await run_night(order, services.ports, observe, tables_lock, may_go_on, prepare)
        return Executed(report, await uninterrupted(_end(spool, report, emit), drop_cancellation=True))


async def _settle_installation(services: Services) -> None:
    """What holds a task is read by the installation. Where that can't be known, the readings fail and hold it, too."""
    try:
        await services.installation.settled()
    except IcekeeperError as exc:
        log.warning("installation_not_known", error=str(exc), advice=exc.reason.advice)
        return
    try:
        await services.holds.keep()
    except IcekeeperError as exc:
        log.warning("holds_not_kept", error=str(exc), advice=exc.reason.advice)


async def _end(spool: Spool, report: RunReport, emit: Subscriber) -> IcekeeperError | None:
    # First its log lines: whatever the end of the run triggers reads all of them.
    await asyncio.to_thread(flush)
    emit(RunEnded(report))
    return await close_run(spool, report)
