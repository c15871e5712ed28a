"""Data derived for the templates: the calendar, what an audit found by hour and kind, urgent entries first. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from icekeeper.core.audit.records import FindingKind
from icekeeper.core.formats import listed, span
from icekeeper.status import audit_schemas, run_schemas, schemas

# Outcomes and statuses that come first, in this order.
_URGENT = ("failed", "missing_data", "error", "held", "warning")
_HOUR = timedelta(hours=1)
# How many findings of a kind are named by their times in one sentence.
_MOST_TIMES = 6


@dataclass(frozen=True, slots=True)
class Week:
    """Monday to Sunday, or to today. `month` is its label, where a month begins and the next label has room."""

    month: str
    days: tuple[Day, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the calendar, and the night that is shown for it."""

    day: date
    night: run_schemas.Night | None

    @property
    def word(self) -> str:
        """The outcome, `running`, or `none`."""
        if self.night is None:
            return "none"
        return self.night.outcome or "running"


def calendar(nights: Iterable[run_schemas.Night], today: date, days: int) -> tuple[Week, ...]:
    """The weeks of the last days, the oldest first."""
    by_day: dict[date, run_schemas.Night] = {}
    for night in nights:
        day = night.slot.astimezone(UTC).date()
        if day not in by_day or _supersedes(night, by_day[day]):
            by_day[day] = night
    first = today - timedelta(days=days - 1)
    monday = first - timedelta(days=first.weekday())
    weeks: list[Week] = []
    while monday <= today:
        span = [day for day in (monday + timedelta(days=each) for each in range(7)) if day <= today]
        begins = next((day for day in span if day.day == 1), None)
        month = f"{begins or monday:%b}" if begins is not None or not weeks else ""
        weeks.append(Week(month, tuple(Day(day, by_day.get(day)) for day in span)))
        monday += timedelta(days=7)
    if len(weeks) > 1 and weeks[1].month:
        weeks[0] = Week("", weeks[0].days)
    return tuple(weeks)


def _supersedes(night: run_schemas.Night, other: run_schemas.Night) -> bool:
    """Whether `night` replaces `other` of the same day: the later start does, an interrupted run never."""
    stopped = night.outcome == "interrupted", other.outcome == "interrupted"
    return stopped == (False, True) or (stopped[0] == stopped[1] and night.started_at > other.started_at)


# --- what an audit found


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour of an audited window, and for each kind of finding in it the times of those findings."""

    start: datetime
    found: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Group:
    """The findings of one kind that the same explains, in the order of time."""

    kind: str
    explanation: str | None
    advice: str | None
    findings: tuple[audit_schemas.Finding, ...]

    @property
    def rows(self) -> int:
        return sum(finding.rows for finding in self.findings)

    @property
    def evidence(self) -> str:
        """What all of them rest on; empty where that differs."""
        first, *others = {finding.evidence for finding in self.findings}
        return "" if others else first


def hours(audit: audit_schemas.Audit) -> tuple[Hour, ...]:
    """Every hour of the window; empty where nothing was found, or the window is longer than a week."""
    found = _findings(audit)
    if not found or audit.window_end - audit.window_start > timedelta(days=7):
        return ()
    first = audit.window_start.replace(minute=0, second=0, microsecond=0)
    starts = [first + each * _HOUR for each in range(math.ceil((audit.window_end - first) / _HOUR))]
    return tuple(
        Hour(start, _times(audit, [each for each in found if each.start < start + _HOUR and each.end > start]))
        for start in starts
    )


def times(audit: audit_schemas.Audit) -> Mapping[str, str]:
    """When something was found, by its kind."""
    return _times(audit, _findings(audit))


def groups(audit: audit_schemas.Audit) -> tuple[Group, ...]:
    """An audit's findings by kind and explanation, in the order in which the audit has them."""
    found: dict[tuple[str, str | None], list[audit_schemas.Finding]] = {}
    for finding in _findings(audit):
        found.setdefault((finding.kind, finding.explanation), []).append(finding)
    return tuple(Group(*key, of_key[0].advice, tuple(of_key)) for key, of_key in found.items())


