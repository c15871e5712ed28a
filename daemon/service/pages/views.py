"""What templates can't work out by themselves: the calendar, the hours of a window, a table's charts. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from daemon.service import documents
from daemon.service.pages.filters import duration, number, signed, size

# The worst first: a day shows the worst of its nights.
_WORST = ("failed", "missed", "partial", "interrupted", "cancelled", "success")

# A chart's drawing, in its own units, and how many gridlines it has at most.
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 400, 150, 56, 20, 8


@dataclass(frozen=True, slots=True)
class Week:
    """Monday to Sunday, or to today; `month` where one begins in it."""

    month: str
    days: tuple[Day, ...]


@dataclass(frozen=True, slots=True)
class Day:
    """A day of the calendar; `night` is the one that is shown of it."""

    day: date
    night: documents.Night | None

    @property
    def word(self) -> str:
        """Its outcome, `running`, or `none`."""
        if self.night is None:
            return "none"
        return self.night.outcome or "running"


def calendar(nights: Iterable[documents.Night], today: date, days: int) -> tuple[Week, ...]:
    """The weeks of the last days, the oldest first."""
    by_day: dict[date, documents.Night] = {}
    for night in nights:
        day = night.slot.astimezone(UTC).date()
        if day not in by_day or _rank(night) < _rank(by_day[day]):
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
    return tuple(weeks)


def _rank(night: documents.Night) -> int:
    return _WORST.index(night.outcome) if night.outcome in _WORST else -1


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour of an audited window; `missing` are the rows that Iceberg lacks of `clickhouse`, 0 for none."""

    start: datetime
    clickhouse: int
    missing: int


def hours(audit: documents.Audit) -> tuple[Hour, ...]:
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


# --- charts


@dataclass(frozen=True, slots=True)
class Point:
    x: float
    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: tuple[Point, ...]

    @property
    def path(self) -> str:
        """As SVG's polyline takes it."""
        return " ".join(f"{point.x:.1f},{point.y:.1f}" for point in self.points)


@dataclass(frozen=True, slots=True)
class Tick:
    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines over time; positions are in the drawing's units, from its upper left corner."""

    title: str
    lines: tuple[Line, ...]
    levels: tuple[Tick, ...]
    days: tuple[Tick, ...]

    @property
    def empty(self) -> bool:
        return not any(line.points for line in self.lines)


Sample = tuple[datetime, float]


def charts(table: documents.Table, since: datetime, until: datetime) -> tuple[Chart, ...]:
    """What became of a table: files, small files, bytes, snapshots, rows on both sides, and their difference."""

    def health(pick: Callable[[documents.Health], int]) -> list[Sample]:
        return [(point.at, pick(point.health)) for point in table.healths]

    counted = [audit for audit in table.audits if audit.delta is not None]
    sides = {
        "ClickHouse": [(audit.window_start, float(audit.ch_row_count or 0)) for audit in counted],
        "Iceberg": [(audit.window_start, float(audit.iceberg_row_count or 0)) for audit in counted],
    }
    difference = {"difference": [(audit.window_start, float(audit.delta or 0)) for audit in counted]}
    files = {"all": health(lambda one: one.data_files), "small": health(lambda one: one.small_files)}
    drawn = [
        _chart("Data files", files, since, until, number),
        _chart("Size", {"size": health(lambda one: one.bytes)}, since, until, size),
        _chart("Snapshots", {"snapshots": health(lambda one: one.snapshots)}, since, until, number),
        _chart("Rows of each day", sides, since, until, number),
        _chart("Iceberg's rows less ClickHouse's", difference, since, until, lambda value: signed(round(value))),
    ]
    return tuple(drawn)


def durations(nights: Iterable[documents.Night], since: datetime, until: datetime) -> Chart:
    """How long the nights took."""
    took = [(night.slot, night.duration_s) for night in nights if night.duration_s and night.slot >= since]
    return _chart("How long they took", {"": sorted(took)}, since, until, duration)


def _chart(
    title: str,
    series: dict[str, list[Sample]],
    since: datetime,
    until: datetime,
    shown: Callable[[float], str],
) -> Chart:
    values = [value for samples in series.values() for _, value in samples]
    low, high = min([0.0, *values]), max([0.0, *values])
    if low == high:
        high = low + 1
    span = (until - since).total_seconds() or 1.0

    def x(at: datetime) -> float:
        return LEFT + (WIDTH - LEFT - 8) * (at - since).total_seconds() / span

    def y(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (high - value) / (high - low)

    lines = tuple(
        Line(
            name,
            tuple(Point(x(at), y(value), f"{at:%Y-%m-%d}: {shown(value)} {name}".rstrip()) for at, value in samples),
        )
        for name, samples in series.items()
    )
    levels = tuple(Tick(y(value), shown(value)) for value in _levels(low, high))
    return Chart(title, lines, levels, _day_ticks(since, until, x))


def _levels(low: float, high: float) -> Sequence[float]:
    return (high, 0.0, low) if low < 0 < high else (high, (high + low) / 2, low)


def _day_ticks(since: datetime, until: datetime, x: Callable[[datetime], float]) -> tuple[Tick, ...]:
    step = (until - since) / 4
    return tuple(Tick(x(since + step * each), f"{since + step * each:%d %b}") for each in range(1, 4))
