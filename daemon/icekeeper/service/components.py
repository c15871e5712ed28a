"""The daemon's components: built once, in the order of their dependencies, and run until shutdown."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spool.shipper import Shipper
from icekeeper.adapters.spool.spool import Spool
from icekeeper.control.server import ControlSocket
from icekeeper.execution import logging as logs
from icekeeper.execution import wiring
from icekeeper.execution.log_files import logs_of
from icekeeper.http.events import EventStream
from icekeeper.night.ports import Clock, Sleep
from icekeeper.scheduling.leadership import Leadership
from icekeeper.scheduling.notifier import Notifier
from icekeeper.scheduling.orders import Orders
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.repairs.automatic import AutomaticRepairs
from icekeeper.scheduling.retention import Retention
from icekeeper.scheduling.scheduler import Scheduler
from icekeeper.scheduling.secret_files import SecretFiles
from icekeeper.scheduling.session_keeper import SparkSessionKeeper
from icekeeper.scheduling.worker import Worker
from icekeeper.service.heartbeat import Heartbeat
from icekeeper.service.reloads import Reloads
from icekeeper.service.run_events import RunEvents
from icekeeper.service.signals import Signals
from icekeeper.service.state_files import StateFiles
from icekeeper.service.state_reader import StateReader
from icekeeper.service.status_line import StatusLine
from icekeeper.service.systemd import Systemd
from icekeeper.service.upkeep import Upkeep
from icekeeper.service.web import Web
from icekeeper.settings import Settings
from icekeeper.status.health import ServiceHealth
from icekeeper.status.ledger_poller import LedgerPoller, read_nights
from icekeeper.status.live import Live
from icekeeper.status.metrics import Metrics
from icekeeper.status.queries import StatusQueries

# How long a command waits for its run's records to be in PostgreSQL.
_SHIP_WITHIN_S = 20.0


class Components:
    """What the supervisor starts, runs and stops; the others are known to these."""

    def __init__(
        self,
        path: Path,
        settings: Settings,
        spool: Spool,
        *,
        signals: Signals,
        systemd: Systemd,
        clock: Clock,
        sleep: Sleep,
    ) -> None:
        """Nothing is connected and nothing runs yet. `settings` are those that were read from `path`."""
        self.spool = spool
        self.engine = engine = SparkEngine(
            wiring.spark_options(settings), lambda used: self.secret_files.after_refusal(used)
        )
        services = wiring.build(settings, engine, clock=clock, sleep=sleep)
        self.configuration = configuration = Configuration(path, services, clock, sleep)

        # What is done, and when.
        events = RunEvents()
        self.leadership = leadership = Leadership(configuration)
        self.worker = worker = Worker(
            configuration, spool, events.publish, clock, leadership.leads, events.no_run, sleep
        )
        self.scheduler = scheduler = Scheduler(settings.schedule, worker.slots, leadership, clock, sleep)
        self.session_keeper = session_keeper = SparkSessionKeeper(engine, configuration, scheduler, worker, clock)
        self.retention = Retention(configuration, spool, leadership.leads, lambda: worker.busy, clock, sleep)

        # What is known of it.
        metrics = Metrics(lambda: [policy.name for policy in configuration.settings.policies()])
        health = ServiceHealth(metrics)
        self.files = files = StateFiles(settings.state_dir, spool, clock)
        self.upkeep = Upkeep(spool, health, files, clock, sleep)
        self.ledger_poller = ledger_poller = LedgerPoller(
            partial(read_nights, configuration, leadership, metrics), partial(health.note, "ledger")
        )
        self.shipper = shipper = Shipper(
            spool,
            lambda: configuration.services.ledger,
            partial(logs_of, settings.state_dir),
            on_answer=ledger_poller.ledger_used,
        )
        shipped = partial(shipper.ship_within, _SHIP_WITHIN_S)
        self.orders = orders = Orders(configuration, worker, leadership.standby_reason, shipped)
        self.automatic_repairs = automatic_repairs = AutomaticRepairs(
            configuration, orders, worker.idle, shipped, spool.slot_runs, clock, sleep
        )
        self.notifier = notifier = Notifier(
            spool,
            lambda: configuration.settings,
            clock,
            sleep,
            metrics.notified,
            lambda: metrics.history.runs,
        )
        self.status_line = status_line = StatusLine(systemd, scheduler)
        self.heartbeat = heartbeat = Heartbeat(systemd.alive)
        state = StateReader(
            configuration=configuration,
            engine=engine,
            leadership=leadership,
            worker=worker,
            scheduler=scheduler,
            session_keeper=session_keeper,
            notifier=notifier,
            health=health,
            ledger_poller=ledger_poller,
            files=files,
            heartbeat=heartbeat,
            stopping=signals.stop,
        )
        metrics.add_gauges(state.read_for_scrape)

        # The API and the pages: what is shown, and orders.
        live = Live(clock)
        stream = EventStream(number=int(clock().timestamp() * 1000))
        queries = StatusQueries(configuration, metrics, live, state.read, state.parts, leadership.someone_leads, clock)
        self.reloads = reloads = Reloads(configuration, signals, spool, health, metrics, systemd, status_line, sleep)
        self.secret_files = SecretFiles(configuration, reloads.rotated, sleep)
        self.web = web = Web(configuration, state, files, metrics, queries, stream, orders, reloads, clock)
        self.control = ControlSocket(web.add_api)

        # Subscribers of the events of runs, of a change of the settings, and of a kill.
        events.subscribe(metrics.observe, status_line.observe, live.observe, queries.observe, stream.observe)
        events.subscribe(automatic_repairs.observe)
        events.on_no_run(metrics.clear_run, live.clear_run)
        configuration.before_change(web.move)
        configuration.on_change(
            _follow_logs,
            lambda _, new: scheduler.reschedule(new.schedule),
            leadership.follow,
            lambda *_: session_keeper.wake(),
            lambda *_: shipper.wake(),
            lambda *_: worker.slots.wake(),
        )
        signals.before_kill(engine.abort)

    def tasks(self) -> Iterable[Coroutine[Any, Any, None]]:
        """What runs side by side until shutdown."""
        yield self.leadership.run(self.worker)
        yield self.shipper.run()
        yield self.session_keeper.run()
        yield self.notifier.run()
        yield self.automatic_repairs.run()
        yield self.retention.run()
        yield self.upkeep.run()
        yield self.reloads.run()
        yield self.secret_files.watch()
        yield self.heartbeat.run()
        yield self.scheduler.watch_clock()

    async def stop_serving(self) -> None:
        """Answers no request any more; commands that wait for a run get its result first."""
        self.orders.stop()
        await _all(self.control.stop, self.web.stop)

    async def close(self) -> None:
        """Closes files and connections, but for the session."""
        await _all(self.ledger_poller.close, self.spool.close, self.configuration.close)


async def _all(*closes: Callable[[], Awaitable[None]]) -> None:
    """Calls them in this order; an error of one keeps no other from being called."""
    async with AsyncExitStack() as closing:
        for close in reversed(closes):
            closing.push_async_callback(close)


def _follow_logs(_: Settings, new: Settings) -> None:
    logs.configure(new.logs.level, new.logs.format, new.state_dir)
