"""Keeps the session warm: brings it up, looks whether it lives, warms it up, renews it before the night."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from icekeeper.adapters.iceberg.warm_up import warm_up
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.errors import IcekeeperError
from icekeeper.execution.wiring import spark_options
from icekeeper.night.ports import Clock
from icekeeper.settings import Settings

log = structlog.get_logger(__name__)

# How often an idle session is asked for a sign of life, and how long it may take to answer.
LOOK_S = 60.0
ANSWER = timedelta(seconds=20)
# So long before a slot a session that is due for it is renewed: a start takes seconds, with a download of jars minutes.
LEAD = timedelta(minutes=5)
# A session that nobody has used for so long after its start is warmed up: what waited for the start goes first.
SETTLED = timedelta(seconds=30)


def is_due(age: timedelta, now: datetime, slot: datetime | None, recycle: timedelta) -> bool:
    """Whether a session of that age is to be renewed now: shortly before a slot at which it would be too old.

    Where the schedule has no next slot, as soon as it is too old.
    """
    if slot is None:
        return age >= recycle
    return slot - LEAD <= now < slot and age + (slot - now) >= recycle


class SparkSessionKeeper:
    """Looks after the session between runs; while a run is under way, its calls have deadlines of their own."""

    def __init__(
        self,
        engine: SparkEngine,
        settings: Callable[[], Settings],
        next_slot: Callable[[], datetime | None],
        busy: Callable[[], bool],
        clock: Clock,
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._next_slot = next_slot
        self._busy = busy
        self._clock = clock
        self._woken = asyncio.Event()
        # Sessions that were renewed in good health.
        self.recycled = 0
        self._failed = False
        # The JVM that was warmed up last.
        self._warm: int | None = None

    def wake(self) -> None:
        """Looks at once: the settings have changed."""
        self._woken.set()

    async def run(self) -> None:
        """Looks after the session for ever."""
        while True:
            if not self._busy():
                await self._look()
            try:
                async with asyncio.timeout(self._until_a_look()):
                    await self._woken.wait()
            except TimeoutError:
                pass
            self._woken.clear()

    async def _look(self) -> None:
        try:
            await self._engine.use(spark_options(self._settings()))
            age = self._engine.age
            if age is not None and is_due(age, self._clock(), self._next_slot(), self._settings().spark.recycle):
                log.info("engine_recycled", why="its age", age_s=round(age.total_seconds()))
                await self._engine.recycle()
                self.recycled += 1
            await self._engine.check(ANSWER)
            self._failed = False
            await self._warm_up()
        except IcekeeperError as exc:  # the next look, or the next run, tries again
            if not self._failed:
                log.error("engine_not_up", error=str(exc), advice=exc.reason.advice)
            self._failed = True

    async def _warm_up(self) -> None:
        """Once for each session, and only on this host's disk: executors elsewhere don't see that."""
        age, pid = self._engine.age, self._engine.jvm_pid
        if age is None or age < SETTLED or pid == self._warm or not self._engine.options.is_local:
            return
        self._warm = pid
        try:
            finished = await warm_up(self._engine, lambda: not self._busy())
        except IcekeeperError as exc:  # a night goes without
            log.warning("engine_not_warmed_up", error=str(exc))
        else:
            log.info("engine_warmed_up", finished=finished)

    def _until_a_look(self) -> float:
        slot = self._next_slot()
        if slot is None:
            return LOOK_S
        lead = (slot - LEAD - self._clock()).total_seconds()
        return min(LOOK_S, lead) if lead > 0 else LOOK_S
