"""What templates can't work out by themselves: the calendar, the hours of a window, what comes first. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

from icekeeper.status import run_schemas, schemas

# What an operator has to see before everything else, in this order.
_URGENT = ("failed", "missing_data", "error", "held", "warning")


@dataclass(frozen=True, slots=True)
class Week:
    """Monday to Sunday, or to today; `month` where one begins in it, and the next label leaves room."""

    month: str
    days: tuple[Day, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the calendar; `night` is the one that is shown of it."""

    day: date
    night: run_schemas.Night | None

    @property
    def word(self) -> str:
        """Its outcome, `running`, or `none`."""
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
    """Whatever ran for a day later takes the place of what ran before; one that was interrupted says nothing of it."""
    stopped = night.outcome == "interrupted", other.outcome == "interrupted"
    return stopped == (False, True) or (stopped[0] == stopped[1] and night.started_at > other.started_at)


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour of an audited window; `missing` are the rows that Iceberg lacks of `clickhouse`, 0 for none."""

    start: datetime
    clickhouse: int
    missing: int


def hours(audit: run_schemas.Audit) -> tuple[Hour, ...]:
    """Every hour of the window; empty where it was not drilled down, or is longer than a week."""
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


# --- what comes first


def urgent_tasks(tasks: Iterable[run_schemas.Task]) -> tuple[run_schemas.Task, ...]:
    """What failed, what is held, then the rest in the order of the night."""
    return tuple(sorted(tasks, key=lambda task: _urgency(task.outcome)))


def urgent_audits(audits: Iterable[run_schemas.Audit]) -> tuple[run_schemas.Audit, ...]:
    """Missing data first; what is acknowledged needs nobody."""
    return tuple(sorted(audits, key=lambda audit: len(_URGENT) if audit.ack else _urgency(audit.status)))


def tally(words: Iterable[str]) -> Mapping[str, int]:
    """How many of each, the urgent ones first."""
    counted = Counter(words)
    return {word: counted[word] for word in sorted(counted, key=_urgency)}


def _urgency(word: str) -> int:
    return _URGENT.index(word) if word in _URGENT else len(_URGENT)


@dataclass(frozen=True, slots=True)
class TableNight:
    """What a run did with a table, by stage."""

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
    """The audits that found something or could not count, the newest first."""
    return tuple([audit for audit in reversed(table.audits) if audit.status != "ok"][:most])


def by_table(tasks: Iterable[run_schemas.TaskProgress]) -> Mapping[str, Mapping[str, run_schemas.TaskProgress]]:
    """The tasks of a run under way by table and stage, in the order of the night."""
    found: dict[str, dict[str, run_schemas.TaskProgress]] = {}
    for task in tasks:
        found.setdefault(task.table, {})[task.stage] = task
    return found
