"""The templates' filters: core/formats.py with the page's typography (narrow spaces, a true minus, a dash for None)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar

import yaml
from markupsafe import Markup, escape

from icekeeper.core import formats

_Value = TypeVar("_Value")

# It does not break a line, and is narrower than the space between two values.
_SPACE = "\N{NARROW NO-BREAK SPACE}"
_POWERS = ("", "k", "M", "G", "T", "P", "E")


def _spaced(write: Callable[[_Value, str], str]) -> Callable[[_Value | None], str]:
    def filtered(value: _Value | None) -> str:
        return "–" if value is None else write(value, _SPACE).replace("-", "−")

    return filtered


def _dated(write: Callable[[datetime], str]) -> Callable[[datetime | None], str]:
    return lambda value: "–" if value is None else write(value)


number = _spaced(formats.number)
signed = _spaced(formats.signed)
percent = _spaced(formats.percent)
size = _spaced(formats.size)
duration = _spaced(formats.duration)
instant = _dated(formats.minute)
second = _dated(formats.second)
machine = formats.iso_second


def brief(value: float) -> str:
    """Three digits of it: `1.25 M`."""
    power = 0
    while abs(value) >= (10_000 if power == 0 else 999.5) and power < len(_POWERS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.3g}{_SPACE}{_POWERS[power]}".replace("-", "−") if power else number(value)


def words(code: str | None) -> str:
    """A code in words: `missing_data` is `missing data`."""
    return (code or "").replace("_", " ")


def marked(text: str) -> Markup:
    """Text between backticks as code."""
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
