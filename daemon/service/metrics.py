"""What Prometheus scrapes: counters over the process's life, gauges of what was last seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon import __version__
from daemon.adapters.spark import Loss
from daemon.adapters.spool import Waiting
from daemon.core.events import Event, RunEnded, RunStarted, TaskEnded
from daemon.core.model import AuditResult, AuditStatus, RunOutcome, RunReport, Stage, TableHealth, TaskOutcome
from daemon.core.reasons import Reason
from daemon.service.pause import Pause

# From a task that reads metadata to one that uses its whole timeout.
_TASK_BUCKETS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 120, 300, 600, 1200)


_SKIPS = (Reason.NOTHING_SMALL, Reason.TOO_FEW_FILES, Reason.NOTHING_EXPIRED)
_HOLDS = (
    Reason.BUDGET,
    Reason.AUDIT_HOLD,
    Reason.GC_DISABLED,
    Reason.OFFLOAD_RUNNING,
    Reason.OBSERVING,
    Reason.DISK_LOW,
    Reason.CLOCK_SKEW,
    Reason.LEDGER_DOWN,
)
# What holds a task may also fail one: a disk that fills up in the middle, an audit of a day that is not over.
_BOTH = (Reason.DISK_LOW, Reason.CLOCK_SKEW, Reason.LEDGER_DOWN)
_TASK_ENDS = (
    (TaskOutcome.DONE, ""),
    *((TaskOutcome.SKIPPED, reason) for reason in _SKIPS),
    *((TaskOutcome.HELD, reason) for reason in _HOLDS),
    *((TaskOutcome.FAILED, reason) for reason in Reason if reason in _BOTH or reason not in (*_SKIPS, *_HOLDS)),
)


_NOTHING_WAITS = Waiting(0, 0, None)


@dataclass(frozen=True, slots=True)
class Vitals:
    """What the daemon is like at the moment of a scrape. The defaults are those of one that has not begun."""

    next_slot: datetime | None = None
    engine_up: bool = False
    engine_losses: Mapping[Loss, int] = field(default_factory=dict)
    engine_recycles: int = 0
    leading: bool = False
    loop_lag_s: float = 0.0
    spool: Waiting = _NOTHING_WAITS
    spool_corrupt_files: int = 0
    open_findings: Mapping[str, int] = field(default_factory=dict)
    pause: Pause | None = None


class Metrics:
    """The registry of one daemon. `observe` takes the events of runs; the rest is set by the supervisor.

    `vitals` is asked at every scrape, so it must not wait.
    """

    def __init__(self, vitals: Callable[[], Vitals] = Vitals) -> None:
        self.registry = CollectorRegistry()
        self.last_report: RunReport | None = None
        self.last_success: datetime | None = None
        # What was last seen of each table: a run of one table, or a resumed one, tells nothing of the others.
        self.healths: dict[str, TableHealth] = {}
        self.audits: dict[str, AuditResult] = {}
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
        self.reload_successful = self._flag(
            "icekeeper_config_last_reload_successful", "1 if the last attempt to load the configuration succeeded."
        )
        self.reload_time = self._flag(
            "icekeeper_config_last_reload_success_timestamp_seconds", "When the configuration in force was loaded."
        )
        self.ledger_up = self._flag("icekeeper_ledger_up", "1 if PostgreSQL answered the last time it was needed.")
        self.spool_up = self._flag("icekeeper_spool_up", "1 if the spool in state_dir could be read and written.")
        # Every series is there from the first scrape: a rate() over one that appears with its first 1 misses it.
        for outcome in RunOutcome:
            self._runs.labels(outcome)
        for stage in Stage:
            self._durations.labels(stage)
            for task_outcome, reason in _TASK_ENDS:
                self._tasks.labels(stage, task_outcome, reason)
        self.registry.register(_Gauges(self, vitals))

    def _flag(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self.registry)

    def observe(self, event: Event) -> None:
        """Takes an event of a run."""
        if isinstance(event, RunStarted):
            self.run_in_progress.set(1)
        elif isinstance(event, TaskEnded):
            result = event.result
            self._tasks.labels(result.stage, result.outcome, result.reason or "").inc()
            self._durations.labels(result.stage).observe(result.duration_s)
        elif isinstance(event, RunEnded):
            self._ended(event.report)

    def _ended(self, report: RunReport) -> None:
        self.run_in_progress.set(0)
        self._runs.labels(report.outcome).inc()
        self.last_report = report
        self.healths.update({task.table: task.after for task in report.tasks if task.after is not None})
        self.audits.update({audit.iceberg_table: audit for audit in report.audits})
        if report.outcome is RunOutcome.SUCCESS:
            self.last_success = report.finished_at

    def keep_tables(self, names: Iterable[str]) -> None:
        """Forgets tables that are configured no longer: a gauge that nobody sets any more would stay for good."""
        kept = frozenset(names)
        for known in (self.healths, self.audits):
            for name in [name for name in known if name not in kept]:
                del known[name]

    def exposition(self) -> bytes:
        """The text that is scraped."""
        return generate_latest(self.registry)


class _Gauges(Collector):
    """Reads everything at the moment of the scrape: one record, never half of two."""

    def __init__(self, metrics: Metrics, vitals: Callable[[], Vitals]) -> None:
        self._metrics = metrics
        self._vitals = vitals

    def collect(self) -> Iterator[Metric]:
        build = InfoMetricFamily("icekeeper_build", "The version that runs.")
        build.add_metric([], {"version": __version__})
        yield build
        vitals = self._vitals()
        yield from _of_engine(vitals)
        yield from _of_daemon(vitals)
        yield from _of_operators(vitals)
        yield from self._of_run(self._metrics.last_report)
        yield from _of_tables(self._metrics.healths)
        yield from _of_audits(self._metrics.audits.values())

    def _of_run(self, report: RunReport | None) -> Iterator[Metric]:
        started = report.started_at.timestamp() if report else 0.0
        ended = report.finished_at.timestamp() if report else 0.0
        yield _gauge("icekeeper_last_run_start_timestamp_seconds", "When the last run started.", started)
        yield _gauge("icekeeper_last_run_end_timestamp_seconds", "When the last run ended.", ended)
        outcomes = GaugeMetricFamily("icekeeper_last_run_outcome", "1 for the last run's outcome.", labels=["outcome"])
        for outcome in RunOutcome:
            outcomes.add_metric([outcome], float(report is not None and report.outcome is outcome))
        yield outcomes
        last_success = self._metrics.last_success
        success = last_success.timestamp() if last_success else 0.0
        yield _gauge("icekeeper_last_success_timestamp_seconds", "When a run last ended in success.", success)


def _of_engine(vitals: Vitals) -> Iterator[Metric]:
    yield _gauge("icekeeper_engine_up", "1 if the Spark session is there and its JVM lives.", float(vitals.engine_up))
    lost = CounterMetricFamily("icekeeper_engine_restarts", "Sessions that were lost, and rebuilt.", labels=["why"])
    for why in Loss:
        lost.add_metric([why], vitals.engine_losses.get(why, 0))
    yield lost
    text = "Sessions renewed in good health, for their age."
    yield CounterMetricFamily("icekeeper_engine_recycles", text, value=vitals.engine_recycles)


def _of_daemon(vitals: Vitals) -> Iterator[Metric]:
    upcoming = vitals.next_slot.timestamp() if vitals.next_slot else 0.0
    yield _gauge("icekeeper_next_run_timestamp_seconds", "The next scheduled slot.", upcoming)
    yield _gauge(
        "icekeeper_leader", "1 where this daemon runs the nights; 0 where it stands by.", float(vitals.leading)
    )
    yield _gauge("icekeeper_loop_lag_seconds", "The latest the loop has been since the last scrape.", vitals.loop_lag_s)
    spool = vitals.spool
    yield _gauge("icekeeper_spool_records", "Records on disk that PostgreSQL does not have yet.", spool.records)
    oldest = spool.oldest.timestamp() if spool.oldest else 0.0
    yield _gauge("icekeeper_spool_oldest_timestamp_seconds", "When the oldest of them was written; 0: none.", oldest)
    yield _gauge("icekeeper_spool_set_aside_records", "Records that PostgreSQL refused.", spool.set_aside)
    text = "Spools that were damaged, kept beside the new one."
    yield _gauge("icekeeper_spool_corrupt_files", text, vitals.spool_corrupt_files)


def _of_operators(vitals: Vitals) -> Iterator[Metric]:
    findings = GaugeMetricFamily(
        "icekeeper_open_findings",
        "Days whose rows lack or could not be counted, neither repaired nor acknowledged.",
        labels=["table"],
    )
    for table, days in vitals.open_findings.items():
        findings.add_metric([table], days)
    yield findings
    pause = vitals.pause
    yield _gauge("icekeeper_paused", "1 while the nights are paused.", float(pause is not None))
    until = pause.until.timestamp() if pause is not None and pause.until is not None else 0.0
    yield _gauge("icekeeper_paused_until_timestamp_seconds", "When the pause ends; 0: none, or without end.", until)


def _of_tables(healths: Mapping[str, TableHealth]) -> Iterator[Metric]:
    for name, text in (
        ("data_files", "Data files of the table."),
        ("small_files", "Data files under 75 % of the target size."),
        ("bytes", "Bytes of the table's data files."),
        ("snapshots", "Snapshots of the table."),
    ):
        family = GaugeMetricFamily(f"icekeeper_table_{name}", text, labels=["table"])
        for table, health in healths.items():
            family.add_metric([table], getattr(health, name))
        yield family


def _of_audits(audits: Iterable[AuditResult]) -> Iterator[Metric]:
    rows = GaugeMetricFamily("icekeeper_audit_rows", "Rows of the audited window.", labels=["table", "side"])
    delta = GaugeMetricFamily("icekeeper_audit_delta_rows", "Iceberg's rows less ClickHouse's.", labels=["table"])
    status = GaugeMetricFamily("icekeeper_audit_status", "1 for the audit's verdict.", labels=["table", "status"])
    for audit in audits:
        table = audit.iceberg_table
        if audit.ch_row_count is not None and audit.iceberg_row_count is not None:
            rows.add_metric([table, "clickhouse"], audit.ch_row_count)
            rows.add_metric([table, "iceberg"], audit.iceberg_row_count)
            delta.add_metric([table], audit.iceberg_row_count - audit.ch_row_count)
        for one in AuditStatus:
            status.add_metric([table, one], float(audit.status is one))
    yield from (rows, delta, status)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
