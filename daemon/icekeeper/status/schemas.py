"""What the API answers, field by field: its OpenAPI document is made of these. Instants are ISO 8601 in UTC.

Words such as outcomes are plain strings here: a row may be of a newer icekeeper's, on another host. What the same words
mean: core/enums.py and core/reasons.py.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Number = Annotated[float, BeforeValidator(float)]


class Document(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class Health(Document):
    """What a table looks like by its metadata."""

    data_files: int
    small_files: int = Field(description="Data files under 75 % of the target size.")
    bytes: int
    records: int
    delete_files: int
    manifests: int
    snapshots: int
    snapshot_id: int | None = Field(description="The current snapshot; null where the table has none yet.")


class Task(Document):
    """One stage on one table."""

    stage: str = Field(examples=["compact"])
    table: str
    outcome: str = Field(description="done, skipped, held or failed")
    reason: str | None
    advice: str | None = Field(default=None, description="What the reason advises.")
    note: str
    attempts: int
    started_at: datetime
    duration_s: float
    before: Health | None
    after: Health | None
    error: str | None
    engine_log: str | None = Field(default=None, description="What Spark logged meanwhile, if the task failed.")


class MissingHour(Document):
    """An hour in which Iceberg holds fewer rows than ClickHouse."""

    start: datetime
    clickhouse: int
    iceberg: int


class Acknowledgement(Document):
    """Who closed a finding, and why."""

    by: str
    host: str
    at: datetime
    note: str


class Audit(Document):
    """A row of maintenance_audit_log."""

    iceberg_table: str
    ch_source: str
    layer: str
    run_timestamp: datetime
    audit_window_hours: int
    window_start: datetime
    window_end: datetime = Field(description="exclusive")
    ch_row_count: int | None
    iceberg_row_count: int | None
    delta: int | None = Field(description="iceberg_row_count - ch_row_count")
    delta_pct: Number | None
    status: str = Field(description="ok, warning, missing_data or error")
    reason: str | None
    advice: str | None = Field(default=None, description="What the reason advises.")
    notes: str | None
    snapshot_id: int | None
    ch_query: str | None
    iceberg_query: str | None
    ch_final: bool | None
    watermark: datetime | None
    missing_hours: tuple[MissingHour, ...]
    ack: Acknowledgement | None = None


class RunHead(Document):
    """A run, without what it did. `outcome` null: it is under way."""

    run_id: UUID
    slot: datetime
    trigger: str = Field(description="schedule, catch_up, resume or manual")
    outcome: str | None = Field(description="success, partial, failed, interrupted, cancelled or missed")
    started_at: datetime
    finished_at: datetime | None
    duration_s: float | None
    settings_hash: str
    stages: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    host: str | None = None


class RunSummary(RunHead):
    """A run with what its tasks and audits came to, as numbers of them."""

    tasks_done: int
    tasks_skipped: int
    tasks_held: int
    tasks_failed: int
    audits_ok: int
    audits_warning: int
    audits_missing_data: int
    audits_error: int


class Run(RunHead):
    """A run with all it did."""

    tasks: tuple[Task, ...]
    audits: tuple[Audit, ...]


class RunPage(Document):
    """Runs, newest first. `next` is what `after` takes for the page behind; null on the last one."""

    items: tuple[RunSummary, ...]
    next: str | None


class LogLine(Document):
    """A line of a run's log. `fields` is what belongs to the event."""

    line_no: int
    timestamp: str
    level: str
    event: str
    fields: dict[str, Any]


class LogPage(Document):
    """Lines in their order. `next` is what `after` takes for those behind; null where there are none yet."""

    items: tuple[LogLine, ...]
    next: int | None


class Night(Document):
    """How a slot was answered."""

    slot: datetime
    run_id: UUID
    trigger: str
    outcome: str | None
    started_at: datetime
    duration_s: float | None


class Nights(Document):
    items: tuple[Night, ...]


class TaskInHand(Document):
    stage: str
    table: str
    since: datetime
    note: str


class StageProgress(Document):
    """How far a stage of a run is: numbers of its tasks."""

    stage: str
    ended: int
    failed: int
    of: int


class TaskProgress(Document):
    """A task of a run under way. `state`: waiting, in_hand, or its outcome."""

    stage: str
    table: str
    state: str
    reason: str | None = None
    elapsed_s: float | None = None
    usual_s: float | None = Field(description="What it usually takes where there is something to do; null: unknown.")


class RunUnderWay(Document):
    """A run that is under way."""

    run_id: UUID
    slot: datetime
    trigger: str
    started_at: datetime
    elapsed_s: float
    left_s: float | None = Field(description="How long it is likely to take still, by earlier runs; null: unknown.")
    in_hand: TaskInHand | None
    stages: tuple[StageProgress, ...]
    tasks: tuple[TaskProgress, ...]


class LastNight(Document):
    """The last run that answered for a night."""

    run_id: UUID
    slot: datetime
    outcome: str
    started_at: datetime
    finished_at: datetime
    duration_s: float


class Pause(Document):
    by: str
    host: str
    since: datetime | None
    until: datetime | None = Field(description="null: until somebody ends it")
    note: str


class Trouble(Document):
    """Something that is not as it should be. `severity`: `warning` or `error`."""

    severity: str
    text: str
    advice: str
    link: str | None = Field(default=None, description="The page that shows more of it.")


class Status(Document):
    """Is everything all right, in one glance. `state`: `ok`, `warning` or `error`."""

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
        description="By table: days that lack rows or could not be counted; empty until PostgreSQL has said."
    )
    spool_records: int = Field(description="Records that PostgreSQL does not have yet.")


class LastAudit(Document):
    """What was counted of a table's newest audited day; both counts are null where one could not be had."""

    run_timestamp: datetime
    window_start: datetime
    ch_row_count: int | None
    iceberg_row_count: int | None
    delta: int | None
    status: str


class TableSummary(Document):
    """A configured table as it was last seen."""

    name: str
    source: str | None
    layer: str
    health: Health | None
    audit: LastAudit | None
    open_findings: int | None = Field(description="Days; null: PostgreSQL has not said yet.")


class Tables(Document):
    items: tuple[TableSummary, ...]


class HealthPoint(Document):
    """A table after a run had worked on it."""

    run_id: UUID
    slot: datetime
    at: datetime
    health: Health


class AuditPoint(Document):
    """What an audit said of a window."""

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
    """What a run did with the table."""

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


class TablePlan(Document):
    """What a task would do now, and why. `decision`: act, skip or hold."""

    stage: str
    table: str
    decision: str
    reason: str | None
    note: str


class Plan(Document):
    """PlanCache's plan, and an error for every table that could not be read."""

    slot: datetime
    made_at: datetime
    plans: tuple[TablePlan, ...]
    errors: dict[str, str]


class Config(Document):
    """The configuration in force, its secrets hidden."""

    settings_hash: str
    settings: dict[str, Any]


class Reloaded(Document):
    """A reading of the configuration, and what it changed."""

    load_id: UUID
    at: datetime
    host: str
    by: str
    settings_hash: str
    changes: tuple[str, ...]


class Ordered(Document):
    """A run that was begun, or asked to end."""

    run_id: UUID


class Problem(Document):
    """A problem document (RFC 9457)."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
