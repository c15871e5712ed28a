"""The slots that are due, and what becomes of them while the nights are paused. Running one is the supervisor's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from uuid import uuid4

import structlog

from daemon.core.model import RunOutcome, RunReport, Trigger
from daemon.service.pause import Pause

log = structlog.get_logger(__name__)

# How soon a slot that waits for the end of a pause sees that it is over. Without such a slot nobody looks.
PAUSE_LOOK_S = 5.0


@dataclass(frozen=True, slots=True, order=True)
class Due:
    """A slot that came due. `paused`: it has waited for the end of a pause."""

    slot: datetime
    paused: bool = False

    @property
    def trigger(self) -> Trigger:
        return Trigger.CATCH_UP if self.paused else Trigger.SCHEDULE


class Slots:
    """The slots that wait for the worker, the oldest first."""

    def __init__(self) -> None:
        self._queue: asyncio.PriorityQueue[Due] = asyncio.PriorityQueue()

    def put(self, slot: datetime) -> None:
        self._queue.put_nowait(Due(slot))

    def put_back(self, due: Due) -> None:
        self._queue.put_nowait(due)

    async def get(self) -> Due:
        return await self._queue.get()

    def keep(self, due: Due, pause: Pause, now: datetime) -> float:
        """Puts a slot back for the pause, with all that came due behind it; for how many seconds not to look again."""
        waiting = [due]
        while not self._queue.empty():
            waiting.append(self._queue.get_nowait())
        for one in waiting:
            if not one.paused:
                say = log.warning if pause.problem is None else log.error
                say("slot_paused", slot=one.slot.isoformat(), told=str(pause))
            self._queue.put_nowait(replace(one, paused=True))
        left = PAUSE_LOOK_S if pause.until is None else (pause.until - now).total_seconds()
        return min(PAUSE_LOOK_S, max(left, 0.0))


def missed(slot: datetime, now: datetime, settings_hash: str) -> RunReport:
    """The record of a slot that no run will answer for."""
    return RunReport(
        run_id=uuid4(),
        slot=slot,
        trigger=Trigger.CATCH_UP,
        outcome=RunOutcome.MISSED,
        started_at=now,
        finished_at=now,
        settings_hash=settings_hash,
        tasks=(),
        audits=(),
    )
