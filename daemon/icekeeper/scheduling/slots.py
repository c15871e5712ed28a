"""The open slots: in memory, and in the spool so that a restart finds them. Running one: worker.py."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import datetime

import structlog

from icekeeper.adapters.spool.spool import Spool
from icekeeper.adapters.waiting import wait_for_event
from icekeeper.core.enums import RunOutcome, Trigger
from icekeeper.core.errors import IcekeeperError
from icekeeper.night.ports import Sleep
from icekeeper.scheduling.pause import Pause

log = structlog.get_logger(__name__)


class Slots:
    """The open slots, each with the trigger that its first run has."""

    def __init__(self, spool: Spool, sleep: Sleep = asyncio.sleep) -> None:
        self._spool = spool
        self._sleep = sleep
        self._open: dict[datetime, Trigger] = {}
        self._changed = asyncio.Event()

    @property
    def open(self) -> Mapping[datetime, Trigger]:
        """A copy: what is put or closed later is not in it."""
        return dict(self._open)

    async def load(self) -> None:
        """Takes over what an earlier process has left open: it is caught up."""
        for slot in await self._spool.open_slots():
            self._open.setdefault(slot.slot, Trigger.CATCH_UP)

    async def put(self, slot: datetime, trigger: Trigger) -> None:
        """A slot is due. Closed in the spool, it stays closed: a clock that was set back repeats no night.

        Where the disk can't take it, it is kept in memory.
        """
        try:
            if not await self._spool.put_slot(slot, trigger):
                log.info("slot_already_closed", slot=slot.isoformat())
                return
            await self._spool.account(slot)
        except IcekeeperError as exc:
            log.error("slot_not_noted", slot=slot.isoformat(), error=str(exc), advice=exc.reason.advice)
        if trigger is Trigger.SCHEDULE:  # `load` may have found it in the spool a moment ago
            self._open[slot] = trigger
        self._open.setdefault(slot, trigger)
        self.wake()

    def hold(self, pause: Pause) -> None:
        """The open slots wait for the end of a pause: then they are caught up."""
        say = log.warning if pause.problem is None else log.error
        for slot, trigger in self._open.items():
            if trigger is Trigger.SCHEDULE:
                say("slot_paused", slot=slot.isoformat(), message=str(pause))
                self._open[slot] = Trigger.CATCH_UP

    def closed(self, slot: datetime) -> None:
        """A run of this host has answered for it; its record closes the slot in the spool."""
        self._open.pop(slot, None)

    async def close(self, slot: datetime, outcome: RunOutcome) -> None:
        """A run of another host has answered for it."""
        self._open.pop(slot, None)
        await self._spool.close_slot(slot, outcome)

    def wake(self) -> None:
        """Ends a `wait`."""
        self._changed.set()

    async def wait(self, seconds: float | None = None) -> None:
        """Returns when something changed, at the latest after so many seconds."""
        if seconds is None:
            await self._changed.wait()
        else:
            await wait_for_event(self._changed, seconds, self._sleep)
        self._changed.clear()
