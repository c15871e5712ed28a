"""Keeps the Spark session ready: starts it, checks that it lives, warms it up, renews it before the night.

How a session is started and ended: adapters/spark.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from icekeeper.adapters.iceberg.warm_up import STEP_TIMEOUT, is_on_s3, warm_up
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.errors import DeadlineExceeded, IcekeeperError, PermanentError
from icekeeper.execution.wiring import spark_options
from icekeeper.night.ports import Clock
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.scheduler import Scheduler
from icekeeper.scheduling.worker import Worker

log = structlog.get_logger(__name__)

# How often an idle session is checked, and how long it may take to answer.
CHECK_EVERY_S = 60.0
ANSWER = timedelta(seconds=20)
# How long before a slot a session is renewed: a start takes seconds, with a download of jars minutes,
# and it is warmed up.
LEAD = timedelta(minutes=10)
# How long after its start an idle session is warmed up: work that waited for the start goes first.
SETTLED = timedelta(seconds=30)
WARM_AT_MOST = timedelta(minutes=5)
# When a catalog or store that was down is tried again; after one that hung, or a warm-up that cost the session, later.
RETRY = timedelta(minutes=5)
PAUSE = timedelta(hours=1)
# How many tables are tried.
TABLES_TRIED = 3


def is_due(age: timedelta, now: datetime, slot: datetime | None, recycle: timedelta) -> bool:
    """Whether a session of that age is renewed now: shortly before a slot at which it would be too old.

    Without a next slot: as soon as it is too old.
    """
    if slot is None:
        return age >= recycle
    return slot - LEAD <= now < slot and age + (slot - now) >= recycle


@dataclass(slots=True)
class SparkSessionKeeper:
    """Keeps the session between runs; during a run its calls have deadlines of their own."""

    engine: SparkEngine
    configuration: Configuration
    scheduler: Scheduler
    worker: Worker
    clock: Clock
    # How many healthy sessions were renewed.
    recycled: int = field(default=0, init=False)
    _due: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _failed: bool = field(default=False, init=False)
    # The process of the JVM that was warmed up last.
    _warm_pid: int | None = field(default=None, init=False)
    # The one whose warm-up on S3 has failed.
    _disk_pid: int | None = field(default=None, init=False)
    _not_before: datetime | None = field(default=None, init=False)

    def wake(self) -> None:
        """Has the session checked at once: the settings may want another."""
        self._due.set()

    async def run(self) -> None:
        """Checks the session every minute, until cancelled."""
        while True:
            if not self.worker.busy:
                await self.check()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._wait_s()):
                    await self._due.wait()
            self._due.clear()

    async def check(self) -> None:
        """Brings the session up, renews it where that is due, and warms it up. An error is logged: a later check or
        the next run tries again."""
        settings = self.configuration.settings
        try:
            await self.engine.use(spark_options(settings))
            age = self.engine.age
            if age is not None and is_due(age, self.clock(), self.scheduler.next_slot, settings.spark.recycle):
                log.info("engine_recycled", why="its age", age_s=round(age.total_seconds()))
                await self.engine.recycle()
                self.recycled += 1
            await self.engine.check(ANSWER)
            self._failed = False
            await self._warm_up()
        except IcekeeperError as exc:
            if not self._failed:
                log.error("engine_not_up", error=str(exc), advice=exc.reason.advice)
            self._failed = True

    async def _warm_up(self) -> None:
        """Once per session, and only a local one: executors on other hosts don't see this host's disk."""
        age, pid = self.engine.age, self.engine.jvm_pid
        if age is None or age < SETTLED or pid == self._warm_pid or not self.engine.options.is_local:
            return
        if self._not_before is not None and self.clock() < self._not_before:
            return
        on_s3 = False if pid == self._disk_pid else await self._is_on_s3()
        if on_s3 is None or self.worker.busy or self.engine.jvm_pid != pid:
            return
        self._warm_pid = pid
        until = self._warm_until()
        try:
            finished = await warm_up(self.engine, lambda: not self.worker.busy and self.clock() < until, on_s3=on_s3)
        except (IcekeeperError, OSError, RuntimeError) as exc:  # no socket, no thread, ...: the night does without
            log.warning("engine_not_warmed_up", on_s3=on_s3, error=str(exc))
            if self.engine.jvm_pid != pid:
                self._not_before = self.clock() + PAUSE
            elif on_s3:  # such as a proxy between the JVM and our own server: the next check does it on the disk
                self._disk_pid, self._warm_pid = pid, None
        else:
            log.info("engine_warmed_up", finished=finished, on_s3=on_s3)

    async def _is_on_s3(self) -> bool | None:
        """Reads a table's metadata in the configured catalog and store. None where they don't answer: a later check
        tries again."""
        settings = self.configuration.settings
        for policy in settings.policies()[:TABLES_TRIED]:
            if self.worker.busy:
                return None
            try:
                return await is_on_s3(self.engine, settings.catalog.name, policy.name)
            except PermanentError as exc:  # it may not be there any more, the others may
                log.info("table_not_reached", table=policy.name, error=str(exc))
            except (IcekeeperError, OSError, RuntimeError) as exc:
                log.info("table_not_reached", table=policy.name, error=str(exc))
                # What hangs keeps a thread in the JVM.
                self._not_before = self.clock() + (PAUSE if isinstance(exc, DeadlineExceeded) else RETRY)
                return None
        return False

    def _warm_until(self) -> datetime:
        """When no further step of a warm-up is begun: the last one is over at the slot."""
        until, slot = self.clock() + WARM_AT_MOST, self.scheduler.next_slot
        return until if slot is None else min(until, slot - STEP_TIMEOUT)

    def _wait_s(self) -> float:
        slot = self.scheduler.next_slot
        if slot is None:
            return CHECK_EVERY_S
        lead = (slot - LEAD - self.clock()).total_seconds()
        return min(CHECK_EVERY_S, lead) if lead > 0 else CHECK_EVERY_S
