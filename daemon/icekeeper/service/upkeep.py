"""Upkeep of state_dir: prunes the spool, and keeps what the daemon shows of the directory up to date."""

from __future__ import annotations

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


class Upkeep:
    def __init__(self, spool: Spool, health: ServiceHealth, files: StateFiles, clock: Clock, sleep: Sleep) -> None:
        self._spool = spool
        self._health = health
        self._files = files
        self._clock = clock
        self._sleep = sleep

    async def run(self) -> None:
        """Checks every few seconds and prunes daily, until cancelled. Raises where the spool is damaged."""
        pruned_at: datetime | None = None
        while True:
            await self._health.check_spool(self._spool.outbox)
            await self._files.refresh()
            if pruned_at is None or self._clock() - pruned_at > _PRUNE_EVERY:
                pruned_at = self._clock()
                await self._prune()
            await self._sleep(_CHECK_EVERY_S)

    async def _prune(self) -> None:
        try:
            await self._spool.prune(self._clock() - _RETENTION)
        except IcekeeperError as exc:  # a full disk: the next day may be better
            log.error("spool_not_pruned", error=str(exc), advice=exc.reason.advice)
