"""Executing an order: the run in the ledger, its lock, its log file. What happens within it is `night.py`'s."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import structlog

from daemon.core.errors import ConfigError, IcekeeperError
from daemon.core.events import Event, RunStarted, Subscriber
from daemon.core.model import RunOutcome, RunReport, Stage, Trigger
from daemon.core.policy import TablePolicy
from daemon.night import Order, run_night
from daemon.service.lock import run_lock
from daemon.service.logs import run_log_path
from daemon.service.parts import Services
from daemon.settings import Settings

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Executed:
    """A run that ended, and whether PostgreSQL has it; `ledger_error` says why not."""

    report: RunReport
    ledger_error: IcekeeperError | None = None


def make_order(
    settings: Settings,
    slot: datetime,
    trigger: Trigger,
    *,
    stages: tuple[Stage, ...] = tuple(Stage),
    tables: tuple[str, ...] = (),
    window_hours: int | None = None,
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
    *,
    tables_lock: asyncio.Lock | None = None,
    record: bool = True,
) -> Executed:
    """Runs the order under the host's run lock. RunLockHeld where another run is under way.

    `record` False is a dry run: the ledger is not told.
    """
    state_dir = services.settings.state_dir
    opened: list[asyncio.Task[None]] = []

    def observe(event: Event) -> None:
        # The run appears in the ledger while the first table is already worked on: PostgreSQL holds up no night.
        if isinstance(event, RunStarted) and record:
            opened.append(asyncio.create_task(_tell_opening(services, event)))
        emit(event)

    with run_lock(state_dir):
        report = await run_night(order, services.parts, observe, tables_lock)
        if not record:
            return Executed(report)
        closing = asyncio.ensure_future(_close(services, report, opened))
        try:
            return await asyncio.shield(closing)
        except asyncio.CancelledError:
            return await closing  # a stop that comes now must not lose the record of a night that is over


async def _close(services: Services, report: RunReport, opened: list[asyncio.Task[None]]) -> Executed:
    await asyncio.gather(*opened)
    try:
        await services.ledger.close_run(report, _logs(services.settings.state_dir, report.run_id))
    except IcekeeperError as exc:
        log.error("run_not_recorded", run_id=str(report.run_id), outcome=report.outcome, error=str(exc))
        return Executed(report, exc)
    return Executed(report)


async def _tell_opening(services: Services, event: RunStarted) -> None:
    try:
        await services.ledger.open_run(event.opening)
    except IcekeeperError as exc:  # closing the run stores all that matters of it
        log.warning("run_opening_not_recorded", error=str(exc))


def _logs(state_dir: Path, run_id: UUID) -> tuple[Mapping[str, Any], ...]:
    path = run_log_path(state_dir, run_id)
    if not path.exists():
        return ()
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:  # half a line, of a full disk: the others are no worse for it
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
