"""How values read in messages, on a terminal and on the page: numbers, sizes, durations, percentages, instants in UTC.

Not here: values as the configuration file writes them (10m, 128MiB; settings/values/units.py reads and writes those).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, time, timedelta

_SIZES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def number(value: float, space: str = " ") -> str:
    """`1 234 567`, rounded to a whole number; `space` separates thousands."""
    return f"{value:,.0f}".replace(",", space)


def signed(value: int, space: str = " ") -> str:
    """`+1 234`, `-1 234`, `0`."""
    return f"{value:+,}".replace(",", space) if value else "0"


def percent(value: float, space: str = " ") -> str:
    """`-8.33 %`; of what is less than a hundredth two digits, so that a small loss is not shown as none."""
    text = "0" if value == 0 else f"{value:+.2f}" if abs(value) >= 0.01 else f"{value:+.2g}"
    return f"{text}{space}%"


def size(value: float, space: str = " ") -> str:
    """Bytes to three digits in the unit that needs no more: `12.5 GiB`."""
    unit = 0
    while abs(value) >= 999.5 and unit < len(_SIZES) - 1:
        value, unit = value / 1024, unit + 1
    digits = f"{value:.3g}" if unit else f"{value:.0f}"
    return f"{digits}{space}{_SIZES[unit]}"


def duration(seconds: float, space: str = " ") -> str:
    """`2 d 3 h`, `2 h 5 min`, `3 min 20 s`, `3 min`, `4.2 s`, `30 ms`."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}{space}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}{space}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{space}s"
    if whole < 3600:
        return _two_units(whole // 60, "min", whole % 60, "s", space)
    hours, minutes = divmod(whole // 60, 60)
    if hours < 48:
        return _two_units(hours, "h", minutes, "min", space)
    return _two_units(hours // 24, "d", hours % 24, "h", space)


def _two_units(large: int, unit: str, small: int, smaller: str, space: str) -> str:
    return f"{large}{space}{unit}" + (f" {small}{space}{smaller}" if small else "")


def minute(instant: datetime) -> str:
    """`2026-02-18 02:00`, for columns whose heading or page says UTC."""
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M}"


def minute_utc(instant: datetime) -> str:
    """`2026-02-18 02:00 UTC`, for sentences."""
    return f"{minute(instant)} UTC"


def second(instant: datetime) -> str:
    """`2026-02-18 02:00:17`."""
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def iso_minute(instant: datetime) -> str:
    """`2026-02-18T02:00Z`, as `--slot` and `--until` take it."""
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%MZ}"


def iso_second(instant: datetime) -> str:
    """`2026-02-18T02:00:17Z`."""
    return f"{instant.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def counted(count: int, thing: str, things: str | None = None) -> str:
    """`1 table`, `2 tables`; `things` where the plural takes more than an s."""
    return f"{count} {thing if count == 1 else things or f'{thing}s'}"


def listed(names: Iterable[str], most: int = 4) -> str:
    """Names in a sentence, not more than `most` of them: `a, b and 3 more`."""
    names = tuple(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def span(start: datetime, end: datetime) -> str:
    """A half-open span of time: `02-17 10:15-10:30`, `02-17 23:00-24:00`, `02-17 23:45-02-18 00:15`."""
    first, last = start.astimezone(UTC), end.astimezone(UTC)
    if last.date() == first.date():
        return f"{first:%m-%d %H:%M}-{last:%H:%M}"
    if last == datetime.combine(first.date() + timedelta(days=1), time(), UTC):
        return f"{first:%m-%d %H:%M}-24:00"
    return f"{first:%m-%d %H:%M}-{last:%m-%d %H:%M}"
