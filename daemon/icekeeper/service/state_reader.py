"""What the daemon is like at the moment of a question, read from its components. How it is shown: status/, http/."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.scheduling.leadership import Leadership
from icekeeper.scheduling.notifier import Notifier
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.scheduler import Scheduler
from icekeeper.scheduling.session_keeper import SparkSessionKeeper
from icekeeper.scheduling.worker import Worker
from icekeeper.service.heartbeat import Heartbeat
from icekeeper.service.state_files import StateFiles
from icekeeper.status.gauges import DaemonState
from icekeeper.status.health import NOT_READY, ServiceHealth
from icekeeper.status.ledger_poller import LedgerPoller


@dataclass(frozen=True, slots=True)
class StateReader:
    """`stopping` is set when the daemon stops."""

    configuration: Configuration
    engine: SparkEngine
    leadership: Leadership
    worker: Worker
    scheduler: Scheduler
    session_keeper: SparkSessionKeeper
    notifier: Notifier
    health: ServiceHealth
    ledger_poller: LedgerPoller
    files: StateFiles
    heartbeat: Heartbeat
    stopping: asyncio.Event

    def read(self) -> DaemonState:
        self.ledger_poller.refresh_if_old()
        settings, leads = self.configuration.settings, self.leadership.leads()
        return DaemonState(
            policies=settings.policies(),
            max_duration=settings.run.max_duration,
            open_slots=self.worker.slots.open.keys() if leads else frozenset(),
            next_slot=self.scheduler.next_slot,
            engine_up=self.engine.up,
            engine_losses=self.engine.failures,
            engine_recycles=self.session_keeper.recycled,
            leading=leads,
            spool=self.health.waiting,
            spool_corrupt_files=self.files.corrupt_spool_files,
            undeleted_files=self.files.undeleted,
            operator_holds=self.files.holds,
            holds_known=self.files.holds_known,
            unrecorded_runs=self.worker.unrecorded,
            oldest_notification=self.notifier.oldest,
            pause=self.files.pause,
        )

    def read_for_scrape(self) -> DaemonState:
        """With how late the loop was since the last call."""
        return replace(self.read(), loop_lag_s=self.heartbeat.worst_lag_s())

    def parts(self) -> Mapping[str, str]:
        """Each component's state in a word or two."""
        return self.health.parts(engine_up=self.engine.up, leading=self.leadership.leads())

    async def readiness(self) -> Mapping[str, Any]:
        if self.stopping.is_set():
            return NOT_READY
        return self.health.readiness(engine_up=self.engine.up, leading=self.leadership.leads())
