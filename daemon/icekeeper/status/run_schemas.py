"""The API's schemas of runs: their tasks, logs and progress. Those of their audits: audit_schemas.py; of the daemon
and of tables: schemas.py.

Enumerations such as outcomes are plain strings: a row may have been written by a newer icekeeper on another host.
What the words mean: core/enums.py and core/reasons.py. Instants are ISO 8601 in UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from pydantic import Field

from icekeeper.status.audit_schemas import Audit, Document, SnapshotIdText


class Health(SnapshotIdText):
    """The health of a table by its metadata."""

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
    advice: str | None = Field(default=None, description="The reason's advice.")
    note: str
    attempts: int
    started_at: datetime
    duration_s: float
    before: Health | None
    after: Health | None
    error: str | None
    engine_log: str | None = Field(default=None, description="Spark's log of that time, if the task failed.")


class RunHead(Document):
    """A run without its tasks and audits. `outcome` null: it is under way."""

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
    installation: str | None = Field(
        default=None, description="Whose run it is; null of a run that the ledger has not taken yet."
    )
    actor: str | None = Field(
        default=None, description="Who ordered it, of a manual run; null where that is not known."
    )


class RunSummary(RunHead):
    """A run with its numbers of tasks and audits by outcome."""

    tasks_done: int
    tasks_skipped: int
    tasks_held: int
    tasks_failed: int
    audits_ok: int
    audits_warning: int
    audits_missing_data: int
    audits_error: int


class OlderDays(Document):
    """How many older days a run has audited again. Those `left_alone` keep their verdicts."""

    audited: int
    left_alone: int
    not_audited: int
    reason: str | None = Field(description="Why some were not audited.")


class Run(RunHead):
    """A run with its tasks and audits."""

    older_days: OlderDays | None = Field(default=None, description="null: none was to be audited again.")

    tasks: tuple[Task, ...]
    audits: tuple[Audit, ...]


class RunPage(Document):
    """Runs, newest first. `next` is what `after` takes for the page behind; null on the last one."""

    items: tuple[RunSummary, ...]
    next: str | None


class LogLine(Document):
    """A line of a run's log. `fields` are the event's."""

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
    """The run that answered for a slot."""

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
    """The progress of a stage, as numbers of tasks."""

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
    usual_s: float | None = Field(description="Its typical duration where there is something to do; null: unknown.")


class RunUnderWay(Document):
    """A run that is under way."""

    run_id: UUID
    slot: datetime
    trigger: str
    started_at: datetime
    elapsed_s: float
    left_s: float | None = Field(description="The estimated remaining time, by earlier runs; null: unknown.")
    in_hand: TaskInHand | None
    stages: tuple[StageProgress, ...]
    tasks: tuple[TaskProgress, ...]
    actor: str | None = Field(default=None, description="Who ordered it; null where that is not known.")


class LastNight(Document):
    """The last run that answered for a night."""

    run_id: UUID
    slot: datetime
    outcome: str
    started_at: datetime
    finished_at: datetime
    duration_s: float
