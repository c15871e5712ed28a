"""How long ClickHouse keeps a table's rows, by the TTL clause of its definition: pure reading. Judges nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from icekeeper.core.audit.records import SourceTtl

# Days at least and at most: months and years differ.
_UNIT_DAYS: dict[str, tuple[float, float]] = {
    "second": (1 / 86400, 1 / 86400),
    "minute": (1 / 1440, 1 / 1440),
    "hour": (1 / 24, 1 / 24),
    "day": (1, 1),
    "week": (7, 7),
    "month": (28, 31),
    "quarter": (90, 92),
    "year": (365, 366),
}
# Functions of an instant that keep it, and those that round it down, by how much at most.
_SAME = {"todatetime", "todatetime32", "todatetime64", "cast", "assumenotnull", "tonullable", "totimezone"}
_SAME |= {"fromunixtimestamp", *(f"fromunixtimestamp64{unit}" for unit in ("second", "milli", "micro", "nano"))}
_ROUNDING = {
    "tostartofminute": timedelta(minutes=1),
    "tostartofhour": timedelta(hours=1),
    "todate": timedelta(days=1),
    "todate32": timedelta(days=1),
    "tostartofday": timedelta(days=1),
    "tomonday": timedelta(days=7),
    "tostartofweek": timedelta(days=7),
    "tostartofmonth": timedelta(days=31),
}
_WORD = re.compile(r"'(?:\\.|''|[^'\\])*'|`(?:\\.|``|[^`\\])*`|\"(?:\\.|\"\"|[^\"\\])*\"|[\w.]+|\S")
# What follows the expression of a rule and says what the rule does; without one of these it deletes.
_ACTIONS = ("DELETE", "WHERE", "TO", "RECOMPRESS", "GROUP")


class UnknownTtlError(ValueError):
    """The definition does not say how long the rows live."""


def ttl_of(definition: str) -> SourceTtl | None:
    """How long a table's rows live; None where nothing deletes them by age.

    `definition` is `engine_full` of system.tables, which begins with the engine. Of several rules the first to delete
    counts, also one that deletes only some rows; those that move, recompress or sum up rows are none. UnknownTtlError
    where a rule is not understood, or the engine has no TTL of its own (it may forward to tables that have one).
    """
    words = _WORD.findall(definition)
    if not words:
        raise UnknownTtlError("its definition can't be read")
    if not words[0].endswith("MergeTree"):
        raise UnknownTtlError(f"a {words[0]} has none of its own")
    found = [ttl for rule in _rules(_clause(words)) if (ttl := _deletion(rule)) is not None]
    return min(found, key=lambda ttl: (ttl.least, ttl.most), default=None)


def ttl_if_known(definition: str) -> SourceTtl | None:
    """The TTL for judging a count: where it is unknown the window is judged as if there were none; doctor says so."""
    try:
        return ttl_of(definition)
    except UnknownTtlError:
        return None


def _at_top(words: Sequence[str]) -> Iterator[tuple[int, str]]:
    """The words outside of brackets, with their places."""
    depth = 0
    for index, word in enumerate(words):
        depth -= word in (")", "]")
        if depth == 0:
            yield index, word
        depth += word in ("(", "[")


def _clause(words: Sequence[str]) -> Sequence[str]:
    """What stands between TTL and SETTINGS; empty where there is no TTL."""
    begins = [index for index, word in _at_top(words) if word == "TTL" and words[index - 1] != "BY"]
    if not begins:
        return ()
    rest = words[begins[-1] + 1 :]
    return rest[: next((index for index, word in _at_top(rest) if word == "SETTINGS"), len(rest))]


def _rules(clause: Sequence[str]) -> list[Sequence[str]]:
    commas = [index for index, word in _at_top(clause) if word == ","]
    rules: list[Sequence[str]] = []
    for start, end in zip([-1, *commas], [*commas, len(clause)], strict=True):
        part = clause[start + 1 : end]
        # The commas of GROUP BY a, b SET c = max(c), d = min(d) separate no rules.
        if rules and _action(rules[-1])[0] == "GROUP" and not _is_rule(part):
            rules[-1] = [*rules[-1], ",", *part]
        elif part:
            rules.append(part)
    return rules


def _is_rule(words: Sequence[str]) -> bool:
    top = {word for _, word in _at_top(words)}
    return not top & {"=", "SET"} and any(word.lower().startswith(("tointerval", "add")) for word in words)


def _action(rule: Sequence[str]) -> tuple[str, int]:
    """What the rule does, and where its expression ends."""
    return next(((word, index) for index, word in _at_top(rule) if word in _ACTIONS), ("DELETE", len(rule)))


def _deletion(rule: Sequence[str]) -> SourceTtl | None:
    """The rule's TTL; None where it deletes nothing."""
    action, end = _action(rule)
    if action not in ("DELETE", "WHERE"):
        return None
    text = " ".join(rule[:end])
    value = _Expression(list(rule[:end])).value(text)
    if value.column is None or value.least <= timedelta(0):
        raise UnknownTtlError(f"its rule is not understood: {text}")
    every_row = "WHERE" not in {word for _, word in _at_top(rule)}
    return SourceTtl(value.least, value.most, value.column, every_row)


