"""The metrics that Prometheus scrapes: the registry, counters, and the history behind the gauges of gauges.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

from icekeeper.core.audit.certificates import CertifiedTable
from icekeeper.core.audit.records import FindingKind
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome
from icekeeper.core.events import Event, RunEnded, RunStarted, TaskEnded
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import RunHistory, is_night, past_of
from icekeeper.core.runs import RunOpening, RunReport
from icekeeper.core.tables.rewrites import ProvenBy
from icekeeper.scheduling.notifier import RESULTS, Result
from icekeeper.status.gauges import DaemonState, Gauges, HistorySummary

# Otherwise every counter gets a second series, with the time of the process's start.
disable_created_metrics()  # type: ignore[no-untyped-call]  # no annotations

# From a task that only reads metadata to one that uses its whole timeout.
_TASK_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200)


_SKIPS = (Reason.NOTHING_SMALL, Reason.TOO_FEW_FILES, Reason.NOTHING_EXPIRED)
_HOLDS = (
    Reason.BUDGET,
    Reason.AUDIT_HOLD,
    Reason.OPERATOR_HOLD,
    Reason.GC_DISABLED,
    Reason.WRITER_STATE,
    Reason.DELETE_DISABLED,
    Reason.OFFLOAD_RUNNING,
    Reason.OBSERVING,
    Reason.DISK_LOW,
    Reason.CLOCK_SKEW,
    Reason.LEDGER_DOWN,
    Reason.REWRITE_MISMATCH,
)
# These hold a task and may also fail one: a disk that fills up during it, an audit of a day that is not over.
_BOTH = (Reason.DISK_LOW, Reason.CLOCK_SKEW, Reason.LEDGER_DOWN, Reason.REWRITE_MISMATCH)
_TASK_ENDS = (
    (TaskOutcome.DONE, ""),
    *((TaskOutcome.SKIPPED, reason) for reason in _SKIPS),
    *((TaskOutcome.HELD, reason) for reason in _HOLDS),
    *((TaskOutcome.FAILED, reason) for reason in Reason if reason in _BOTH or reason not in (*_SKIPS, *_HOLDS)),
)


class Metrics:
    """The registry of one daemon: `observe` takes the events of runs, `add_history` the ledger's earlier runs.

    `history` are the last nights of both; `ledger_read`: whether the ledger has been read since the start.
    `enabled` returns the names of the enabled tables.
    """

    def __init__(self, enabled: Callable[[], Iterable[str]] = tuple[str, ...]) -> None:
        self.registry = CollectorRegistry()
        self._enabled = enabled
        self._running: RunOpening | None = None
        self.ledger_read = False
        self._runs_known = RunHistory()
        self._in_ledger: frozenset[UUID] = frozenset()
        self._open_days: Mapping[tuple[str, AuditStatus], int] = {}
        self._open_rows: Mapping[tuple[str, FindingKind], int] = {}
        self._certified: Mapping[str, CertifiedTable] = {}
        self.history = HistorySummary.of(self._runs_known)
        self.run_in_progress = Gauge("icekeeper_run_in_progress", "1 while a run is under way.", registry=self.registry)
        self._runs = Counter("icekeeper_runs", "Runs that ended.", ["outcome"], registry=self.registry)
        self._tasks = Counter(
            "icekeeper_tasks", "Tasks that ended.", ["stage", "outcome", "reason"], registry=self.registry
        )
        self._durations = Histogram(
            "icekeeper_task_duration_seconds",
            "How long tasks took.",
            ["stage"],
            buckets=_TASK_BUCKETS,
            registry=self.registry,
        )
        self._proofs = Counter(
            "icekeeper_rewrites_proven",
            "Rewrites: counts and bounds of all columns agree, all rows are the same, or neither is known.",
            ["how"],
            registry=self.registry,
        )
        self.run_start = self._flag(
            "icekeeper_run_in_progress_start_timestamp_seconds", "When the run under way started; 0: there is none."
        )
        self._notifications = Counter(
            "icekeeper_notifications",
            "Messages that a receiver has taken, and those that were given up.",
            ["result"],
            registry=self.registry,
        )
        self.reload_successful = self._flag(
            "icekeeper_config_last_reload_successful", "1 if the last attempt to load the configuration succeeded."
        )
        self.reload_time = self._flag(
            "icekeeper_config_last_reload_success_timestamp_seconds", "When the configuration in force was loaded."
        )
        self.ledger_up = self._flag("icekeeper_ledger_up", "1 if PostgreSQL answered the last time it was needed.")
        self.spool_up = self._flag("icekeeper_spool_up", "1 if the spool in state_dir could be read and written.")
        # Every series exists from the first scrape: rate() misses the first increment of a series that appears with it.
        for outcome in RunOutcome:
            self._runs.labels(outcome)
        for how in ProvenBy:
            self._proofs.labels(how)
        for result in RESULTS:
            self._notifications.labels(result)
        for stage in Stage:
            self._durations.labels(stage)
            for task_outcome, reason in _TASK_ENDS:
                self._tasks.labels(stage, task_outcome, reason)

    def add_gauges(self, state: Callable[[], DaemonState]) -> None:
        """Adds what is read at the moment of a scrape. `state` must not block."""
        self.registry.register(Gauges(state, lambda: self.history))

    def _flag(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def notified(self, result: Result) -> None:
        """Counts a notification that was delivered or given up."""
        self._notifications.labels(result).inc()

    def observe(self, event: Event) -> None:
        """Takes an event of a run."""
        if isinstance(event, RunStarted):
            self._running = event.opening
            self.run_in_progress.set(1)
            self.run_start.set(event.opening.started_at.timestamp())
        elif isinstance(event, TaskEnded):
            result = event.result
            self._tasks.labels(result.stage, result.outcome, result.reason or "").inc()
            self._durations.labels(result.stage).observe(result.duration_s)
            for how in event.proofs:
                self._proofs.labels(how).inc()
        elif isinstance(event, RunEnded):
            self._ended(event.report)

    def add_history(
        self,
        runs: RunHistory,
        open_days: Mapping[tuple[str, AuditStatus], int],
        open_rows: Mapping[tuple[str, FindingKind], int],
        certified: Mapping[str, CertifiedTable],
    ) -> None:
        """Merges the ledger's runs with those of this process; the others must have been read after `runs`."""
        self.ledger_read = True
        self._runs_known = self._runs_known.joined(runs)
        self._in_ledger = frozenset(night.run_id for night in runs.nights)
        self._open_days, self._open_rows, self._certified = open_days, open_rows, certified
        self._summarise()

    def clear_run(self) -> None:
        """No run is under way: for a run that ended without a RunEnded event."""
        self._running = None
        self.run_in_progress.set(0)
        self.run_start.set(0)

    def exposition(self) -> bytes:
        """The text that is scraped."""
        return generate_latest(self.registry)

    def _ended(self, report: RunReport) -> None:
        self._runs.labels(report.outcome).inc()
        stages: tuple[Stage, ...] = ()
        tables: tuple[str, ...] = ()
        # A slot may be closed without a run (missed) while another run is under way.
        if self._running is not None and self._running.run_id == report.run_id:
            stages, tables = self._running.stages, self._running.tables
            self.clear_run()
        night = is_night(report, stages, tables, self._enabled())
        self._runs_known = past_of(report, night=night).joined(self._runs_known)
        self._summarise()

    def _summarise(self) -> None:
        self.history = HistorySummary.of(
            self._runs_known, self._in_ledger, self._open_days, self._open_rows, self._certified
        )
