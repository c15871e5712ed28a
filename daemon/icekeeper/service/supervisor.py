"""The daemon's life: startup, what goes on side by side, shutdown. Signals only set flags.

What each part does lives in its own module; here is in which order they come and go, and what one tells the other.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from icekeeper.adapters.ledger.recent import PostgresRecent
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import Trigger
from icekeeper.core.errors import ConfigError, IcekeeperError, PermanentError
from icekeeper.core.events import Event
from icekeeper.core.history import ConfigLoad
from icekeeper.core.reasons import Reason
from icekeeper.execution import logging as logs
from icekeeper.execution.lock import daemon_lock
from icekeeper.execution.wiring import Services, spark_options, wall_clock
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling import pause
from icekeeper.scheduling.leadership import Leadership
from icekeeper.scheduling.reload import Configuration, tell
from icekeeper.scheduling.scheduler import Scheduler
from icekeeper.service.components import Components, Owner
from icekeeper.service.heartbeat import Heartbeat
from icekeeper.service.status_line import StatusLine
from icekeeper.service.steps import attempt, must
from icekeeper.service.systemd import Systemd
from icekeeper.service.web import Web
from icekeeper.settings import Settings
from icekeeper.status.gauges import DaemonState
from icekeeper.status.health import LOOK_S, ServiceHealth, not_ready
from icekeeper.status.ledger_poller import LedgerPoller
from icekeeper.status.metrics import Metrics

log = structlog.get_logger(__name__)

# What each step may take, in seconds; systemd's TimeoutStopSec has to be longer than those of the stop together.
_START_S = 10.0
# How long the first scrape waits for what PostgreSQL knows of the last night.
_SEED_S = 2.0
STOP_S = {
    "the run in hand": 40.0,
    "the records": 10.0,
    "what goes on beside": 5.0,
    "connections": 5.0,
    "the session": 25.0,
    "http": 5.0,
}
_RELOAD_PAUSE_S = 1.0


class Supervisor:
    """One daemon. `run` returns when it was asked to stop and has."""

    def __init__(
        self,
        config: Path,
        *,
        clock: Clock = wall_clock,
        sleep: Sleep = asyncio.sleep,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._stopping = asyncio.Event()
        self._asked = 0
        # With replicas, where this one does not lead: whether the last answer of PostgreSQL was that another one does.
        self._another_leads = True
        self._reloading = asyncio.Event()
        self._started = asyncio.Event()
        self._engine: SparkEngine | None = None
        self._components: Components | None = None
        self._systemd = Systemd.from_environment(environ)
        self._configuration = Configuration(config, self._engine_for, self._put_in_force, clock, sleep)
        self._scheduler = Scheduler(self._slot_is_due, clock)
        self._heartbeat = Heartbeat(self._systemd.alive)
        self._leadership = Leadership(lambda: self._configuration.settings, self._until_idle)
        self.metrics = Metrics(self._vitals, self._tables)
        self._health = ServiceHealth(self.metrics)
        self._ledger_poller = LedgerPoller(self._ask_the_ledger, lambda well: self._health.answered("ledger", well))
        self._status = StatusLine(self._systemd.status, lambda: self._scheduler.next_slot)
        self.web = Web(
            self._configuration,
            self.metrics,
            vitals=self._look,
            parts=self._parts,
            led=lambda: self._leadership.leading or self._another_leads,
            readiness=self._readiness,
            reload=self._reload_by_http,
            clock=clock,
        )

    # --- its life

    async def run(self) -> None:
        """Starts, serves until SIGTERM or SIGINT, stops. ConfigError where the configuration is no good at boot."""
        side_by_side: list[asyncio.Task[None]] = []
        with ExitStack() as held:
            try:
                components = await self._startup(held)
                side_by_side = [asyncio.create_task(work) for work in self._work(components)]
                stopping = asyncio.create_task(self._stopping.wait())
                # A daemon without its worker would be alive and do nothing: if a task ends unasked, all of it ends.
                await asyncio.wait([stopping, *side_by_side], return_when=asyncio.FIRST_COMPLETED)
                stopping.cancel()
            finally:
                await self._shutdown(side_by_side)
        for task in side_by_side:
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                raise error

    def stop(self) -> None:
        """Asks for the end: what is in hand is stopped and recorded. Asked twice, it ends at once."""
        self._asked += 1
        if self._asked > 1:
            log.error("service_killed", why="it was asked to stop twice")
            if self._engine is not None:
                self._engine.abort()
            os._exit(130)  # the spool has what there was to keep; the next start settles the run
        self._stopping.set()

    async def _startup(self, held: ExitStack) -> Components:
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(signum, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._reloading.set)
        load = await self._configuration.boot()
        settings = self._configuration.settings
        held.enter_context(daemon_lock(settings.state_dir))
        await must("the spool", _START_S, self._open_rooms())
        components = self._in_place()
        await must("the control socket", _START_S, components.control.start(settings.state_dir))
        self._scheduler.start(settings.schedule)
        await self._note(load)
        self._ledger_poller.refresh()
        await self._ledger_poller.answered(_SEED_S)
        try:
            await must("http", _START_S, self.web.start(settings.http.address))
        except OSError as exc:
            raise PermanentError(_not_listening(settings, exc), reason=Reason.UNEXPECTED) from exc
        if (now_paused := self.pause()) is not None:
            log.warning("nights_paused", told=str(now_paused))
        log.info("service_started", port=self.web.port, next_slot=str(self._scheduler.next_slot))
        self._systemd.ready(self._status.text)
        self._started.set()
        return components

    async def _open_rooms(self) -> None:
        assert self._engine is not None  # the configuration has made it
        self._components = await Components.open(
            Owner(
                configuration=self._configuration,
                engine=self._engine,
                metrics=self.metrics,
                health=self._health,
                web=self.web,
                clock=self._clock,
                sleep=self._sleep,
                observe=self._observe,
                no_run=self._no_run,
                leading=lambda: self._leadership.leading,
                next_slot=lambda: self._scheduler.next_slot,
                standby=self._standby,
                answered=self._ledger_answered,
            )
        )

    def _in_place(self) -> Components:
        assert self._components is not None  # the startup has made them
        return self._components

    def _work(self, components: Components) -> Iterable[Coroutine[Any, Any, None]]:
        yield self._leadership.run(components.worker.run, components.worker.stop)
        yield from components.work()
        yield self._reload_when_asked()
        yield self._heartbeat.run()
        yield self._look_at_the_clock()

    async def _shutdown(self, side_by_side: list[asyncio.Task[None]]) -> None:
        log.info("service_stopping")
        self._systemd.stopping("stopping")
        self._stopping.set()
        self._scheduler.stop()
        components, budget = self._components, STOP_S
        self._leadership.end()
        if components is not None:
            await attempt("the run in hand", budget["the run in hand"], components.worker.stop())
            # Before the lease is given back: who takes it reads from the ledger how our run ended.
            await attempt("the records", budget["the records"], components.shipper.ship())
        for task in side_by_side:
            task.cancel()
        await attempt("what goes on beside", budget["what goes on beside"], _ended(side_by_side))
        await attempt("connections", budget["connections"], self._close(components))
        if self._engine is not None and not await attempt("the session", budget["the session"], self._engine.stop()):
            self._engine.abort()
        await attempt("http", budget["http"], self.web.stop())
        log.info("service_stopped")

    async def _close(self, components: Components | None) -> None:
        if components is not None:
            await components.close()
        await self._ledger_poller.close()
        await self._configuration.close()

    # --- the configuration

    async def _reload_when_asked(self) -> None:
        while True:
            await self._reloading.wait()
            self._reloading.clear()
            await self._reload("sighup")
            # Of a storm of signals one a second is answered, and the last: reading takes the night's time.
            await self._sleep(_RELOAD_PAUSE_S)

    async def _reload_by_http(self) -> ConfigLoad:
        # On its own: a client that is gone leaves no half of a configuration in force.
        return await asyncio.shield(asyncio.create_task(self._reload("http")))

    async def _reload(self, by: str) -> ConfigLoad:
        await self._started.wait()  # the control socket listens before all else does
        self._systemd.reloading()
        try:
            load = await self._configuration.reload(by)
            await self._note(load)
        finally:
            self._systemd.ready(self._status.text)
        return load

    def _engine_for(self, settings: Settings) -> SparkEngine:
        if self._engine is None:
            self._engine = SparkEngine(spark_options(settings))
        return self._engine

    async def _put_in_force(self, old: Services | None, new: Services) -> None:
        """Makes the daemon follow a configuration; what can fail comes first, so that the old one stays whole."""
        settings = new.settings
        if old is not None and settings.http.address != old.settings.http.address:
            try:
                await self.web.move(settings.http.address)
            except OSError as exc:
                raise ConfigError([_not_listening(settings, exc)]) from exc
        logs.configure(settings.logs.level, settings.logs.format, settings.state_dir)
        if old is None:
            return
        self._scheduler.reschedule(settings.schedule)
        if (old.settings.replicas, old.settings.postgres) != (settings.replicas, settings.postgres):
            self._leadership.changed()
        # After the services have been put in force.
        asyncio.get_running_loop().call_soon(self._in_place().follow)

    async def _note(self, load: ConfigLoad) -> None:
        """Says and records what a reading of the configuration has changed."""
        self._health.answered("configuration", not load.problems)
        if not load.problems:
            self.metrics.reload_time.set(load.at.timestamp())
        tell(load, self._configuration)
        if load.by != "boot" and not load.problems and not load.changes:
            return
        try:
            await self._in_place().spool.record_load(load)
        except IcekeeperError as exc:
            log.error("reload_not_recorded", error=str(exc), advice=exc.reason.advice)

    # --- slots and runs

    async def _slot_is_due(self, slot: Any) -> None:
        if self._leadership.leading:  # a standby finds it by the ledger, should it ever lead
            await self._in_place().worker.slots.put(slot, Trigger.SCHEDULE)

    async def _until_idle(self) -> None:
        await self._in_place().worker.idle()

    def _observe(self, event: Event) -> None:
        self.metrics.observe(event)
        self._status.observe(event)
        self.web.observe(event)

    def _no_run(self) -> None:
        self.metrics.clear_run()
        self.web.no_run()

    async def _standby(self) -> str | None:
        if self._leadership.leading:
            return None
        holder = await self._leadership.holder()
        where = f"the daemon on {holder} leads: run it there" if holder else "nobody holds the lease at the moment"
        return f"this daemon stands by: {where}"

    async def _look_at_the_clock(self) -> None:
        """A clock that was set, or a host that slept, is told to the scheduler."""
        while True:
            self._scheduler.look()
            await self._sleep(LOOK_S)

    # --- what is shown

    def _ledger_answered(self, answered: bool) -> None:
        self._health.answered("ledger", answered)
        if answered:
            self._ledger_poller.refresh()

    def _tables(self) -> list[str]:
        return [policy.name for policy in self._configuration.settings.policies()]

    async def _ask_the_ledger(self) -> None:
        services, tables = self._configuration.services, self._tables()
        if not self._leadership.leading:
            self._another_leads = services.settings.replicas and await self._leadership.holder() is not None
        past = await PostgresRecent(services.postgres).past(tables)
        # After the past: what is open of a run that is in it is among these.
        self.metrics.add_history(past, await services.findings.open_days(tables))

    def pause(self) -> pause.Pause | None:
        """The pause in force."""
        return pause.in_force(self._configuration.settings.state_dir, self._clock())

    def _vitals(self) -> DaemonState:
        """At a scrape: how late the loop was since the last one."""
        return replace(self._look(), loop_lag_s=self._heartbeat.worst_lag_s())

    def _look(self) -> DaemonState:
        engine, components = self._engine, self._components
        if engine is None or components is None:  # still starting
            return DaemonState()
        self._ledger_poller.look()
        settings = self._configuration.settings
        return DaemonState(
            policies=settings.policies(),
            max_duration=settings.run.max_duration,
            open_slots=components.worker.slots.open.keys() if self._leadership.leading else frozenset(),
            next_slot=self._scheduler.next_slot,
            engine_up=engine.up,
            engine_losses=engine.failures,
            engine_recycles=components.session_keeper.recycled,
            leading=self._leadership.leading,
            spool=self._health.waiting,
            spool_corrupt_files=len(components.spool.corrupt_files()),
            unrecorded_runs=components.worker.unrecorded,
            oldest_notification=components.notifier.oldest,
            pause=self.pause(),
        )

    async def _readiness(self) -> Mapping[str, Any]:
        if self._components is None or self._engine is None or self._stopping.is_set():
            return not_ready(self._stopping.is_set())
        return self._health.readiness(engine_up=self._engine.up, leading=self._leadership.leading)

    def _parts(self) -> Mapping[str, str]:
        engine_up = self._engine is not None and self._engine.up
        return self._health.parts(engine_up=engine_up, leading=self._leadership.leading)


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    await asyncio.gather(*tasks, return_exceptions=True)


def _not_listening(settings: Settings, error: OSError) -> str:
    return f"http.listen: {settings.http.listen} can't be had: {error.strerror or error}"
