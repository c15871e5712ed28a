"""When a slot is due. APScheduler's job only puts it on the queue; running it: worker.py."""

from __future__ import annotations

from datetime import datetime

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from icekeeper.core.enums import Trigger
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling.leadership import Leadership
from icekeeper.scheduling.slots import Slots
from icekeeper.settings.model import Schedule

log = structlog.get_logger(__name__)
_JOB = "night"
_WATCH_EVERY_S = 5.0


class Scheduler:
    """Puts a slot on the queue at every firing of the schedule. `next_slot` None: the schedule has no further one."""

    def __init__(self, schedule: Schedule, slots: Slots, leadership: Leadership, clock: Clock, sleep: Sleep) -> None:
        self._schedule = schedule
        self._slots = slots
        self._leadership = leadership
        self._clock = clock
        self._sleep = sleep
        self._scheduler = AsyncIOScheduler(timezone="UTC")
        self.next_slot: datetime | None = None

    def start(self) -> None:
        self._scheduler.start()
        self._take_effect()

    def reschedule(self, schedule: Schedule) -> None:
        """Follows another schedule. Nothing happens where it is the same: setting it anew could skip a firing."""
        if schedule == self._schedule:
            return
        self._schedule = schedule
        self._take_effect()

    async def watch_clock(self) -> None:
        """Has APScheduler compare its timer with the wall clock again and again, until cancelled.

        Its timer is the loop's, which does not notice when the clock is set, and stands still while the host sleeps.
        """
        while True:
            await self._sleep(_WATCH_EVERY_S)
            if self._scheduler.running:
                self._scheduler.wakeup()

    def stop(self) -> None:
        """Fires no more. Harmless where it was never started."""
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)  # its jobs only put slots on the queue

    def _take_effect(self) -> None:
        self._arm()
        schedule = self._schedule
        log.info("scheduled", cron=schedule.cron, timezone=schedule.timezone, next_slot=str(self.next_slot))

    def _arm(self, after: datetime | None = None) -> None:
        """Sets a job for the next slot only: which firings of a cron are slots is known to the calendar alone."""
        now = self._clock()
        # Not before the slot just fired: a clock that was set back must not fire it again.
        self.next_slot = self._schedule.calendar().next_slot(now if after is None else max(now, after))
        if self._scheduler.get_job(_JOB) is not None:
            self._scheduler.remove_job(_JOB)
        if self.next_slot is None:
            return
        self._scheduler.add_job(
            self._fire,
            "date",
            run_date=self.next_slot,
            args=[self.next_slot],
            id=_JOB,
            # By default a job that comes a second late is dropped, and with it the night.
            misfire_grace_time=None,
        )

    async def _fire(self, slot: datetime) -> None:
        # A coroutine: APScheduler would call a plain function in a thread, and the queue belongs to the loop.
        self._arm(after=slot)
        # Also while an answer of the lease is overdue: the worker starts the slot as soon as the answer is there, and
        # the next leader where it never comes. A standby finds the slot in the ledger when it begins to lead.
        if self._leadership.in_term:
            await self._slots.put(slot, Trigger.SCHEDULE)
