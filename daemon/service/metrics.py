"""What Prometheus scrapes: counters over the process's life, gauges from the last run's report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from daemon import __version__
from daemon.core.events import Event, RunEnded, RunStarted, TaskEnded
from daemon.core.model import AuditStatus, RunOutcome, RunReport, Stage, TableHealth, TaskOutcome
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


class Metrics:
    """The registry of one daemon. `observe` takes the events of runs; the rest is set by the supervisor.

    `open_findings` and `pause` are asked at every scrape, so they must not wait.
    """

    def __init__(
        self,
        next_slot: Callable[[], datetime | None],
        engine: Callable[[], tuple[bool, int]],
        open_findings: Callable[[], Mapping[str, int]] = dict,
        pause: Callable[[], Pause | None] = lambda: None,
    ) -> None:
        self.registry = CollectorRegistry()
        self.last_report: RunReport | None = None
        # Of a slot that was missed there is a report without tables: what is known of them stays.
        self.last_work: RunReport | None = None
        self.last_success: datetime | None = None
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
        self.reload_successful = Gauge(
            "icekeeper_config_last_reload_successful",
            "1 if the last attempt to load the configuration succeeded.",
            registry=self.registry,
        )
        self.reload_time = Gauge(
            "icekeeper_config_last_reload_success_timestamp_seconds",
            "When the configuration in force was loaded.",
            registry=self.registry,
        )
        self.ledger_up = Gauge(
            "icekeeper_ledger_up", "1 if PostgreSQL answered the last time it was needed.", registry=self.registry
        )
        # Every series is there from the first scrape: a rate() over one that appears with its first 1 misses it.
        for outcome in RunOutcome:
            self._runs.labels(outcome)
        for stage in Stage:
            self._durations.labels(stage)
            for task_outcome, reason in _TASK_ENDS:
                self._tasks.labels(stage, task_outcome, reason)
        self.registry.register(_Gauges(self, next_slot, engine))
        self.registry.register(_Operators(open_findings, pause))

    def observe(self, event: Event) -> None:
        """Takes an event of a run."""
        if isinstance(event, RunStarted):
            self.run_in_progress.set(1)
        elif isinstance(event, TaskEnded):
            result = event.result
            self._tasks.labels(result.stage, result.outcome, result.reason or "").inc()
            self._durations.labels(result.stage).observe(result.duration_s)
        elif isinstance(event, RunEnded):
            self.run_in_progress.set(0)
            self._runs.labels(event.report.outcome).inc()
            self.last_report = event.report
            if event.report.tasks:
                self.last_work = event.report
            if event.report.outcome is RunOutcome.SUCCESS:
                self.last_success = event.report.finished_at

    def exposition(self) -> bytes:
        """The text that is scraped."""
        return generate_latest(self.registry)


class _Gauges(Collector):
    """Reads everything that one run report says at the moment of the scrape: one record, never half of two."""

    def __init__(
        self,
        metrics: Metrics,
        next_slot: Callable[[], datetime | None],
        engine: Callable[[], tuple[bool, int]],
    ) -> None:
        self._metrics = metrics
        self._next_slot = next_slot
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        build = InfoMetricFamily("icekeeper_build", "The version that runs.")
        build.add_metric([], {"version": __version__})
        yield build
        up, restarts = self._engine()
        yield _gauge("icekeeper_engine_up", "1 if the Spark session is there and its JVM lives.", float(up))
        restarted = Metric("icekeeper_engine_restarts", "Sessions rebuilt after the first.", "counter")
        restarted.add_sample("icekeeper_engine_restarts_total", {}, restarts)
        yield restarted
        upcoming = self._next_slot()
        help_text = "The next scheduled slot."
        yield _gauge("icekeeper_next_run_timestamp_seconds", help_text, upcoming.timestamp() if upcoming else 0.0)
        yield from self._of_run(self._metrics.last_report)
        yield from _of_tables(self._metrics.last_work)
        yield from _of_audits(self._metrics.last_work)

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


class _Operators(Collector):
    """What operators have to do, and what they have done: open findings, a pause."""

    def __init__(self, open_findings: Callable[[], Mapping[str, int]], pause: Callable[[], Pause | None]) -> None:
        self._open_findings = open_findings
        self._pause = pause

    def collect(self) -> Iterator[Metric]:
        findings = GaugeMetricFamily(
            "icekeeper_open_findings",
            "Days whose rows lack or could not be counted, neither repaired nor acknowledged.",
            labels=["table"],
        )
        for table, days in self._open_findings().items():
            findings.add_metric([table], days)
        yield findings
        pause = self._pause()
        yield _gauge("icekeeper_paused", "1 while the nights are paused.", float(pause is not None))
        until = pause.until.timestamp() if pause is not None and pause.until is not None else 0.0
        yield _gauge("icekeeper_paused_until_timestamp_seconds", "When the pause ends; 0: none, or without end.", until)


def _of_tables(report: RunReport | None) -> Iterator[Metric]:
    healths: dict[str, TableHealth] = {}
    for task in report.tasks if report else ():
        if task.after is not None:
            healths[task.table] = task.after
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


def _of_audits(report: RunReport | None) -> Iterator[Metric]:
    rows = GaugeMetricFamily("icekeeper_audit_rows", "Rows of the audited window.", labels=["table", "side"])
    delta = GaugeMetricFamily("icekeeper_audit_delta_rows", "Iceberg's rows less ClickHouse's.", labels=["table"])
    status = GaugeMetricFamily("icekeeper_audit_status", "1 for the audit's verdict.", labels=["table", "status"])
    for audit in report.audits if report else ():
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
