"""The daemon's life: startup, a queue of slots worked off one after another, shutdown. Signals only set flags."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

import structlog

from daemon.adapters.host import memory_room
from daemon.adapters.spark import SparkEngine
from daemon.core.errors import ConfigError, IcekeeperError, PermanentError
from daemon.core.events import RunEnded
from daemon.core.reasons import Reason
from daemon.ports import Clock, Sleep
from daemon.service import logs, pause
from daemon.service.http import HttpServer
from daemon.service.lock import RunLockHeld
from daemon.service.metrics import Metrics
from daemon.service.open_findings import OpenFindings
from daemon.service.parts import Services, build, spark_options, wall_clock
from daemon.service.runs import Executed, execute, make_order
from daemon.service.scheduler import Scheduler
from daemon.service.slots import Due, Slots, missed
from daemon.settings import Settings, load
from daemon.settings.warnings import warnings

log = structlog.get_logger(__name__)

# How long a slot waits where an operator's run holds the lock.
_LOCK_RETRY_S = 60.0


class Supervisor:
    """One daemon. `run` returns when it was asked to stop and has."""

    def __init__(self, config: Path, *, clock: Clock = wall_clock, sleep: Sleep = asyncio.sleep) -> None:
        self._config = config
        self._clock = clock
        self._sleep = sleep
        self._stopping = asyncio.Event()
        self._reloading = asyncio.Event()
        self._slots = Slots()
        # Whoever changes a table holds this: no two tasks of this process ever work on tables at once.
        self._tables_lock = asyncio.Lock()
        self._scheduler = Scheduler(self._slots.put, clock)
        self._open_findings = OpenFindings(self._tables, self._missing_days, self._ledger_answered)
        self.metrics = Metrics(
            lambda: self._scheduler.next_slot, self._engine_state, self._open_findings.days, self._pause
        )
        self.http = HttpServer(self.metrics)
        self._engine: SparkEngine | None = None
        self._services: Services | None = None
        self._warming: asyncio.Task[None] | None = None
        self._night: asyncio.Task[Executed] | None = None
        # The services that a run has taken, also while it still waits for the session: a reload must not close them.
        self._busy_with: Services | None = None

    async def run(self) -> None:
        """Starts, serves until SIGTERM or SIGINT, stops. ConfigError where the configuration is no good at boot."""
        await self._startup()
        tasks = [asyncio.create_task(self._work()), asyncio.create_task(self._reload_when_asked())]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            # A daemon without its worker would be alive and do nothing: if a task ends unasked, all of it ends.
            await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            await self._shutdown(tasks)
        for task in tasks:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def stop(self) -> None:
        """Asks for the end; what is in hand is stopped and recorded."""
        self._stopping.set()

    def reload(self) -> None:
        """Asks for the configuration to be read again."""
        self._reloading.set()

    # --- startup and shutdown

    async def _startup(self) -> None:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        settings = load(self._config)
        self._loaded(settings)
        self._engine = SparkEngine(spark_options(settings))
        self._services = build(settings, self._engine, clock=self._clock, sleep=self._sleep)
        try:
            await self.http.start(settings.http.address)
        except OSError as exc:
            text = f"http.listen: {settings.http.listen} can't be had: {exc.strerror or exc}"
            raise PermanentError(text, reason=Reason.UNEXPECTED) from exc
        self._scheduler.start(settings.schedule)
        self._warm_up()
        self._open_findings.refresh()
        if (now_paused := self._pause()) is not None:
            log.warning("nights_paused", told=str(now_paused))
        log.info("service_started", port=self.http.port, next_slot=str(self._scheduler.next_slot))

    async def _shutdown(self, tasks: list[asyncio.Task[None]]) -> None:
        log.info("service_stopping")
        self._stopping.set()  # so that the worker takes no other slot after the one that is cancelled here
        self._scheduler.stop()
        if self._night is not None:
            self._night.cancel()  # it ends as `interrupted`, and is recorded so
            await asyncio.wait([self._night])
        tasks += [self._warming] if self._warming else []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._open_findings.close()
        if self._services is not None:
            await self._services.close()
        if self._engine is not None:
            await self._engine.stop()
        await self.http.stop()
        log.info("service_stopped")

    def _loaded(self, settings: Settings) -> None:
        """Says that a configuration is in force, and logs by it from now on."""
        logs.configure(settings.logs.level, settings.logs.format, settings.state_dir)
        self.metrics.reload_successful.set(1)
        self.metrics.reload_time.set(self._clock().timestamp())
        tables = len(settings.policies())
        log.info(
            "config_loaded",
            path=str(self._config),
            settings_hash=settings.digest(),
            tables=tables,
            disabled=[table.name for table in settings.tables if not table.enabled],
            mode=settings.mode,
        )
        for doubt in warnings(settings, memory=memory_room()):
            log.warning("config_doubtful", warning=doubt)

    # --- the engine

    def _warm_up(self) -> None:
        """Brings the session up beside everything else; READY and /livez don't wait for it."""
        if self._warming is not None and not self._warming.done():
            self._warming.cancel()
        self._warming = asyncio.create_task(self._start_engine())

    async def _start_engine(self) -> None:
        engine, services = self._in_force()
        try:
            await services.postgres.ping()
            self._ledger_answered(True)
        except IcekeeperError as exc:
            log.error("ledger_not_reached", error=str(exc), advice=exc.reason.advice)
        try:
            await engine.use(spark_options(services.settings))
            await engine.start()
        except IcekeeperError as exc:  # the first run tries again, and says so in its tasks
            log.error("engine_not_started", error=str(exc), advice=exc.reason.advice)

    def _engine_state(self) -> tuple[bool, int]:
        return (self._engine.up, self._engine.restarts) if self._engine else (False, 0)

    def _in_force(self) -> tuple[SparkEngine, Services]:
        assert self._engine is not None  # both are set by the startup, which comes first
        assert self._services is not None
        return self._engine, self._services

    # --- what operators did

    def _pause(self) -> pause.Pause | None:
        _, services = self._in_force()
        return pause.in_force(services.settings.state_dir, self._clock())

    def _tables(self) -> list[str]:
        _, services = self._in_force()
        return [policy.name for policy in services.settings.policies()]

    async def _missing_days(self, tables: Iterable[str]) -> Mapping[str, int]:
        _, services = self._in_force()
        return await services.findings.missing_days(tables)

    def _ledger_answered(self, answered: bool) -> None:
        self.metrics.ledger_up.set(answered)

    # --- the queue of slots

    async def _work(self) -> None:
        while not self._stopping.is_set():
            due = await self._slots.get()
            try:
                await self._work_off(due)
            except RunLockHeld as exc:
                log.warning("slot_waits", slot=due.slot.isoformat(), error=str(exc), retry_s=_LOCK_RETRY_S)
                self._slots.put_back(due)
                await self._sleep(_LOCK_RETRY_S)
            except Exception:  # the daemon outlives a bug in one night
                log.exception("slot_crashed", slot=due.slot.isoformat())

    async def _work_off(self, due: Due) -> None:
        """Runs the slot; or keeps it where the nights are paused, and records it as missed where that took too long."""
        _, services = self._in_force()
        now = self._clock()
        if due.paused and pause.too_old(due.slot, now, services.settings.schedule.catch_up):
            await self._miss(due.slot, services)
        elif (holding := self._pause()) is not None:
            await self._sleep(self._slots.keep(due, holding, now))
        else:
            await self._run_slot(due)

    async def _miss(self, slot: datetime, services: Services) -> None:
        report = missed(slot, self._clock(), services.settings.digest())
        catch_up = services.settings.schedule.catch_up
        log.error("slot_missed", slot=slot.isoformat(), catch_up_s=catch_up.total_seconds())
        self.metrics.observe(RunEnded(report))
        try:
            await services.ledger.close_run(report)
            self._ledger_answered(True)
        except IcekeeperError as exc:
            self._ledger_answered(False)
            log.error("run_not_recorded", run_id=str(report.run_id), outcome=report.outcome, error=str(exc))

    async def _run_slot(self, due: Due) -> None:
        try:
            services = await self._begin()
            order = make_order(services.settings, due.slot, due.trigger)
            night = execute(services, order, self.metrics.observe, tables_lock=self._tables_lock)
            self._night = asyncio.create_task(night)
            done = await self._night
            self._ledger_answered(done.ledger_error is None)
            self._open_findings.refresh()
        finally:
            used, self._night, self._busy_with = self._busy_with, None, None
            if used is not None and used is not self._services:
                await used.close()  # a reload replaced them meanwhile

    async def _begin(self) -> Services:
        """The services for the next run, with the session as their settings want it."""
        while True:
            engine, services = self._in_force()
            self._busy_with = services
            await engine.use(spark_options(services.settings))
            if services is self._services:
                return services
            await services.close()  # a reload came while the session before was ending

    # --- reload

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            try:
                await self._swap()
            except ConfigError as exc:
                self.metrics.reload_successful.set(0)
                log.error("reload_failed", problems=exc.problems, kept=True)
            except Exception as exc:  # whatever a file can hold, the next one is read again
                self.metrics.reload_successful.set(0)
                log.error("reload_failed", error=f"{type(exc).__name__}: {exc}", kept=True)

    async def _swap(self) -> None:
        """Puts a new configuration in force. A run in progress keeps the services that it began with."""
        settings = load(self._config)
        engine, old = self._in_force()
        new = build(settings, engine, clock=self._clock, sleep=self._sleep)
        if settings.http.address != old.settings.http.address:
            await self.http.move(settings.http.address)
        self._services = new
        self._scheduler.reschedule(settings.schedule)
        self._loaded(settings)
        if self._busy_with is not old:
            await old.close()
        if self._busy_with is None:
            self._warm_up()
        log.info("reloaded", changed=changed_blocks(old.settings, settings))


def changed_blocks(old: Settings, new: Settings) -> list[str]:
    """The top-level keys that differ."""
    return [name for name in type(new).model_fields if getattr(old, name) != getattr(new, name)]
