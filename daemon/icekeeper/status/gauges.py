"""Gauges that are computed at the moment of a scrape. Counters, and what the gauges are computed from: metrics.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from icekeeper import __version__
from icekeeper.adapters.spark.engine import EngineFailure
from icekeeper.adapters.spool.outbox import Waiting
from icekeeper.core.audit.certificates import CertifiedTable
from icekeeper.core.audit.days import empty_days
from icekeeper.core.audit.records import FindingKind
from icekeeper.core.enums import NIGHT, AuditStatus, RunOutcome, Stage
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import (
    FINDINGS,
    Hold,
    PastTask,
    RunHistory,
    failed_nights,
    failure_is_open,
    holds,
    missed_nights,
    partial_nights,
)
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.scheduling.pause import Pause

_HEALTH = {
    "data_files": "Data files of the table.",
    "small_files": "Data files under 75 % of the target size.",
    "bytes": "Bytes of the table's data files.",
    "records": "Rows in the table's data files.",
    "delete_files": "Delete files of the table.",
    "manifests": "Manifests of the table's current snapshot.",
    "snapshots": "Snapshots of the table.",
}
_EMPTY_SPOOL = Waiting(0, 0, None)


@dataclass(frozen=True, slots=True)
class DaemonState:
    """The daemon at the moment of a scrape. The defaults are those of a daemon that is still starting.

    `policies` are those of the enabled tables; `open_slots` are due and not yet covered by a run. `unrecorded_runs`
    are in neither PostgreSQL nor the spool; `oldest_notification` is when the oldest unsent notification was queued.
    """

    policies: tuple[TablePolicy, ...] = ()
    max_duration: timedelta = timedelta(0)
    next_slot: datetime | None = None
    open_slots: Set[datetime] = frozenset()
    engine_up: bool = False
    engine_losses: Mapping[EngineFailure, int] = field(default_factory=dict)
    engine_recycles: int = 0
    leading: bool = False
    loop_lag_s: float = 0.0
    spool: Waiting = _EMPTY_SPOOL
    spool_corrupt_files: int = 0
    undeleted_files: Mapping[str, int] = field(default_factory=dict)
    operator_holds: tuple[OperatorHold, ...] = ()
    holds_known: bool = True
    pause: Pause | None = None
    unrecorded_runs: int = 0
    oldest_notification: datetime | None = None


@dataclass(frozen=True, slots=True)
class HistorySummary:
    """The last nights, and what is derived from them when they change rather than at every scrape."""

    runs: RunHistory
    last_tasks: Mapping[tuple[Stage, str], PastTask]
    partial_nights: int
    missed_nights: int
    failed_nights: Mapping[str, int]
    holds: Mapping[tuple[Stage, str], Hold]
    empty_days: Mapping[str, int]
    failure_open: bool
    open_days: Mapping[tuple[str, AuditStatus], int]
    open_rows: Mapping[tuple[str, FindingKind], int]
    certified: Mapping[str, CertifiedTable]

    @classmethod
    def of(
        cls,
        runs: RunHistory,
        in_ledger: Set[UUID] = frozenset(),
        open_days: Mapping[tuple[str, AuditStatus], int] | None = None,
        open_rows: Mapping[tuple[str, FindingKind], int] | None = None,
        certified: Mapping[str, CertifiedTable] | None = None,
    ) -> HistorySummary:
        open_days = open_days or {}
        return cls(
            runs=runs,
            last_tasks=runs.last_tasks(),
            partial_nights=partial_nights(runs),
            missed_nights=missed_nights(runs),
            failed_nights=failed_nights(runs),
            holds=holds(runs),
            empty_days=empty_days(runs.days),
            failure_open=failure_is_open(runs, in_ledger, {table for table, _ in open_days}),
            open_days=open_days,
            open_rows=open_rows or {},
            certified=certified or {},
        )


class Gauges(Collector):
    """Takes one DaemonState and one HistorySummary per scrape, so that its gauges agree with each other."""

    def __init__(self, state: Callable[[], DaemonState], history: Callable[[], HistorySummary]) -> None:
        self._state = state
        self._history = history

    def collect(self) -> Iterator[Metric]:
        build = InfoMetricFamily("icekeeper_build", "The version that runs.")
        build.add_metric([], {"version": __version__})
        yield build
        advice = InfoMetricFamily("icekeeper_reason", "What to do about a reason.", labels=["reason"])
        for reason in Reason:
            advice.add_metric([reason], {"advice": reason.advice})
        yield advice
        state, history = self._state(), self._history()
        yield from _of_engine(state)
        yield from _of_daemon(state)
        yield from _of_slots(state)
        yield from _of_last_run(history)
        names = [policy.name for policy in state.policies]
        yield from _of_findings(history, names)
        yield from _of_tasks(history, state.policies)
        yield _of_operator_holds(state)
        yield from _of_tables(history.runs, names)
        text = "Files of expired snapshots that could not be deleted, and are tried again."
        undeleted = GaugeMetricFamily("icekeeper_table_undeleted_files", text, labels=["table"])
        for name in names:
            undeleted.add_metric([name], state.undeleted_files.get(name, 0))
        yield undeleted
        audited = [policy.name for policy in state.policies if policy.audit is not None]
        yield from _of_audits(history, audited)
        yield from _of_certificates(history.certified, audited)


def _of_engine(state: DaemonState) -> Iterator[Metric]:
    yield _gauge("icekeeper_engine_up", "1 if the Spark session is there and its JVM lives.", state.engine_up)
    lost = CounterMetricFamily("icekeeper_engine_restarts", "Sessions that were lost, and rebuilt.", labels=["why"])
    for why in EngineFailure:
        lost.add_metric([why], state.engine_losses.get(why, 0))
    yield lost
    text = "Sessions renewed in good health, for their age."
    yield CounterMetricFamily("icekeeper_engine_recycles", text, value=state.engine_recycles)


def _of_daemon(state: DaemonState) -> Iterator[Metric]:
    yield _gauge("icekeeper_leader", "1 where this daemon runs the nights; 0 where it stands by.", state.leading)
    yield _gauge("icekeeper_loop_lag_seconds", "The latest the loop has been since the last scrape.", state.loop_lag_s)
    spool = state.spool
    yield _gauge("icekeeper_spool_records", "Records on disk that PostgreSQL does not have yet.", spool.records)
    text = "When the oldest of them was written; 0: none."
    yield _gauge("icekeeper_spool_oldest_timestamp_seconds", text, _seconds(spool.oldest))
    yield _gauge("icekeeper_spool_set_aside_records", "Records that PostgreSQL refused.", spool.quarantined)
    text = "Spools that were damaged, kept beside the new one."
    yield _gauge("icekeeper_spool_corrupt_files", text, state.spool_corrupt_files)
    text = "Runs that neither PostgreSQL nor the spool has."
    yield _gauge("icekeeper_unrecorded_runs", text, state.unrecorded_runs)
    text = "Since when the oldest message waits to be sent; 0: none waits."
    yield _gauge("icekeeper_notices_oldest_timestamp_seconds", text, _seconds(state.oldest_notification))


def _of_slots(state: DaemonState) -> Iterator[Metric]:
    yield _gauge("icekeeper_next_run_timestamp_seconds", "The next scheduled slot.", _seconds(state.next_slot))
    text = "Slots that are due, and that no run has answered for yet."
    yield _gauge("icekeeper_open_slots", text, len(state.open_slots))
    oldest = min(state.open_slots, default=None)
    yield _gauge("icekeeper_oldest_open_slot_timestamp_seconds", "The oldest of them; 0: none.", _seconds(oldest))
    text = "How long a run may take by run.max_duration."
    yield _gauge("icekeeper_run_max_duration_seconds", text, state.max_duration.total_seconds())
    pause = state.pause
    yield _gauge("icekeeper_paused", "1 while the nights are paused.", pause is not None)
    since, until = (pause.since, pause.until) if pause is not None else (None, None)
    text = "Since when the nights are paused; 0: they are not."
    yield _gauge("icekeeper_paused_since_timestamp_seconds", text, _seconds(since))
    text = "When the pause ends; 0: none, or without end."
    yield _gauge("icekeeper_paused_until_timestamp_seconds", text, _seconds(until))


def _of_last_run(history: HistorySummary) -> Iterator[Metric]:
    last = history.runs.last
    text = "When the last run that answered for a night started."
    yield _gauge("icekeeper_last_run_start_timestamp_seconds", text, _seconds(last.started_at if last else None))
    text = "When the last run that answered for a night ended."
    yield _gauge("icekeeper_last_run_end_timestamp_seconds", text, _seconds(last.finished_at if last else None))
    outcomes = GaugeMetricFamily("icekeeper_last_run_outcome", "1 for the last run's outcome.", labels=["outcome"])
    for outcome in RunOutcome:
        outcomes.add_metric([outcome], last is not None and last.outcome is outcome)
    yield outcomes
    text = "1 while the last run's failure is open: what it found is neither repaired nor acknowledged."
    yield _gauge("icekeeper_last_run_failure_open", text, history.failure_open)
    text = "When a run that answered for a night last ended in success."
    yield _gauge("icekeeper_last_success_timestamp_seconds", text, _seconds(history.runs.last_success))
    text = "Nights in a row that ended as partial."
    yield _gauge("icekeeper_consecutive_partial_nights", text, history.partial_nights)
    text = "Nights of the last 30 runs that were missed, and that no other run answered for."
    yield _gauge("icekeeper_missed_nights", text, history.missed_nights)


def _of_findings(history: HistorySummary, tables: Iterable[str]) -> Iterator[Metric]:
    findings = GaugeMetricFamily(
        "icekeeper_open_findings",
        "Days whose rows lack or could not be counted, neither repaired nor acknowledged.",
        labels=["table", "status"],
    )
    for table in tables:
        for status in sorted(FINDINGS):
            findings.add_metric([table, status], history.open_days.get((table, status), 0))
    yield findings
    text = "Rows of open findings: missing, extra, duplicate, changed, or in bad files."
    rows = GaugeMetricFamily("icekeeper_finding_rows", text, labels=["table", "kind"])
    for table in tables:
        for kind in FindingKind:
            rows.add_metric([table, kind], history.open_rows.get((table, kind), 0))
    yield rows


def _of_tasks(history: HistorySummary, policies: Iterable[TablePolicy]) -> Iterator[Metric]:
    text = "How the last task of each stage ended on each table; empty labels: no such task is known."
    last = GaugeMetricFamily("icekeeper_last_task_info", text, labels=["table", "stage", "outcome", "reason"])
    text = "Nights in a row in which a task of the table failed."
    failed = GaugeMetricFamily("icekeeper_table_consecutive_failed_nights", text, labels=["table"])
    text = "Nights in a row in which the table's expiry was held, but for mode: observe."
    expiry = GaugeMetricFamily("icekeeper_table_consecutive_held_nights", text, labels=["table"])
    text = "Nights in a row in which the stage was held for the table, but for mode: observe."
    held = GaugeMetricFamily("icekeeper_task_held_nights", text, labels=["stage", "table"])
    nights = {key: hold.nights for key, hold in history.holds.items()}
    for policy in policies:
        for stage in NIGHT:
            if policy.has(stage):
                held.add_metric([stage, policy.name], nights.get((stage, policy.name), 0))
                task = history.last_tasks.get((stage, policy.name))
                last.add_metric([policy.name, stage, task.outcome if task else "", (task and task.reason) or ""], 1)
        failed.add_metric([policy.name], history.failed_nights.get(policy.name, 0))
        if policy.has(Stage.EXPIRE):
            expiry.add_metric([policy.name], nights.get((Stage.EXPIRE, policy.name), 0))
    yield from (last, failed, expiry, held)


def _of_operator_holds(state: DaemonState) -> Metric:
    text = "1 while an operator has the stage of the table on hold."
    family = GaugeMetricFamily("icekeeper_operator_hold", text, labels=["stage", "table"])
    held = {(hold.stage, hold.table) for hold in state.operator_holds}
    for policy in state.policies:
        for stage in filter(policy.has, NIGHT):
            family.add_metric([stage, policy.name], (stage, policy.name) in held)
    return family


def _of_tables(runs: RunHistory, tables: Iterable[str]) -> Iterator[Metric]:
    healths = {table: runs.healths[table].health for table in tables if table in runs.healths}
    for name, text in _HEALTH.items():
        family = GaugeMetricFamily(f"icekeeper_table_{name}", text, labels=["table"])
        for table, health in healths.items():
            family.add_metric([table], getattr(health, name))
        yield family


def _of_audits(history: HistorySummary, tables: Iterable[str]) -> Iterator[Metric]:
    rows = GaugeMetricFamily("icekeeper_audit_rows", "Rows of the audited day.", labels=["table", "side"])
    delta = GaugeMetricFamily("icekeeper_audit_delta_rows", "Iceberg's rows less ClickHouse's.", labels=["table"])
    status = GaugeMetricFamily("icekeeper_audit_status", "1 for the audit's verdict.", labels=["table", "status"])
    text = "Days in a row of which ClickHouse held no row though Iceberg did."
    empty = GaugeMetricFamily("icekeeper_source_empty_nights", text, labels=["table"])
    audits = history.runs.audits
    for table in tables:
        audit = audits.get(table)
        empty.add_metric([table], history.empty_days.get(table, 0))
        for one in AuditStatus:
            status.add_metric([table, one], audit is not None and audit.status is one)
        if audit is not None and audit.clickhouse is not None and audit.iceberg is not None:
            rows.add_metric([table, "clickhouse"], audit.clickhouse)
            rows.add_metric([table, "iceberg"], audit.iceberg)
            delta.add_metric([table], audit.iceberg - audit.clickhouse)
    yield from (rows, delta, status, empty)


def _of_certificates(certified: Mapping[str, CertifiedTable], tables: Iterable[str]) -> Iterator[Metric]:
    text = "The end of the newest certified day; 0: no day is certified."
    until = GaugeMetricFamily("icekeeper_certified_until_timestamp_seconds", text, labels=["table"])
    text = (
        "When the source's TTL begins to take rows of the oldest day that could be certified, and is neither that nor "
        "acknowledged; 0: there is no such day, or the TTL is not known."
    )
    expires = GaugeMetricFamily("icekeeper_uncertified_expires_timestamp_seconds", text, labels=["table"])
    for table in tables:
        known = certified.get(table, CertifiedTable())
        until.add_metric([table], _seconds(known.until))
        expires.add_metric([table], _seconds(known.expires))
    yield from (until, expires)


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=float(value))


def _seconds(at: datetime | None) -> float:
    return at.timestamp() if at is not None else 0.0
