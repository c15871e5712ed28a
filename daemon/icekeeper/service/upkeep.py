"""Upkeep of state_dir: prunes the spool, and keeps what the daemon shows of the directory up to date."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.errors import IcekeeperError
from icekeeper.night.ports import Clock, Sleep
from icekeeper.service.state_files import StateFiles
from icekeeper.status.health import ServiceHealth

log = structlog.get_logger(__name__)

_CHECK_EVERY_S = 5.0
# How long shipped records stay: slots of the last weeks are looked up in the spool first.
_RETENTION = timedelta(days=30)
_PRUNE_EVERY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Upkeep:
    spool: Spool
    health: ServiceHealth
    files: StateFiles
    clock: Clock
    sleep: Sleep

    async def run(self) -> None:
        """Checks every few seconds and prunes daily, until cancelled. Raises where the spool is damaged."""
        pruned_at: datetime | None = None
        while True:
            await self.health.check_spool(self.spool.outbox)
            await self.files.refresh()
            if pruned_at is None or self.clock() - pruned_at > _PRUNE_EVERY:
                pruned_at = self.clock()
                await self._prune()
            await self.sleep(_CHECK_EVERY_S)

    async def _prune(self) -> None:
        try:
            await self.spool.prune(self.clock() - _RETENTION)
        except IcekeeperError as exc:  # a full disk: the next day may be better
            log.error("spool_not_pruned", error=str(exc), advice=exc.reason.advice)
