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
    """A run as it begins; the ledger's row until the run is closed. `actor`: who ordered a manual run."""

    run_id: UUID
    slot: datetime
    trigger: Trigger
    started_at: datetime
    settings_hash: str
    stages: tuple[Stage, ...]
    tables: tuple[str, ...]
    host: str = ""
    actor: str | None = None


@dataclass(frozen=True, slots=True)
class OlderDays:
    """How many older days, of all tables, a run has audited again; those `left_alone` keep the verdicts they have.

    `not_audited`: those that it did not come to; `reason` says why.
    """

    audited: int = 0
    left_alone: int = 0
    not_audited: int = 0
    reason: Reason | None = None

    def __str__(self) -> str:
        """`older days: 4 audited again, 1 left alone, 2 not audited (budget)`."""
        alone = f", {self.left_alone} left alone" if self.left_alone else ""
        rest = f", {self.not_audited} not audited ({self.reason})" if self.not_audited else ""
        return f"older days: {self.audited} audited again{alone}{rest}"


@dataclass(frozen=True, slots=True)
class RunReport:
    """A run that ended: the record that ledger, metrics, API and `--json` are made from.

    `older_days` None: it was to audit none again.
    """

    run_id: UUID
    slot: datetime
    trigger: Trigger
    outcome: RunOutcome
    started_at: datetime
    finished_at: datetime
    settings_hash: str
    tasks: tuple[StageResult, ...]
    audits: tuple[AuditResult, ...]
    older_days: OlderDays | None = None

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
