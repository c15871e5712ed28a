"""How long ClickHouse keeps a table's rows, by the TTL clause of its definition: pure reading. Judges nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta

# Days at least and at most: months and years differ.
_UNIT_DAYS = {
    "Second": (1 / 86400, 1 / 86400),
    "Minute": (1 / 1440, 1 / 1440),
    "Hour": (1 / 24, 1 / 24),
    "Day": (1, 1),
    "Week": (7, 7),
    "Month": (28, 31),
    "Quarter": (90, 92),
    "Year": (365, 366),
}
_INTERVAL = re.compile(r"toInterval(\w+?)\((\d+)\)|INTERVAL (\d+) (\w+)", re.IGNORECASE)
_MOVES = re.compile(r"\b(TO DISK|TO VOLUME|RECOMPRESS|GROUP BY)\b")
_TTL = re.compile(r"\bTTL (.+?)(?= SETTINGS |$)", re.DOTALL)


def ttl_of(definition: str) -> tuple[timedelta, timedelta] | None:
    """How long a table's rows live, at least and at most (months differ); None where nothing deletes them.

    `definition` is engine_full of system.tables. Of several rules the first to delete counts; those that move,
    recompress or sum up rows are none.
    """
    found = _TTL.search(definition)
    if found is None:
        return None
    spans = []
    for rule in _rules(found[1]):
        if _MOVES.search(rule):
            continue
        least = most = timedelta(0)
        for function_unit, function_number, number, plain_unit in _INTERVAL.findall(rule):
            unit = (function_unit or plain_unit).rstrip("s").capitalize()
            count = int(function_number or number)
            if unit not in _UNIT_DAYS:
                return None
            shortest, longest = _UNIT_DAYS[unit]
            least, most = least + timedelta(days=shortest * count), most + timedelta(days=longest * count)
        if most:
            spans.append((least, most))
    return min(spans, default=None)


def _rules(text: str) -> Sequence[str]:
    """The rules of a TTL clause: split at commas outside of brackets."""
    rules, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == "," and depth == 0:
            rules.append(text[start:index])
            start = index + 1
    return [*rules, text[start:]]
