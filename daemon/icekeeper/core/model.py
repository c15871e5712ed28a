"""The records that everything speaks in. All are frozen; all instants are aware UTC datetimes, all sizes bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Literal
from uuid import UUID

from icekeeper.core.reasons import Reason

# The word that marks a snapshot as made by a run: Iceberg keeps it in the snapshot's summary.
RUN_ID_PROPERTY = "icekeeper.run-id"


class Stage(StrEnum):
    """The stages of a night, in their order."""

    COMPACT = "compact"
    EXPIRE = "expire"
    AUDIT = "audit"


class Trigger(StrEnum):
    """What a run was started by."""

    SCHEDULE = "schedule"
    CATCH_UP = "catch_up"
    RESUME = "resume"
    MANUAL = "manual"


class TaskOutcome(StrEnum):
    """How a task ended: `skipped` had nothing to do, `held` had, but doing it now would have been wrong."""

    DONE = "done"
    SKIPPED = "skipped"
    HELD = "held"
    FAILED = "failed"


class RunOutcome(StrEnum):
    """How a run ended; docs/operations.md says what each means. Any but `interrupted` closes the slot."""

    SUCCESS = "success"
    PARTIAL = "partial"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"
    MISSED = "missed"


class AuditStatus(StrEnum):
    """The verdict of an audit."""

    OK = "ok"
    WARNING = "warning"
    MISSING_DATA = "missing_data"
    ERROR = "error"


class Decision(StrEnum):
    """What a plan says about its task."""

    ACT = "act"
    SKIP = "skip"
    HOLD = "hold"


# --- table


@dataclass(frozen=True, slots=True)
class TableHealth:
    """What a table looks like from metadata alone. `small_files` lie under Iceberg's 75 % of the target size."""

    data_files: int
    small_files: int
    bytes: int
    records: int
    delete_files: int
    manifests: int
    snapshots: int
    snapshot_id: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    id: int
    parent_id: int | None
    committed_at: datetime
    operation: str
    summary: Mapping[str, str] = field(default_factory=dict)

    def count(self, key: str) -> int:
        """A number of the summary, 0 where Iceberg leaves it out."""
        return int(self.summary.get(key, "0"))


@dataclass(frozen=True, slots=True)
class Ref:
    """A branch or a tag, with ages of its own where it has any (Iceberg spec, 'Snapshot References')."""

    name: str
    kind: Literal["branch", "tag"]
    snapshot_id: int
    max_ref_age: timedelta | None = None
    max_snapshot_age: timedelta | None = None
    min_snapshots_to_keep: int | None = None


@dataclass(frozen=True, slots=True)
class SmallFiles:
    """The small files of one partition, in bytes; of the whole table where it has had several specs."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TableState:
    """A table as one load of its metadata shows it: its health, its snapshots (oldest first) and its references.

    `small_files` has an entry for each partition that has some. `large_files` are over Iceberg's 180 % of the target
    size: its planner would split them. `deletes_unknown`: the current snapshot does not tell its delete files.
    """

    table: str
    health: TableHealth
    history: tuple[Snapshot, ...]
    refs: tuple[Ref, ...]
    gc_enabled: bool = True
    small_files: tuple[SmallFiles, ...] = ()
    large_files: int = 0
    deletes_unknown: bool = False

    def snapshot(self, snapshot_id: int | None) -> Snapshot | None:
        return next((s for s in self.history if s.id == snapshot_id), None)


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files of one partition that Iceberg's planner would rewrite together; `partition` is empty if there is none.

    `older_spec`: some may be of an older partition spec. They are rewritten under the current one, over as many of
    its partitions as they have rows for. `gains` is False where a rewrite would leave as many files of the same kind,
    and be asked for again every night.
    """

    partition: str
    files: int
    bytes: int
    output_files: int
    older_spec: bool = False
    gains: bool = True


