"""Charts of numbers over time: the coordinates of lines, bars and gridlines. Pure; their style: static/style.css.

A drawing is WIDTH by HEIGHT units and is stretched to the space available; texts beside it keep their size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain

from icekeeper.pages.filters import brief, duration, number, signed, size
from icekeeper.status import run_schemas, schemas

WIDTH, HEIGHT = 1000, 120
# The most gridlines, and the most points that can still be pointed at.
_MOST_STEPS = 3
_MOST_SPOTS = 120
_MOST_DOTS = 40
# Of a longer span the ticks name the year.
_LONG = timedelta(days=200)

Sample = tuple[datetime, float]
Shown = Callable[[float], str]


@dataclass(frozen=True, slots=True)
class Line:
    """`last` is the text of its newest value."""

    name: str
    points: tuple[tuple[float, float], ...]
    last: str

    @property
    def path(self) -> str:
        """As SVG's polyline takes it."""
        return " ".join(f"{x:.1f},{y:.1f}" for x, y in self.points)

    @property
    def dots(self) -> str:
        """As SVG's path takes it; empty where the dots would run together."""
        return "".join(f"M{x:.1f},{y:.1f}h0" for x, y in self.points) if len(self.points) <= _MOST_DOTS else ""


@dataclass(frozen=True, slots=True)
class Bar:
    """`word` is the outcome, which decides its colour."""

    x: float
    y: float
    width: float
    height: float
    word: str
    text: str


@dataclass(frozen=True, slots=True)
class Spot:
    """A column of the drawing that shows its values when pointed at."""

    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class Level:
    """A gridline at `y` units from above."""

    y: float
    text: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A day below the drawing, `percent` of its width from the left."""

    percent: float
    text: str


@dataclass(frozen=True, slots=True)
class Chart:
    title: str
    lines: tuple[Line, ...]
    bars: tuple[Bar, ...]
    spots: tuple[Spot, ...]
    levels: tuple[Level, ...]
    ticks: tuple[Tick, ...]

    @property
    def empty(self) -> bool:
        return not self.bars and not any(line.points for line in self.lines)

    @property
    def label(self) -> str:
        """For screen readers: the title and the newest values."""
        newest = [self.bars[-1].text] if self.bars else [line.last for line in self.lines if line.points]
        return f"{self.title}. Newest: {'; '.join(newest)}"


def durations(nights: Iterable[run_schemas.Night], since: datetime, until: datetime) -> Chart:
    """The durations of nights, a bar each."""
    took = sorted((night.slot, night.duration_s, night.outcome) for night in nights if night.duration_s)
    shown = [(slot, length, outcome) for slot, length, outcome in took if slot >= since]
    scale = _Scale([length for _, length, _ in shown], since, until, duration, _spans)
    width = 0.7 * WIDTH / max(1.0, (until - since) / timedelta(days=1))
    bars = tuple(
        Bar(
            x=min(scale.x(slot), WIDTH - width),
            y=scale.y(length),
            width=width,
            height=HEIGHT - scale.y(length),
            word=outcome or "running",
            text=f"{slot:%a %d %b %Y}: {duration(length)}, {outcome}",
        )
        for slot, length, outcome in shown
    )
    return Chart("How long they took", (), bars, (), scale.levels, scale.ticks)


def of_table(table: schemas.Table, since: datetime, until: datetime) -> tuple[Chart, ...]:
    """A table's files, bytes, snapshots, rows on both sides and their difference, and the time spent on it."""

    def health(pick: Callable[[run_schemas.Health], int]) -> list[Sample]:
        return [(point.at, pick(point.health)) for point in table.healths]

    counted = [audit for audit in table.audits if audit.delta is not None]
    sides = {
        "ClickHouse": [(audit.window_start, float(audit.ch_row_count or 0)) for audit in counted],
        "Iceberg": [(audit.window_start, float(audit.iceberg_row_count or 0)) for audit in counted],
    }
    difference = {"": [(audit.window_start, float(audit.delta or 0)) for audit in counted]}
    files = {"all": health(lambda one: one.data_files), "small": health(lambda one: one.small_files)}
    took = {
        stage: [(task.started_at, task.duration_s) for task in table.tasks if task.stage == stage]
        for stage in ("compact", "expire")
    }
    return (
        _lines("Data files", files, since, until, number, _counts),
        _lines("Size", {"": health(lambda one: one.bytes)}, since, until, size, _sizes),
        _lines("Snapshots", {"": health(lambda one: one.snapshots)}, since, until, number, _counts),
        _lines("Rows of each day", sides, since, until, number, _counts),
        _lines("Iceberg's rows less ClickHouse's", difference, since, until, _signed, _counts),
        _lines("Time spent", took, since, until, duration, _spans),
    )


