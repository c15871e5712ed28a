"""How values read on the page: numbers, sizes, durations, instants."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import yaml
from markupsafe import Markup, escape

# Set so that it neither breaks nor is mistaken for a separator of fields.
_THIN = "\N{NARROW NO-BREAK SPACE}"
_POWERS = ("", "k", "M", "G", "T", "P", "E")
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def number(value: float | None) -> str:
    """`1 234 567`; a dash for None."""
    return "–" if value is None else f"{value:,.0f}".replace(",", _THIN)


def signed(value: int | None) -> str:
    """Like `number`, with its sign."""
    return number(value) if not value else f"{value:+,}".replace(",", _THIN).replace("-", "−")


def brief(value: float) -> str:
    """Three digits of it: `1.25 M`."""
    power = 0
    while abs(value) >= (10_000 if power == 0 else 999.5) and power < len(_POWERS) - 1:
        value, power = value / 1000, power + 1
    return (f"{value:.3g}{_THIN}{_POWERS[power]}" if power else number(value)).replace("-", "−")


def percent(value: float | None) -> str:
    """`-8.33 %`; two digits of what is less than a hundredth."""
    if value is None:
        return "–"
    text = "0" if value == 0 else f"{value:+.2f}" if abs(value) >= 0.01 else f"{value:+.2g}"
    return f"{text}{_THIN}%".replace("-", "−")


def size(value: float | None) -> str:
    """Bytes in the unit that leaves at most three digits."""
    if value is None:
        return "–"
    unit = 0
    while abs(value) >= 999.5 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f}{_THIN}B" if unit == 0 else f"{value:.3g}{_THIN}{_UNITS[unit]}"


def duration(seconds: float | None) -> str:
    """`2 h 5 min`, `3 min 20 s`, `3 min`, `4.2 s`, `30 ms`."""
    if seconds is None:
        return "–"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}{_THIN}ms"
    if seconds < 9.95:
        return f"{seconds:.1f}{_THIN}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_THIN}s"
    if whole < 3600:
        return _two(whole // 60, "min", whole % 60, "s")
    hours, minutes = divmod(whole // 60, 60)
    if hours < 48:
        return _two(hours, "h", minutes, "min")
    return _two(hours // 24, "d", hours % 24, "h")


def _two(much: int, unit: str, more: int, smaller: str) -> str:
    return f"{much}{_THIN}{unit}" + (f" {more}{_THIN}{smaller}" if more else "")


def instant(value: datetime | None) -> str:
    """`2026-02-18 02:00`, UTC."""
    return "–" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M}"


def second(value: datetime | None) -> str:
    """`2026-02-18 02:00:17`, UTC."""
    return "–" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"


def machine(value: datetime) -> str:
    """As `<time datetime>` takes it."""
    return f"{value.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def words(code: str | None) -> str:
    """A code as people read it: `missing_data` is `missing data`."""
    return (code or "").replace("_", " ")


def marked(text: str) -> Markup:
    """What stands between backticks as code."""
    pieces = [escape(piece) for piece in text.split("`")]
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if number % 2 and number < len(pieces) - 1 else piece
        for number, piece in enumerate(pieces)
    )


def as_yaml(value: Any) -> str:
    """A document as the configuration file would have it."""
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=110)
    return text


FILTERS = {
    "number": number,
    "signed": signed,
    "percent": percent,
    "size": size,
    "duration": duration,
    "instant": instant,
    "second": second,
    "machine": machine,
    "words": words,
    "marked": marked,
    "as_yaml": as_yaml,
}
