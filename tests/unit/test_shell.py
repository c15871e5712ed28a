"""The parts of the shell that need no outside system: metrics, reports, the schedule, the lock, the terminal."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import pytest
from rich.console import Console

from icekeeper.cli.output import console
from icekeeper.core.audit.records import AuditResult, MissingHour
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.events import RunEnded, RunStarted, TaskEnded
from icekeeper.core.plain import report_document
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunOpening, RunReport, StageResult
from icekeeper.core.tables.state import TableHealth
from icekeeper.execution.lock import RunLockHeld, run_lock
from icekeeper.settings.model import Schedule
from icekeeper.status.gauges import DaemonState
from icekeeper.status.metrics import Metrics
from tests.unit.builders import daemon_metrics, table_policy

SLOT = datetime(2026, 2, 18, 2, tzinfo=UTC)
TABLE = "cold.bronze_trades_coinbase"
BEFORE = TableHealth(960, 960, 14_000_000, 19_200, 0, 96, 100, 7)
AFTER = replace(BEFORE, data_files=1, small_files=1, bytes=9_000_000, manifests=1, snapshots=101, snapshot_id=8)


def task(stage: Stage, outcome: TaskOutcome, reason: Reason | None = None, error: str | None = None) -> StageResult:
    return StageResult(stage, TABLE, outcome, reason, "a note", 1, SLOT, 2.5, BEFORE, AFTER, error)


AUDIT = AuditResult(
    run_id=UUID(int=1),
    slot=SLOT,
    trigger=Trigger.SCHEDULE,
    run_timestamp=SLOT + timedelta(minutes=3),
    iceberg_table=TABLE,
    ch_source="bronze_trades_coinbase",
    layer="bronze",
    audit_window_hours=24,
    window_start=SLOT - timedelta(hours=26),
    window_end=SLOT - timedelta(hours=2),
    ch_row_count=1000,
    iceberg_row_count=900,
    delta=-100,
    delta_pct=Decimal("-10.0000"),
    status=AuditStatus.MISSING_DATA,
    reason=None,
    notes="iceberg lacks 100 of 1000 rows",
    missing_hours=(MissingHour(SLOT - timedelta(hours=20), 100, 0),),
)
REPORT = RunReport(
    run_id=UUID(int=1),
    slot=SLOT,
    trigger=Trigger.SCHEDULE,
    outcome=RunOutcome.FAILED,
    started_at=SLOT,
    finished_at=SLOT + timedelta(minutes=4),
    settings_hash="0123456789abcdef",
    tasks=(
        task(Stage.COMPACT, TaskOutcome.DONE),
        task(Stage.EXPIRE, TaskOutcome.FAILED, Reason.STORAGE_DOWN, "no answer"),
        task(Stage.AUDIT, TaskOutcome.DONE),
    ),
    audits=(AUDIT,),
)
OPENING = RunOpening(REPORT.run_id, SLOT, Trigger.SCHEDULE, SLOT, "0123456789abcdef", tuple(Stage), (TABLE,))


def samples(metrics: Metrics) -> dict[str, float]:
    lines = metrics.exposition().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}


def test_every_series_without_a_table_is_there_from_the_first_scrape() -> None:
    seen = samples(daemon_metrics(lambda: DaemonState(next_slot=SLOT)))
    for outcome in RunOutcome:
        assert seen[f'icekeeper_runs_total{{outcome="{outcome}"}}'] == 0
        assert seen[f'icekeeper_last_run_outcome{{outcome="{outcome}"}}'] == 0
    assert seen["icekeeper_last_success_timestamp_seconds"] == 0
    assert seen["icekeeper_next_run_timestamp_seconds"] == SLOT.timestamp()
    assert seen['icekeeper_engine_restarts_total{why="out_of_memory"}'] == 0
    assert any(name.startswith("icekeeper_build_info{") for name in seen)


def test_the_gauges_are_what_the_last_report_says_and_the_counters_count() -> None:
    metrics = daemon_metrics(lambda: DaemonState(policies=(table_policy(TABLE),)))
    metrics.observe(RunStarted(OPENING))
    begun = samples(metrics)
    assert begun["icekeeper_run_in_progress"] == 1
    assert begun["icekeeper_run_in_progress_start_timestamp_seconds"] == SLOT.timestamp()
    for result in REPORT.tasks:
        metrics.observe(TaskEnded(result))
    metrics.observe(RunEnded(REPORT))
    seen = samples(metrics)
    assert seen["icekeeper_run_in_progress"] == 0
    assert seen["icekeeper_run_in_progress_start_timestamp_seconds"] == 0
    assert seen['icekeeper_runs_total{outcome="failed"}'] == 1
    expired = f'icekeeper_last_task_info{{outcome="failed",reason="storage_down",stage="expire",table="{TABLE}"}}'
    assert seen[expired] == 1
    assert seen["icekeeper_last_run_failure_open"] == 1
    assert seen['icekeeper_tasks_total{outcome="failed",reason="storage_down",stage="expire"}'] == 1
    assert seen['icekeeper_task_duration_seconds_count{stage="compact"}'] == 1
    assert seen[f'icekeeper_table_data_files{{table="{TABLE}"}}'] == 1
    assert seen[f'icekeeper_audit_rows{{side="clickhouse",table="{TABLE}"}}'] == 1000
    assert seen[f'icekeeper_audit_delta_rows{{table="{TABLE}"}}'] == -100
    assert seen[f'icekeeper_audit_status{{status="missing_data",table="{TABLE}"}}'] == 1
    assert seen["icekeeper_last_run_end_timestamp_seconds"] == REPORT.finished_at.timestamp()
    assert seen["icekeeper_last_success_timestamp_seconds"] == 0
    metrics.observe(RunEnded(replace(REPORT, outcome=RunOutcome.SUCCESS)))
    metrics.observe(RunEnded(REPORT))
    assert samples(metrics)["icekeeper_last_success_timestamp_seconds"] == REPORT.finished_at.timestamp()


def test_a_report_as_a_document_has_the_promised_names() -> None:
    document = json.loads(json.dumps(report_document(REPORT)))
    assert list(document) == [
        "run_id", "slot", "trigger", "outcome", "started_at", "finished_at", "duration_s", "settings_hash", "tasks",
        "audits",
    ]  # fmt: skip
    assert (document["slot"], document["duration_s"]) == ("2026-02-18T02:00:00Z", 240.0)
    first = document["tasks"][0]
    for key in ("stage", "table", "outcome", "reason", "attempts", "duration_s", "before", "after", "error"):
        assert key in first
    assert set(first["before"]) == {
        "data_files", "small_files", "bytes", "records", "delete_files", "manifests", "snapshots", "snapshot_id",
    }  # fmt: skip
    assert document["audits"][0]["missing_hours"] == [
        {"start": "2026-02-17T06:00:00Z", "clickhouse": 100, "iceberg": 0}
    ]


def test_the_cron_line_gives_the_slots() -> None:
    calendar = Schedule(cron="0 2 * * *", timezone="Europe/Berlin").calendar()
    assert calendar.next_slot(datetime(2026, 2, 17, 12, tzinfo=UTC)) == datetime(2026, 2, 18, 1, tzinfo=UTC)
    assert calendar.next_slot(datetime(2026, 2, 18, 1, tzinfo=UTC)) == datetime(2026, 2, 19, 1, tzinfo=UTC)
    weekly = Schedule(cron="0 2 * * sun", timezone="UTC").calendar()
    assert weekly.next_slot(SLOT) == datetime(2026, 2, 22, 2, tzinfo=UTC)


def test_the_lock_admits_one_and_is_free_again_afterwards(tmp_path: Path) -> None:
    with run_lock(tmp_path), pytest.raises(RunLockHeld, match="another run is under way"), run_lock(tmp_path):
        pass
    with run_lock(tmp_path):
        pass


def test_a_person_sees_what_changed_what_failed_and_what_to_do() -> None:
    screen = Console(record=True, width=140, file=io.StringIO())
    console.show_report(screen, REPORT)
    shown = screen.export_text()
    for said in ("960 → 1", "13.4 MiB → 8.6 MiB", "missing_data", "storage_down", Reason.STORAGE_DOWN.advice, "failed"):
        assert said in shown
