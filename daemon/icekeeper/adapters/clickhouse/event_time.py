"""The event time of a source in ClickHouse's SQL, as its settings say it is stored. Pure; counting: counting.py."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta
from statistics import median

from icekeeper.core.audit.source import Source, TimestampAs
from icekeeper.core.calendar import Window

# What may be in a column, by its type in ClickHouse. A comparison with another type finds no row, and is no error.
_FITTING: tuple[tuple[str, tuple[TimestampAs | None, ...]], ...] = (
    (r"DateTime", (None,)),
    (r"Date(32)?\b", (None, "date")),
    (r"U?Int\d|Float|BFloat|Decimal", ("epoch_s", "epoch_ms", "epoch_us")),
    (r"String", ("text",)),
)
_WRAPPED = r"(?:Nullable\(|LowCardinality\()*"

_PER_SECOND = {"epoch_s": 1, "epoch_ms": 1000, "epoch_us": 1_000_000}
# Smaller numbers, and so the times before 1973, don't show their unit; from `least` on it is this one.
_UNSHOWN = 10**8
_UNITS: tuple[tuple[float, TimestampAs], ...] = ((0, "epoch_s"), (1e11, "epoch_ms"), (1e14, "epoch_us"))
_NANOSECONDS = 1e17

# A date, or a date and time with or without a zone (else UTC). What ClickHouse reads beside it is a guess: of 10:20 it
# makes this year's first day, of 25:00 the next day.
_ISO_8601 = (
    "^(19|2[012])[0-9][0-9]-[0-9][0-9]-[0-9][0-9]([T ]([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9]([.][0-9]+)?)?"
    " ?(Z|UTC|GMT|[+-][0-9][0-9]:?[0-9][0-9])?)?$"
)


def quoted(identifier: str) -> str:
    """An identifier for ClickHouse SQL; backslash and backtick inside are escaped."""
    return "`" + identifier.replace("\\", "\\\\").replace("`", "\\`") + "`"


def within(source: Source) -> str:
    """The condition on rows of a window, which `bounds` binds. A sorting key is used, but of text."""
    kind, value = _parameter(source), _value(source)
    return f"{value} >= {{low:{kind}}} AND {value} < {{high:{kind}}}"


def bounds(source: Source, window: Window) -> dict[str, datetime | date | int]:
    """The parameters of `within`."""
    return {"low": _bound(source, window.start), "high": _bound(source, window.end)}


def written_out(query: str, source: Source, window: Window) -> str:
    """A query with the parameters of `within` as literals, so that anyone can run it again."""
    for name, value in bounds(source, window).items():
        if isinstance(value, datetime):
            literal = f"toDateTime64('{value.replace(tzinfo=None).isoformat(' ')}', 6, 'UTC')"
        else:
            literal = f"toDate('{value}')" if isinstance(value, date) else str(value)
        query = query.replace(f"{{{name}:{_parameter(source)}}}", literal)
    return query


def minute(source: Source) -> str:
    """The start of the minute of a row, in seconds of the epoch, before it, too."""
    at = micros(source)
    return f"(intDiv({at}, 60000000) - ({at} % 60000000 < 0)) * 60"


def newest(source: Source) -> str:
    """The newest event time, in microseconds of the epoch; NULL where there is none."""
    return _micros(source, f"maxOrNull({_value(source)})")


def micros(source: Source) -> str:
    """The event time of a row, in microseconds of the epoch."""
    return _micros(source, _value(source))


def instant_micros(instant: str) -> str:
    """A date or an instant, in microseconds of the epoch."""
    return f"toUnixTimestamp64Micro(toDateTime64({instant}, 6, 'UTC'))"


def _micros(source: Source, value: str) -> str:
    # As a float a microsecond of our days is exact to a quarter, and no decimal overflows.
    if (per_second := _PER_SECOND.get(source.timestamp_as or "")) is not None:
        return f"toInt64(toFloat64({value}) * {1_000_000 // per_second})"
    return instant_micros(value)


def unreadable(source: Source) -> str:
    """The condition on texts that are no date and time."""
    column = quoted(source.timestamp)
    return f"NOT match({column}, '{_ISO_8601}') OR isNull(parseDateTime64BestEffortOrNull({column}, 6, 'UTC'))"


def is_day(kind: str) -> bool:
    """Whether a column of this type knows days only, so that windows have to be whole days."""
    return re.match(rf"{_WRAPPED}Date(32)?\b", kind) is not None


def is_epoch(source: Source) -> bool:
    """Whether the event time is said to be a number, whose unit its values show."""
    return source.timestamp_as in _PER_SECOND


def misfit(source: Source, kind: str, sample: Iterable[float]) -> str | None:
    """Why values of this type can't be compared with a window as the settings say, and what to write; None: they can.

    `sample`: values of the column where they are numbers; they may not show their unit.
    """
    fitting = next((fits for pattern, fits in _FITTING if re.match(_WRAPPED + pattern, kind)), ())
    if source.timestamp_as in fitting:
        return None
    what = "compared with instants" if source.timestamp_as is None else f"read as {source.timestamp_as}"
    text = f"the event time {source.timestamp} is {kind}, which can't be {what}"
    if not fitting:
        return f"{text}: name a column of another type in source.timestamp, or a view that converts it"
    if None in fitting:
        return f"{text}: leave source.timestamp_as out"
    return f"{text}: {_advice(source, *_shown(sample, fitting))}"


def wrong_unit(source: Source, sample: Iterable[float]) -> str | None:
    """Why epochs are of another unit than the settings say, and what to write; None where they don't show it."""
    if not is_epoch(source) or not (sample := [value for value in sample if value > _UNSHOWN]):
        return None
    value = median(sample)
    unit = _unit(value)
    if unit == source.timestamp_as:
        return None
    text = f"the event time {source.timestamp} holds values like {value:.0f}, which are no {source.timestamp_as}"
    return f"{text}: {_advice(source, *(() if unit is None else (unit,)))}"


