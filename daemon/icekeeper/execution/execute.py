"""Executing an order: the run in the ledger, its lock, its log file. What happens within it is `night.py`'s."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog
from structlog.contextvars import bound_contextvars

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.enums import RunOutcome, Stage, Trigger
from icekeeper.core.errors import ConfigError, IcekeeperError
from icekeeper.core.events import Event, Subscriber
from icekeeper.core.policy import TablePolicy
from icekeeper.core.resuming import Before
from icekeeper.core.runs import RunReport
from icekeeper.execution import logging as logs
from icekeeper.execution.lock import run_lock
from icekeeper.execution.logging import run_log_path
from icekeeper.execution.recording import Recording, settle_unfinished
from icekeeper.execution.wiring import Services
from icekeeper.night.run import Order, run_night
from icekeeper.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Executed:
    """A run that ended. `not_recorded` says why it is not on this disk, `not_shipped` why not yet in PostgreSQL."""

    report: RunReport
    not_recorded: IcekeeperError | None = None
    not_shipped: IcekeeperError | None = None


def make_order(
    settings: Settings,
    slot: datetime,
    trigger: Trigger,
    *,
    stages: tuple[Stage, ...] = tuple(Stage),
    tables: tuple[str, ...] = (),
    window_hours: int | None = None,
    before: Before | None = None,
) -> Order:
    """The order for a slot with the settings frozen into it. ConfigError where a table is unknown or disabled."""
    return Order(
        run_id=uuid4(),
        slot=slot,
        trigger=trigger,
        tables=_chosen(settings, tables),
        stages=stages,
        window_hours=window_hours,
        settings_hash=settings.digest(),
        policy=settings.run_policy(),
        host=socket.gethostname(),
        before=before or Before(),
    )


def _chosen(settings: Settings, names: tuple[str, ...]) -> tuple[TablePolicy, ...]:
    policies = settings.policies()
    if not names:
        return policies
    known = [policy.name for policy in policies]
    unknown = [name for name in names if name not in known]
    if unknown:
        there = ", ".join(known)
        raise ConfigError([f"--table {name}: no enabled table has that name; there are {there}" for name in unknown])
    return tuple(policy for policy in policies if policy.name in names)


async def execute(
    services: Services,
    order: Order,
    emit: Subscriber,
    spool: Spool | None,
    *,
    tables_lock: asyncio.Lock | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
) -> Executed:
    """Runs the order under the host's run lock. RunLockHeld where another run is under way.

    `spool` None is a dry run: nothing is recorded. What was recorded is not yet in PostgreSQL: shipping it is the
    caller's business.
    """
    with run_lock(services.settings.state_dir):
        if spool is None:
            with bound_contextvars(**logs.UNRECORDED):
                return Executed(await run_night(order, services.ports, emit, tables_lock, may_go_on))
        clock = services.ports.clock
        await settle_unfinished(spool, clock)
        async with Recording(spool) as recording:

            def observe(event: Event) -> None:
                recording.observe(event)
                emit(event)

            report = await run_night(order, services.ports, observe, tables_lock, may_go_on)
        closing = asyncio.ensure_future(close(spool, report))
        try:
            error = await asyncio.shield(closing)
        except asyncio.CancelledError:
            error = await closing  # a stop that comes now must not lose the record of a night that is over
        return Executed(report, error)


async def close(spool: Spool, report: RunReport) -> IcekeeperError | None:
    """Records the end of a run; the error that stood in the way, if one did."""
    try:
        await spool.close_run(report)
    except IcekeeperError as exc:
        log.error("run_not_recorded", run_id=str(report.run_id), outcome=report.outcome, error=str(exc))
        return exc
    return None


def logs_of(state_dir: Path, run_id: UUID) -> tuple[Mapping[str, Any], ...]:
    """The log lines of a run, as its file has them."""
    path = run_log_path(state_dir, run_id)
    if not path.exists():
        return ()
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # half a line, of a full disk or a kill: the others are no worse for it
            continue
    return tuple(lines)


EXIT_CODES = {
    RunOutcome.SUCCESS: 0,
    RunOutcome.FAILED: 1,
    RunOutcome.PARTIAL: 3,
    RunOutcome.CANCELLED: 130,
    RunOutcome.INTERRUPTED: 130,
    RunOutcome.MISSED: 1,
}
