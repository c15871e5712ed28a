"""Data derived for the templates: the calendar, the hours of a window, urgent entries first. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from icekeeper.status import audit_schemas, run_schemas, schemas

# Outcomes and statuses that come first, in this order.
_URGENT = ("failed", "missing_data", "error", "held", "warning")


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


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour of an audited window; `missing` is the number of ClickHouse's rows that Iceberg lacks."""

    start: datetime
    clickhouse: int
    missing: int


def hours(audit: audit_schemas.Audit) -> tuple[Hour, ...]:
    """Every hour of the window; empty where hours were not counted, or the window is longer than a week."""
    lacking = {hour.start: hour for hour in audit.missing_hours}
    if not lacking or audit.audit_window_hours > 168:
        return ()
    starts = [audit.window_start + timedelta(hours=each) for each in range(audit.audit_window_hours)]
    return tuple(
        Hour(start, lacking[start].clickhouse, lacking[start].clickhouse - lacking[start].iceberg)
        if start in lacking
        else Hour(start, 0, 0)
        for start in starts
    )


# --- urgent entries first


def urgent_tasks(tasks: Iterable[run_schemas.Task]) -> tuple[run_schemas.Task, ...]:
    """Failed tasks, held ones, then the rest in the order of the night."""
    return tuple(sorted(tasks, key=lambda task: _urgency(task.outcome)))


def urgent_audits(audits: Iterable[audit_schemas.Audit]) -> tuple[audit_schemas.Audit, ...]:
    """Missing data first, acknowledged findings last."""
    return tuple(sorted(audits, key=lambda audit: len(_URGENT) if audit.ack else _urgency(audit.status)))


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
