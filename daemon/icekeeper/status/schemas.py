"""The API's schemas of the daemon's status, of tables, plans, settings and errors. Those of runs: run_schemas.py."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, datetime
from typing import Any
from uuid import UUID

from pydantic import ConfigDict, Field

from icekeeper.core.audit.days import PastAudit
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.status.audit_schemas import Document, Number
from icekeeper.status.run_schemas import Health, LastNight, RunUnderWay


class Pause(Document):
    by: str
    host: str
    since: datetime | None
    until: datetime | None = Field(description="null: until it is ended")
    note: str


class Hold(Document):
    """A stage of a table that somebody put on hold."""

    hold_id: UUID
    table: str
    stage: str = Field(description="compact, expire or audit")
    note: str
    by: str
    host: str
    at: datetime
    until: datetime | None = Field(description="Exclusive; null: without end.")
    released_at: datetime | None = Field(default=None, description="null: in force, or until its end.")
    released_by: str | None = None
    released_host: str | None = None


class Holds(Document):
    items: tuple[Hold, ...]

    @classmethod
    def of(cls, holds: Iterable[OperatorHold]) -> Holds:
        return cls(items=tuple(map(Hold.model_validate, holds)))


class Trouble(Document):
    """Something that needs attention. `severity`: `warning` or `error`."""

    severity: str
    text: str
    advice: str
    link: str | None = Field(default=None, description="The page that shows more of it.")


class Status(Document):
    """Is everything all right? `state`: `ok`, `warning` or `error`."""

    state: str
    troubles: tuple[Trouble, ...]
    version: str
    host: str
    leading: bool
    mode: str
    settings_hash: str
    now: datetime
    next_slot: datetime | None
    pause: Pause | None
    run: RunUnderWay | None
    last_run: LastNight | None = Field(description="null: none is known")
    parts: dict[str, str] = Field(examples=[{"engine": "up", "ledger": "up"}])
    open_findings: dict[str, int] = Field(
        description="By table: days that lack rows or could not be counted; empty until PostgreSQL was read."
    )
    holds: tuple[Hold, ...] = Field(default=(), description="Those of operators that are in force.")
    spool_records: int = Field(description="Records that PostgreSQL does not have yet.")


class LastAudit(Document):
    """The counts of a table's newest audited day; both are null where one could not be counted."""

    run_timestamp: datetime
    window_start: datetime
    ch_row_count: int | None
    iceberg_row_count: int | None
    delta: int | None
    status: str

    @classmethod
    def of(cls, audit: PastAudit) -> LastAudit:
        counted = audit.clickhouse is not None and audit.iceberg is not None
        return cls(
            run_timestamp=audit.at,
            window_start=audit.day,
            ch_row_count=audit.clickhouse,
            iceberg_row_count=audit.iceberg,
            delta=(audit.iceberg or 0) - (audit.clickhouse or 0) if counted else None,
            status=audit.status,
        )


class TableSummary(Document):
    """A configured table as the last runs left it."""

    name: str
    source: str | None
    layer: str
    health: Health | None
    audit: LastAudit | None
    open_findings: int | None = Field(description="Days; null: PostgreSQL was not read yet.")
    holds: tuple[Hold, ...] = Field(default=(), description="Those of operators that are in force.")
    newest_certified_day: date | None = Field(default=None, description="Whatever is with the days before it.")


class Tables(Document):
    items: tuple[TableSummary, ...]


class HealthPoint(Document):
    """A table's health after a run."""

    run_id: UUID
    slot: datetime
    at: datetime
    health: Health


class AuditPoint(Document):
    """An audit of a window."""

    run_id: UUID
    window_start: datetime
    window_end: datetime
    ch_row_count: int | None
    iceberg_row_count: int | None
    delta: int | None
    delta_pct: Number | None
    status: str
    reason: str | None


class TableTask(Document):
    """A task of a run on the table."""

    run_id: UUID
    slot: datetime
    stage: str
    outcome: str
    reason: str | None
    started_at: datetime
    duration_s: float


class Table(TableSummary):
    """A table with its past, oldest first: its last 100 tasks; of more than 366 healths or audits every second, third
    and so on from the newest back, and all audits that were not ok.
    """

    healths: tuple[HealthPoint, ...]
    audits: tuple[AuditPoint, ...]
    tasks: tuple[TableTask, ...]


class PlannedSlice(Document):
    """A slice of a compaction: it is committed and verified by itself. No partitions: any of the table's."""

    partitions: tuple[str, ...]
    files: int
    bytes: int
    output_files: int
    may_grow: bool
    max_files: int | None
    how: str = Field(description="binpack, spread, copy or sort")
    at_once: int | None = Field(default=None, description="How many of its groups of files are rewritten at a time.")
    planned_at: int | None = Field(default=None, description="The snapshot that it was planned on.")
    spec_id: int | None = Field(default=None, description="The partition spec that it was planned for.")


class PlannedWindow(Document):
    """What an audit would count."""

    start: datetime
    end: datetime = Field(description="exclusive")


class PlannedRepair(Document):
    """What a repair of a finding would do, or why it does nothing: docs/audit.md."""

    finding_id: str
    start: datetime
    end: datetime = Field(description="exclusive")
    rows: int = Field(description="How many are missing, by the audit.")
    key: tuple[str, ...] = Field(description="The columns that tell which rows Iceberg has already.")
    rows_to_read: int | None = Field(description="What ClickHouse holds of that time; null: it was not asked.")
    columns: tuple[str, ...] = Field(description="Columns that ClickHouse fills.")
    left_null: tuple[str, ...] = Field(description="Columns that ClickHouse does not have.")
    final: bool = Field(description="Whether ClickHouse merges rows as they are read.")
    refusal: str | None = Field(description="Why it is not repaired; null: it is.")
    note: str


class TablePlan(Document):
    """What a task would do now, and why. `decision`: act, skip or hold."""

    stage: str
    table: str
    decision: str
    reason: str | None
    note: str
    slices: tuple[PlannedSlice, ...] = Field(default=(), description="Where it compacts.")
    snapshot_ids: tuple[int, ...] = Field(default=(), description="Where it expires: these.")
    window: PlannedWindow | None = Field(default=None, description="Where it audits.")
    repairs: tuple[PlannedRepair, ...] = Field(default=(), description="Where it brings rows back.")
    health: Health | None = Field(default=None, description="The table as it was planned for.")
    warning: str = Field(default="", description="What an operator should know of it beforehand.")


class Plan(Document):
    """A plan, and an error for every table that could not be read."""

    slot: datetime
    made_at: datetime
    plans: tuple[TablePlan, ...]
    errors: dict[str, str]


class Config(Document):
    """The configuration in force, its secrets hidden."""

    settings_hash: str
    settings: dict[str, Any]


class Reloaded(Document):
    """A reload of the configuration, and what it changed."""

    load_id: UUID
    at: datetime
    host: str
    by: str
    settings_hash: str
    changes: tuple[str, ...]


class Accepted(Document):
    """A rewrite that was accepted: the tags that are removed; none where none was there."""

    table: str
    tags: tuple[str, ...]


class Ordered(Document):
    """A run that was begun or cancelled."""

    run_id: UUID


class Problem(Document):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
