"""Rows of the ledger as documents and as records of the core. How records become rows: store.py.

A newer icekeeper on another host may have written a row: a value that this version doesn't know is left out alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, TypeVar

import structlog

from icekeeper.adapters.records import from_plain
from icekeeper.core.audit.records import AuditResult, BadFile, Explanation, FileFault, Finding, FindingKind
from icekeeper.core.calendar import Window
from icekeeper.core.enums import Proof, RunOutcome, Stage
from icekeeper.core.history import PastRun
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult

log = structlog.get_logger(__name__)

Value = TypeVar("Value", bound=StrEnum)


def task_document(row: Any) -> dict[str, Any]:
    """A row of tasks.sql, its keys as in the report."""
    return {**dict(row), "before": _loaded(row["before"]), "after": _loaded(row["after"])}


def audit_document(row: Any) -> dict[str, Any]:
    """A row of audits.sql, its keys as in the report."""
    hours = _loaded(row["missing_hours"]) or []
    return {
        **dict(row),
        "missing_hours": [{**hour, "start": datetime.fromisoformat(hour["start"])} for hour in hours],
        "bad_files": _loaded(row["bad_files"]) or [],
        "key_comparison": _loaded(row["key_comparison"]),
        "findings": _loaded(row["findings"]) or [],
    }


Place = tuple[str, Window]


def place_of(row: Mapping[str, Any]) -> Place:
    """Which table, and which time of it, a row is about."""
    return row["iceberg_table"], Window(row["window_start"], row["window_end"])


def marked_run(row: Mapping[str, Any], acks: Mapping[Place, Any], certified: Mapping[Place, Any]) -> dict[str, Any]:
    """A run whose audits say who acknowledged them, and by what their day is certified."""

    def marked(audit: Mapping[str, Any]) -> dict[str, Any]:
        return {**audit, "ack": acks.get(place_of(audit)), "certified": certified.get(place_of(audit))}

    return {**row, "audits": [marked(audit) for audit in row["audits"]]}


def past_run(row: Any, tasks: Iterable[Any], audits: Iterable[Any]) -> PastRun:
    """A row of past_runs.sql with its rows of tasks.sql and audits.sql."""
    at = known(Stage, row["in_flight_stage"])
    return from_plain(
        PastRun,
        {
            **dict(row),
            # An outcome that this version doesn't know is still an end.
            "outcome": row["outcome"] and (known(RunOutcome, row["outcome"]) or RunOutcome.FAILED),
            "stages": [stage for stage in row["stages"] if known(Stage, stage)],
            "tasks": [_result(task) for task in tasks if known(Stage, task["stage"])],
            "audits": [past_audit(audit) for audit in audits],
            "in_flight": None if at is None else (at, row["in_flight_table"]),
        },
    )


def _result(row: Any) -> StageResult:
    return from_plain(StageResult, {**task_document(row), "reason": as_reason(row["reason"])})


def past_audit(row: Any) -> AuditResult:
    """A row of audits.sql."""
    codes = {"reason": as_reason(row["reason"]), "proof": known(Proof, row["proof"])}
    document = {**audit_document(row), **codes, "bad_files": as_bad_files(row["bad_files"])}
    return from_plain(AuditResult, {**document, "findings": as_findings(row["findings"])})


def known_audit(row: Any) -> AuditResult | None:
    """The same; None, and a line in the log, where this version doesn't understand it."""
    try:
        return past_audit(row)
    except ValueError as exc:  # of a newer icekeeper, or edited by hand: the others are no worse for it
        log.warning("audit_not_understood", about=str(row["run_id"]), table=row["iceberg_table"], error=str(exc))
        return None


def as_findings(column: str | None) -> tuple[Finding, ...]:
    """The findings in a column `findings`, without those of a kind that this version does not know."""
    return tuple(
        from_plain(Finding, {**one, "explanation": known(Explanation, one["explanation"])})
        for one in _loaded(column) or []
        if known(FindingKind, one["kind"])
    )


def as_bad_files(column: str | None) -> tuple[BadFile, ...]:
    """The files in a column `bad_files`; none where this version does not know what is wrong with one of them."""
    files = _loaded(column) or []
    if not all(known(FileFault, one["fault"]) for one in files):
        return ()
    return tuple(from_plain(BadFile, one) for one in files)


def as_reason(value: str | None) -> Reason | None:
    """The reason of that code; `unexpected` for one that this version doesn't know."""
    return None if value is None else known(Reason, value) or Reason.UNEXPECTED


def known(kind: type[Value], value: str | None) -> Value | None:
    """The member of that value; None where this version has none."""
    return next((member for member in kind if member.value == value), None)


def _loaded(text: str | None) -> Any:
    return None if text is None else json.loads(text)
