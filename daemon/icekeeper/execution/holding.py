"""Putting stages of a table on hold, and releasing them. What a hold means: core/tables/holds.py."""

from __future__ import annotations

import socket
from collections.abc import Collection
from datetime import datetime

import structlog

from icekeeper.core.enums import NIGHT, Stage
from icekeeper.core.errors import ConfigError
from icekeeper.core.formats import iso_second
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.execution.wiring import Services

log = structlog.get_logger(__name__)


async def hold(
    services: Services, table: str, stages: Collection[Stage], until: datetime | None, note: str, by: str
) -> tuple[OperatorHold, ...]:
    """Puts these stages (none: all of a night) of a table on hold.

    ConfigError where the table is not configured, a stage is no night's, or the end is past; raises like PostgresHolds.
    """
    _require_configured(services, table)
    chosen = _chosen(stages)
    if until is not None and until <= services.ports.clock():
        raise ConfigError([f"the end of the hold, {iso_second(until)}, lies in the past"])
    held = await services.holds.hold(table, chosen, until, note, by, socket.gethostname())
    end = None if until is None else until.isoformat()
    log.warning("table_held", table=table, stages=list(chosen), until=end, by=by, note=note)
    return held


async def release(services: Services, table: str, stages: Collection[Stage], by: str) -> tuple[OperatorHold, ...]:
    """Ends the holds of these stages (none: all of a night), and returns them; empty: there were none.

    Also of a table that has left the configuration. ConfigError where it has none, and is not configured, either.
    """
    chosen = _chosen(stages)
    released = await services.holds.release(table, chosen, by, socket.gethostname())
    if released:
        stages = list(dict.fromkeys(hold.stage for hold in released))
        log.warning("table_released", table=table, stages=stages, by=by)
    else:
        _require_configured(services, table)
    return released


def _require_configured(services: Services, table: str) -> None:
    known = [one.name for one in services.settings.tables]
    if table not in known:
        raise ConfigError([f"{table} is not configured; there are {', '.join(known)}"])


def _chosen(stages: Collection[Stage]) -> tuple[Stage, ...]:
    if wrong := [stage for stage in stages if stage not in NIGHT]:
        raise ConfigError([f"{wrong[0]} can't be on hold: it is no stage of a night, but ordered"])
    return tuple(stage for stage in NIGHT if not stages or stage in stages)