def _signed(value: float) -> str:
    return signed(round(value))


def _lines(
    title: str,
    series: Mapping[str, Sequence[Sample]],
    since: datetime,
    until: datetime,
    shown: Shown,
    steps: Callable[[], Iterator[float]],
) -> Chart:
    scale = _Scale([value for samples in series.values() for _, value in samples], since, until, shown, steps)
    lines = tuple(
        Line(
            name,
            tuple((scale.x(at), scale.y(value)) for at, value in samples),
            f"{shown(samples[-1][1])} {name}".rstrip() if samples else "",
        )
        for name, samples in series.items()
    )
    return Chart(title, lines, (), _spots(series, scale, shown), scale.levels, scale.ticks)


def _spots(series: Mapping[str, Sequence[Sample]], scale: _Scale, shown: Shown) -> tuple[Spot, ...]:
    texts: dict[datetime, list[str]] = {}
    for name, samples in series.items():
        for at, value in samples:
            texts.setdefault(at, []).append(f"{shown(value)} {name}".rstrip())
    if not texts or len(texts) > _MOST_SPOTS:
        return ()
    width = WIDTH / len(texts)
    return tuple(
        Spot(scale.x(at) - width / 2, width, f"{at:%Y-%m-%d}: {', '.join(values)}")
        for at, values in sorted(texts.items())
    )


class _Scale:
    """Instants and values as coordinates. The scale includes zero and ends at round numbers."""

    def __init__(
        self,
        values: Sequence[float],
        since: datetime,
        until: datetime,
        shown: Shown,
        steps: Callable[[], Iterator[float]],
    ) -> None:
        self._since = since
        self._span = until - since
        low, high = min([0.0, *values]), max([0.0, *values])
        step = next(step for step in steps() if _count(low, high, step) <= _MOST_STEPS)
        first, last = math.floor(low / step), max(math.ceil(high / step), 0)
        if first == last:
            last += 1
        self._low, self._high = first * step, last * step
        rounded = brief if shown in (number, _signed) else shown
        self.levels = tuple(
            Level(self.y(each * step), rounded(each * step) if each else "0") for each in range(first, last + 1)
        )
        form = "%b %Y" if self._span > _LONG else "%d %b"
        days = [(each / 4, since + self._span * each / 4) for each in (1, 2, 3)]
        self.ticks = tuple(Tick(100 * part, f"{at:{form}}") for part, at in days)

    def x(self, at: datetime) -> float:
        return WIDTH * ((at - self._since) / self._span)

    def y(self, value: float) -> float:
        return HEIGHT * (self._high - value) / (self._high - self._low)


def _count(low: float, high: float, step: float) -> int:
    return math.ceil(high / step) - math.floor(low / step)


def _counts() -> Iterator[float]:
    return (digit * 10.0**power for power in range(300) for digit in (1, 2, 5))


def _sizes() -> Iterator[float]:
    return (2.0**power for power in range(300))


def _spans() -> Iterator[float]:
    seconds = (0.001, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 30)
    longer = [minutes * 60.0 for minutes in (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1440)]
    return chain(seconds, longer, (86400.0 * 2**power for power in range(1, 300)))