@dataclass(frozen=True, slots=True)
class _Value:
    """An interval, or an instant so long after a column's: at least and at most."""

    least: timedelta
    most: timedelta
    column: str | None = None


class _Expression:
    """A recursive reader of `column + toIntervalDay(7)` and its like; it consumes the words."""

    def __init__(self, words: list[str]) -> None:
        self._words = words

    def value(self, text: str) -> _Value:
        """The value of the whole expression; UnknownTtlError where it is not understood."""
        try:
            value = self._sum()
        except (IndexError, ValueError, OverflowError) as exc:
            raise UnknownTtlError(f"its rule is not understood: {text}") from exc
        if self._words:
            raise UnknownTtlError(f"its rule is not understood: {text}")
        return value

    def _sum(self) -> _Value:
        value = self._term()
        while self._words and self._words[0] in "+-":
            sign = 1 if self._words.pop(0) == "+" else -1
            value = _added(value, self._term(), sign)
        return value

    def _term(self) -> _Value:
        word = self._words.pop(0)
        if word == "(":
            value = self._sum()
            self._close()
            return value
        if word == "INTERVAL":
            number = self._number()
            return _interval(self._words.pop(0), number)
        if self._words and self._words[0] == "(":
            self._words.pop(0)
            return self._function(word.lower())
        if not re.match(r"[^\W\d]|[`\"]", word):
            raise ValueError(word)
        return _Value(timedelta(0), timedelta(0), word.strip('`"'))

    def _function(self, name: str) -> _Value:
        if name.startswith("tointerval"):
            value = _interval(name.removeprefix("tointerval"), self._number())
        elif name in ("plus", "minus"):
            value = self._sum()
            self._comma()
            value = _added(value, self._sum(), 1 if name == "plus" else -1)
        elif name.startswith("add"):
            value = self._sum()
            self._comma()
            value = _added(value, _interval(name.removeprefix("add"), self._number()), 1)
        elif name in _SAME or name in _ROUNDING:
            value = self._sum()
            if name == "cast" and self._words[1].startswith("'Date") and "Time" not in self._words[1]:
                name = "todate"
            value = replace(value, least=value.least - _ROUNDING.get(name, timedelta(0)))
            while self._words[0] == ",":
                del self._words[:2]  # a scale or a time zone
        else:
            raise ValueError(name)
        self._close()
        return value

    def _number(self) -> int:
        return int(self._words.pop(0).strip("'"))

    def _comma(self) -> None:
        if self._words.pop(0) != ",":
            raise ValueError("no comma")

    def _close(self) -> None:
        if self._words.pop(0) != ")":
            raise ValueError("no end of the brackets")


def _added(value: _Value, other: _Value, sign: int) -> _Value:
    if value.column is not None and other.column is not None:
        raise ValueError("two columns")
    least, most = (other.least, other.most) if sign > 0 else (-other.most, -other.least)
    return _Value(value.least + least, value.most + most, value.column or other.column)


def _interval(unit: str, number: int) -> _Value:
    days = _UNIT_DAYS.get(unit.lower().removesuffix("s"))
    if days is None:
        raise ValueError(unit)
    return _Value(timedelta(days=days[0] * number), timedelta(days=days[1] * number))
