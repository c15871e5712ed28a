"""Records to test with: policies, snapshots and states with sensible values for what a test does not care about."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from icekeeper.core.audit.source import Source
from icekeeper.core.enums import Proof, Stage, TaskOutcome
from icekeeper.core.policy import AuditPolicy, CompactPolicy, ExpirePolicy, SourceTtlSetting, StageLimits, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult
from icekeeper.core.tables.state import Ref, Snapshot, TableHealth, TableState
from icekeeper.status.gauges import DaemonState
from icekeeper.status.metrics import Metrics

MIB = 1024**2
DAY = timedelta(days=1)
HOUR = timedelta(hours=1)

SLOT = datetime(2026, 2, 18, 2, tzinfo=UTC)
WINDOW_START = datetime(2026, 2, 17, tzinfo=UTC)

COMPACT_LIMITS = StageLimits(timedelta(seconds=600), retries=1, retry_delay=timedelta(seconds=120))
EXPIRE_LIMITS = StageLimits(timedelta(seconds=300), retries=1, retry_delay=timedelta(seconds=60))
AUDIT_LIMITS = StageLimits(timedelta(seconds=600), retries=1, retry_delay=timedelta(seconds=120))


def audit_policy(
    warning: str = "1", missing: str = "5", final: bool | None = None, proof: Proof = Proof.MANIFESTS
) -> AuditPolicy:
    return AuditPolicy(AUDIT_LIMITS, Decimal(warning), Decimal(missing), final, proof)


def table_policy(
    name: str = "cold.bronze_trades_binance",
    *,
    compact: CompactPolicy | None = None,
    expire: ExpirePolicy | None = None,
    audit: AuditPolicy | None = audit_policy(),  # noqa: B008 - frozen, so it may be shared
    source_ttl: SourceTtlSetting = timedelta(days=7),
) -> TablePolicy:
    """A bronze table; its source has the table's own name without the namespace. `audit=None`: it has no source."""
    return TablePolicy(
        name=name,
        source=Source((name.partition(".")[2],), "exchange_timestamp") if audit else None,
        timestamp="exchange_timestamp",
        layer="bronze",
        source_ttl=source_ttl,
        compact=compact or CompactPolicy(COMPACT_LIMITS),
        expire=expire or ExpirePolicy(EXPIRE_LIMITS),
        audit=audit,
    )


def health(
    data_files: int = 10, small_files: int = 10, size: int = 10 * MIB, snapshots: int = 1, snapshot_id: int | None = 1
) -> TableHealth:
    return TableHealth(
        data_files=data_files,
        small_files=small_files,
        bytes=size,
        records=1000,
        delete_files=0,
        manifests=1,
        snapshots=snapshots,
        snapshot_id=snapshot_id,
    )


def snapshot(number: int, age: timedelta, parent: int | None = None, now: datetime = SLOT) -> Snapshot:
    """A snapshot committed `age` before `now`."""
    return Snapshot(number, parent, now - age, "append")


def chain(ages: Sequence[timedelta], first: int = 1, parent: int | None = None) -> list[Snapshot]:
    """Snapshots each of which is the parent of the next, numbered from `first`."""
    made: list[Snapshot] = []
    for number, age in enumerate(ages, start=first):
        made.append(snapshot(number, age, parent))
        parent = number
    return made


def main_at(
    snapshot_id: int,
    *,
    max_ref_age: timedelta | None = None,
    max_snapshot_age: timedelta | None = None,
    min_snapshots_to_keep: int | None = None,
) -> Ref:
    return Ref("main", "branch", snapshot_id, max_ref_age, max_snapshot_age, min_snapshots_to_keep)


def state(history: Iterable[Snapshot], refs: Iterable[Ref], *, gc_enabled: bool = True) -> TableState:
    history = tuple(history)
    current = next((ref.snapshot_id for ref in refs if ref.name == "main"), None)
    return TableState(
        table="cold.bronze_trades_binance",
        health=health(snapshots=len(history), snapshot_id=current),
        history=history,
        refs=tuple(refs),
        gc_enabled=gc_enabled,
    )


def result(
    outcome: TaskOutcome, stage: Stage = Stage.COMPACT, table: str = "cold.a", reason: Reason | None = None
) -> StageResult:
    return StageResult(
        stage=stage, table=table, outcome=outcome, reason=reason, note="", attempts=1, started_at=SLOT, duration_s=1.0
    )


def daemon_metrics(
    state: Callable[[], DaemonState] = DaemonState, enabled: Callable[[], Iterable[str]] = tuple[str, ...]
) -> Metrics:
    """The metrics of a daemon that is as `state` says."""
    metrics = Metrics(enabled)
    metrics.add_gauges(state)
    return metrics