# --- plans


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span of event time, [start, end), on whole hours."""

    start: datetime
    end: datetime

    @property
    def hours(self) -> int:
        return round((self.end - self.start).total_seconds() / 3600)

    def __str__(self) -> str:
        return f"[{self.start:%Y-%m-%dT%H:%MZ}, {self.end:%Y-%m-%dT%H:%MZ})"


class Rewrite(StrEnum):
    """How a slice is rewritten. `sort` orders its rows, `binpack` reads one file after another for each that it writes.

    `spread` writes what binpack would, of files that many tasks read at once.
    """

    BINPACK = "binpack"
    SORT = "sort"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class Slice:
    """A part of a compaction that is committed and verified by itself. No partitions: any of the table's.

    `may_grow`: it may make more files than it takes, by splitting large ones or moving them to another partition spec.
    `max_files`: it takes the next so many files, of a partition that has more than a slice should.
    """

    partitions: tuple[str, ...]
    files: int
    bytes: int
    output_files: int
    may_grow: bool = False
    max_files: int | None = None
    how: Rewrite = Rewrite.BINPACK


@dataclass(frozen=True, slots=True)
class Plan:
    """What a task would do and why: `slices` if it compacts, `snapshot_ids` if it expires, `window` if it audits."""

    stage: Stage
    table: str
    decision: Decision
    note: str
    reason: Reason | None = None
    slices: tuple[Slice, ...] = ()
    snapshot_ids: tuple[int, ...] = ()
    window: Window | None = None
    health: TableHealth | None = None


# --- results


@dataclass(frozen=True, slots=True)
class DeletedFiles:
    """What became of the files that nobody refers to any more after an expiry.

    `left` are those whose deletion failed, or that a look into the store still found; `example` is one of them.
    """

    files: int
    left: int = 0
    example: str | None = None


@dataclass(frozen=True, slots=True)
class StageResult:
    """How one task ended. `before` and `after` are None where the table could not be read (and for an audit).

    `engine_log` is what the engine said while it was under way, if it failed: the last lines.
    """

    stage: Stage
    table: str
    outcome: TaskOutcome
    reason: Reason | None
    note: str
    attempts: int
    started_at: datetime
    duration_s: float
    before: TableHealth | None = None
    after: TableHealth | None = None
    error: str | None = None
    engine_log: str | None = None


@dataclass(frozen=True, slots=True)
class SourceCount:
    """Rows of a window in ClickHouse, and how they were counted."""

    rows: int
    query: str
    final: bool


@dataclass(frozen=True, slots=True)
class LakehouseCount:
    """Rows of a window in Iceberg at one snapshot (None: the table has none yet), and how they were counted."""

    rows: int
    query: str
    snapshot_id: int | None


@dataclass(frozen=True, slots=True)
class Watermark:
    """How far the offload says it has come with a source."""

    at: datetime
    status: str


@dataclass(frozen=True, slots=True)
class MissingHour:
    """An hour of a window in which Iceberg holds fewer rows than ClickHouse."""

    start: datetime
    clickhouse: int
    iceberg: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the two counts mean. `delta` = iceberg - clickhouse; `delta_pct` is rounded for people, never judged by."""

    status: AuditStatus
    reason: Reason | None
    delta: int | None
    delta_pct: Decimal | None
    note: str


@dataclass(frozen=True, slots=True)
class AuditResult:
    """A row of `maintenance_audit_log`, column by column."""

    run_id: UUID
    slot: datetime
    trigger: Trigger
    run_timestamp: datetime
    iceberg_table: str
    ch_source: str
    layer: str
    audit_window_hours: int
    window_start: datetime
    window_end: datetime
    ch_row_count: int | None
    iceberg_row_count: int | None
    delta: int | None
    delta_pct: Decimal | None
    status: AuditStatus
    reason: Reason | None
    notes: str
    snapshot_id: int | None = None
    ch_query: str | None = None
    iceberg_query: str | None = None
    ch_final: bool | None = None
    watermark: datetime | None = None
    missing_hours: tuple[MissingHour, ...] = ()


@dataclass(frozen=True, slots=True)
class RunOpening:
    """A run as it begins: what the ledger knows of it until it is closed."""

    run_id: UUID
    slot: datetime
    trigger: Trigger
    started_at: datetime
    settings_hash: str
    stages: tuple[Stage, ...]
    tables: tuple[str, ...]
    host: str = ""


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run that ended: the one record that ledger, metrics, API and `--json` agree on."""

    run_id: UUID
    slot: datetime
    trigger: Trigger
    outcome: RunOutcome
    started_at: datetime
    finished_at: datetime
    settings_hash: str
    tasks: tuple[StageResult, ...]
    audits: tuple[AuditResult, ...]

    @property
    def duration_s(self) -> float:
        return (self.finished_at - self.started_at).total_seconds()
