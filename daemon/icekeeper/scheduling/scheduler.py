"""When a night is due. APScheduler's job only puts a slot on the queue: the night itself runs elsewhere."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from icekeeper.night.ports import Clock
from icekeeper.settings.model import Schedule

log = structlog.get_logger(__name__)
_JOB = "night"


class Scheduler:
    """Calls `due(slot)` at every slot; what that does must be over soon: putting a slot on the queue, no more."""

    def __init__(self, due: Callable[[datetime], Awaitable[None]], clock: Clock) -> None:
        self._due = due
        self._clock = clock
        self._scheduler = AsyncIOScheduler(timezone="UTC")
        self._schedule: Schedule | None = None
        self.next_slot: datetime | None = None

    def start(self, schedule: Schedule) -> None:
        self._scheduler.start()
        self.reschedule(schedule)

    def reschedule(self, schedule: Schedule) -> None:
        """Takes a new schedule over; the same one is left alone, for setting it anew could skip a firing."""
        if schedule == self._schedule:
            return
        self._schedule = schedule
        self._arm()
        log.info("scheduled", cron=schedule.cron, timezone=schedule.timezone, next_slot=str(self.next_slot))

    def look(self) -> None:
        """Looks at the clock: APScheduler sleeps by another one, which no step moves and a suspended host stops."""
        if self._scheduler.running:
            self._scheduler.wakeup()

    def stop(self) -> None:
        """Fires no more; nothing happens where it never began."""
        if self._scheduler.running:
            # Not waiting: it would cancel nothing of ours, for the night is not its job.
            self._scheduler.shutdown(wait=False)

    def _arm(self, after: datetime | None = None) -> None:
        """Sets the one next slot: the calendar knows which firings of a cron are slots, APScheduler alone doesn't."""
        assert self._schedule is not None  # start() comes first
        now = self._clock()
        # Not before the slot just fired: a clock that was set back must not bring it again.
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
        # A coroutine, for a plain function would be called in a thread, and the queue belongs to the loop.
        self._arm(after=slot)
        await self._due(slot)
