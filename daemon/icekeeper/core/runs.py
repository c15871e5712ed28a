"""A run's records: how it begins, how each of its tasks ended, and the report of the whole."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.state import TableHealth

_FAILING = frozenset({AuditStatus.MISSING_DATA, AuditStatus.ERROR})


@dataclass(frozen=True, slots=True)
class StageResult:
    """How one task ended. `before` and `after` are None where the table could not be read (and for an audit).

    `engine_log`: the last lines of Spark's log during the task, if it failed.
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
    """A run as it begins; the ledger's row until the run is closed."""

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
    """A run that ended: the record that ledger, metrics, API and `--json` are made from."""

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


def outcome_of(tasks: Iterable[StageResult], audits: Iterable[AuditStatus]) -> RunOutcome:
    """The outcome of a run that was not stopped. Tasks that were held or skipped never lower it."""
    tasks = tuple(tasks)
    failed = [task for task in tasks if task.outcome is TaskOutcome.FAILED]
    audit_ran = any(task.stage is Stage.AUDIT for task in tasks)
    if audit_ran:
        if any(status in _FAILING for status in audits) or any(task.stage is Stage.AUDIT for task in failed):
            return RunOutcome.FAILED
        return RunOutcome.PARTIAL if failed else RunOutcome.SUCCESS
    if not failed:
        return RunOutcome.SUCCESS
    return RunOutcome.FAILED if len(failed) == len(tasks) else RunOutcome.PARTIAL
