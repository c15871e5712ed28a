"""With replicas: the ledger knows which task a run is at, so that a standby knows it should this host die."""

from __future__ import annotations

import asyncio
from typing import Protocol
from uuid import UUID

import structlog

from icekeeper.core.enums import Stage
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.events import Event, RunStarted, TaskStarted
from icekeeper.core.runs import RunOpening

log = structlog.get_logger(__name__)


class InFlightLedger(Protocol):
    """What is needed of the ledger: adapters.ledger.store.PostgresLedger."""

    async def open_run(self, opening: RunOpening) -> None:
        """Stores a run that is under way; storing it again changes nothing."""

    async def mark_in_flight(self, run_id: UUID, stage: Stage | None, table: str | None) -> None:
        """Stores the task that an open run is at."""


class InFlightMarker:
    """Updates one run's mark, one update at a time; of several that wait, only the latest is sent.

    Sent side by side, an older one could be stored last, and a death would be counted against the wrong task.
    """

    def __init__(self, ledger: InFlightLedger) -> None:
        self._ledger = ledger
        self._opening: RunOpening | None = None
        self._opened = False
        self._latest: tuple[Stage | None, str | None] | None = None
        self._sending: asyncio.Task[None] | None = None

    def observe(self, event: Event) -> None:
        """Takes an event of the run; never waits."""
        if isinstance(event, RunStarted):
            self._opening = event.opening
        elif isinstance(event, TaskStarted):
            self._latest = event.at_work
            if self._sending is None or self._sending.done():
                self._sending = asyncio.create_task(self._send())

    def close(self) -> None:
        """Sends nothing any more: the run has ended, and its report is shipped."""
        self._latest = None
        if self._sending is not None:
            self._sending.cancel()

    async def _send(self) -> None:
        while (task := self._latest) is not None and self._opening is not None:
            self._latest = None
            try:
                if not self._opened:  # the shipper may not have stored it yet, and an unknown run takes no mark
                    await self._ledger.open_run(self._opening)
                    self._opened = True
                await self._ledger.mark_in_flight(self._opening.run_id, *task)
            except IcekeeperError as exc:  # the lease fails likewise, and ends the run if it must
                log.warning("in_flight_not_recorded", error=str(exc))
