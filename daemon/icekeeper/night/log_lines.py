"""What a run logs of each of its tasks, and of the whole."""

from __future__ import annotations

from collections import Counter

import structlog

from icekeeper.core.enums import TaskOutcome
from icekeeper.core.runs import RunReport, StageResult

log = structlog.get_logger(__name__)


def log_task(result: StageResult) -> None:
    level = log.error if result.outcome is TaskOutcome.FAILED else log.info
    level(
        "task_done",
        outcome=result.outcome,
        reason=result.reason,
        note=result.note,
        attempts=result.attempts,
        duration_s=round(result.duration_s, 3),
        error=result.error,
    )


def outcome_counts(report: RunReport) -> dict[str, int]:
    """How many tasks and audits had which outcome, for the run's summary line."""
    counts = Counter(task.outcome.value for task in report.tasks)
    counts.update(f"audit_{audit.status}" if audit.decides else "audit_no_worse" for audit in report.audits)
    return dict(counts)
