"""A night to test with: its opening, its report, an audit, and the samples of a scrape."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from icekeeper.core.audit.records import AuditResult, MissingHour
from icekeeper.core.enums import NIGHT, AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunOpening, RunReport, StageResult
from icekeeper.core.tables.state import TableHealth
from icekeeper.status.metrics import Metrics

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
OPENING = RunOpening(REPORT.run_id, SLOT, Trigger.SCHEDULE, SLOT, "0123456789abcdef", NIGHT, (TABLE,))


def samples(metrics: Metrics) -> dict[str, float]:
    lines = metrics.exposition().decode().splitlines()
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if line[0] != "#"}
