"""The slots that nobody has closed yet: in memory, and on disk so that a restart finds them. Running one: nights.py."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime

import structlog

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.enums import RunOutcome, Trigger
from icekeeper.core.errors import IcekeeperError
from icekeeper.scheduling.pause import Pause

log = structlog.get_logger(__name__)


class Slots:
    """The open slots, each with the trigger that its first run has."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._open: dict[datetime, Trigger] = {}
        self._changed = asyncio.Event()

    @property
    def open(self) -> Mapping[datetime, Trigger]:
        return dict(self._open)

    async def load(self) -> None:
        """Takes over what an earlier process has left open: it is caught up."""
        for left in await self._spool.open_slots():
            self._open.setdefault(left.slot, Trigger.CATCH_UP)

    async def put(self, slot: datetime, trigger: Trigger) -> None:
        """A slot is due. Known on disk as closed, it stays closed: a clock that was set back brings no night twice.

        A disk that can't take it costs the note, not the night.
        """
        try:
            if not await self._spool.put_slot(slot, trigger):
                log.info("slot_is_done", slot=slot.isoformat())
                return
            await self._spool.account(slot)
        except IcekeeperError as exc:
            log.error("slot_not_noted", slot=slot.isoformat(), error=str(exc), advice=exc.reason.advice)
        self._open.setdefault(slot, trigger)
        self.wake()

    def keep(self, pause: Pause) -> None:
        """Marks the open slots as waiting for the end of a pause: they are caught up."""
        say = log.warning if pause.problem is None else log.error
        for slot, trigger in self._open.items():
            if trigger is Trigger.SCHEDULE:
                say("slot_paused", slot=slot.isoformat(), told=str(pause))
                self._open[slot] = Trigger.CATCH_UP

    def closed(self, slot: datetime) -> None:
        """A run has answered for it; the journal knows by that run's record."""
        self._open.pop(slot, None)

    async def close(self, slot: datetime, outcome: RunOutcome) -> None:
        """Somebody else has answered for it."""
        self._open.pop(slot, None)
        await self._spool.close_slot(slot, outcome)

    def wake(self) -> None:
        """Lets whoever waits look again."""
        self._changed.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Returns when something changed, or after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()
