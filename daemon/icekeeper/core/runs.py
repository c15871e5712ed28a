"""A run's records: how it begins, how each of its tasks ended, and the report of the whole."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.state import TableHealth


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
