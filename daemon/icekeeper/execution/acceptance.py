"""Accepting a rewrite that was found wrong: its tag goes, and the table's maintenance is held no longer."""

from __future__ import annotations

from datetime import timedelta

import structlog

from icekeeper.core.errors import ConfigError
from icekeeper.core.tables.state import MISMATCH_TAG
from icekeeper.execution.wiring import Services
from icekeeper.night.stages.offload import OffloadGuard

log = structlog.get_logger(__name__)

_TIMEOUT = timedelta(minutes=2)


async def accept_rewrites(services: Services, table: str, note: str, by: str) -> tuple[str, ...]:
    """Removes the tags of before wrong rewrites from a table, and returns their names; who did so, and why, is logged.

    ConfigError where the table is not maintained; raises like `Lakehouse.untag`.
    """
    settings, ports = services.settings, services.ports
    policy = next((policy for policy in settings.policies() if policy.name == table), None)
    if policy is None:
        raise ConfigError([f"{table} is not configured, or not enabled"])
    guard = OffloadGuard(ports, settings.run_policy().offload)
    gate = guard.before_commit(policy, lambda text: log.info("acceptance_waits", table=table, why=text), ports.clock())
    tags = await ports.lakehouse.untag(table, MISMATCH_TAG, _TIMEOUT, gate)
    log.warning("rewrite_accepted", table=table, tags=list(tags), by=by, note=note)
    return tags