def _value(source: Source) -> str:
    column = quoted(source.timestamp)
    if source.timestamp_as != "text":
        return column
    # An empty text can't be parsed: the query fails. Rows without a time or that are not offloaded are in no window.
    outside = f"ifNull(NOT ({source.where}), 1) OR isNull({column})" if source.where else f"isNull({column})"
    text = f"multiIf({outside}, '1900-01-01', match({column}, '{_ISO_8601}'), {column}, '')"
    return f"parseDateTime64BestEffort(assumeNotNull({text}), 6, 'UTC')"


def _parameter(source: Source) -> str:
    # Typed: an instant compares the same in whatever time zone the column, the session or the server is.
    if source.timestamp_as in _PER_SECOND:
        return "Int64"
    return "Date" if source.timestamp_as == "date" else "DateTime64(6,'UTC')"


def _bound(source: Source, instant: datetime) -> datetime | date | int:
    if (per_second := _PER_SECOND.get(source.timestamp_as or "")) is not None:
        # Rounded up: of whole numbers those from 1.2 on, and those below 1.2, are the same as from and below 2.
        return -((datetime.fromtimestamp(0, UTC) - instant) // timedelta(microseconds=1_000_000 // per_second))
    return instant.astimezone(UTC).date() if source.timestamp_as == "date" else instant


def _unit(value: float) -> TimestampAs | None:
    return None if value >= _NANOSECONDS else next(unit for least, unit in reversed(_UNITS) if value >= least)


def _shown(sample: Iterable[float], fitting: tuple[TimestampAs | None, ...]) -> tuple[TimestampAs, ...]:
    """Of the ways in which the column may be stored the one that its values show, else all."""
    values = [value for value in sample if value > _UNSHOWN]
    if values and "epoch_s" in fitting:
        unit = _unit(median(values))
        return () if unit is None else (unit,)
    return tuple(way for way in fitting if way is not None)


def _advice(source: Source, *ways: TimestampAs) -> str:
    if not ways:
        return "nanoseconds are read from a view that divides them by 1000, with timestamp_as: epoch_us"
    names = ", ".join(source.tables)
    tables = f"tables: [{names}]" if source.tables[1:] else f"table: {names}"
    others = f" (or {', '.join(ways[1:])})" if ways[1:] else ""
    return f"write source: {{{tables}, timestamp_as: {ways[0]}}}{others}"