def when(audit: audit_schemas.Audit, finding: audit_schemas.Finding) -> str:
    """The time of a finding, without its day where the window has only one."""
    text = span(finding.start, finding.end)
    if audit.window_end - audit.window_start > timedelta(days=1):
        return text
    return text.removeprefix(f"{audit.window_start.astimezone(UTC):%m-%d} ")


def key(audit: audit_schemas.Audit, values: Sequence[str | None]) -> str:
    """A key with the names of its columns: `symbol=BTC, sequence_number=17`."""
    names = audit.key_comparison.columns if audit.key_comparison else ()
    texts = ["NULL" if value is None else value for value in values]
    named = [f"{name}={text}" for name, text in zip(names, texts, strict=False)]
    return ", ".join((*named, *texts[len(named) :]))


def _findings(audit: audit_schemas.Audit) -> tuple[audit_schemas.Finding, ...]:
    """The audit's findings; of an icekeeper that had none yet, the hours that lack rows."""
    return audit.findings or tuple(
        audit_schemas.Finding(
            kind=FindingKind.MISSING,
            start=hour.start,
            end=hour.start + _HOUR,
            rows=hour.clickhouse - hour.iceberg,
            clickhouse=hour.clickhouse,
            iceberg=hour.iceberg,
            explanation=None,
            evidence="",
            sample_keys=(),
            files=(),
        )
        for hour in audit.missing_hours
    )


def _times(audit: audit_schemas.Audit, found: Iterable[audit_schemas.Finding]) -> Mapping[str, str]:
    by_kind: dict[str, list[audit_schemas.Finding]] = {}
    for finding in found:
        by_kind.setdefault(finding.kind, []).append(finding)
    return {
        kind: listed((when(audit, each) for each in sorted(of_kind, key=lambda each: each.start)), most=_MOST_TIMES)
        for kind, of_kind in by_kind.items()
    }


# --- urgent entries first


def urgent_tasks(tasks: Iterable[run_schemas.Task]) -> tuple[run_schemas.Task, ...]:
    """Failed tasks, held ones, then the rest in the order of the night."""
    return tuple(sorted(tasks, key=lambda task: _urgency(task.outcome)))


def urgent_audits(audits: Iterable[audit_schemas.Audit]) -> tuple[audit_schemas.Audit, ...]:
    """Missing data first; acknowledged findings, and older days that are no worse, last."""
    settled = len(_URGENT)
    return tuple(
        sorted(audits, key=lambda audit: settled if audit.ack or audit.worse is False else _urgency(audit.status))
    )


def tally(words: Iterable[str]) -> Mapping[str, int]:
    """The count of each, urgent ones first."""
    counted = Counter(words)
    return {word: counted[word] for word in sorted(counted, key=_urgency)}


def _urgency(word: str) -> int:
    return _URGENT.index(word) if word in _URGENT else len(_URGENT)


@dataclass(frozen=True, slots=True)
class TableNight:
    """A run's tasks on one table, by stage."""

    run_id: UUID
    slot: datetime
    tasks: Mapping[str, schemas.TableTask]


def nights_of(table: schemas.Table, most: int) -> tuple[TableNight, ...]:
    """The newest first."""
    found: dict[UUID, dict[str, schemas.TableTask]] = {}
    for task in reversed(table.tasks):
        if task.run_id not in found and len(found) == most:
            break
        found.setdefault(task.run_id, {})[task.stage] = task
    return tuple(TableNight(run_id, next(iter(by.values())).slot, by) for run_id, by in found.items())


def unclean(table: schemas.Table, most: int) -> tuple[schemas.AuditPoint, ...]:
    """The audits whose status is not `ok`, the newest first."""
    return tuple([audit for audit in reversed(table.audits) if audit.status != "ok"][:most])


def by_table(tasks: Iterable[run_schemas.TaskProgress]) -> Mapping[str, Mapping[str, run_schemas.TaskProgress]]:
    """The tasks of a run under way by table and stage, in the order of the night."""
    found: dict[str, dict[str, run_schemas.TaskProgress]] = {}
    for task in tasks:
        found.setdefault(task.table, {})[task.stage] = task
    return found
