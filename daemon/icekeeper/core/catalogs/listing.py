"""What a catalog lists, and which column of a table is its event time. How it is listed: adapters/iceberg/listing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from icekeeper.core.formats import listed

_MOST_NAMED = 5
_INSTANTS = ("timestamp", "date")
# Words of columns that are filled, or change, after a row has come: many rows have none.
_OF_A_STATE = ("delet", "remov", "expir", "updat", "modif", "chang", "cancel", "clos", "finish", "complet", "valid")
_OF_AN_END = frozenset({"end", "ends", "ended", "to", "until", "due"})
_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")


@dataclass(frozen=True, slots=True)
class ListedTable:
    """A table of the catalog. `columns`: those of the top level, with Iceberg's types; `by_time`: those by whose hour,
    day, month or year it is partitioned, the finest first."""

    name: str
    columns: Mapping[str, str]
    by_time: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """The tables of a catalog, and why others are left out, by the name of a table or a namespace."""

    tables: tuple[ListedTable, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EventTime:
    """The column that may tell when a row happened; None where none can be named. `is_sure`: a day's rows are those
    that it says, so that they can be counted by it without asking anyone."""

    column: str | None
    why: str
    is_sure: bool = False


def event_time(table: ListedTable) -> EventTime:
    """The column by whose day or hour the table is partitioned, else its only timestamp, which may be of anything."""
    instants = [name for name, type_ in table.columns.items() if type_.startswith("timestamp")]
    partitioned = [name for name in table.by_time if table.columns.get(name, "").startswith(_INSTANTS)]
    column = partitioned[0] if partitioned else instants[0] if len(instants) == 1 else None
    others = [name for name in instants if name != column]
    beside = f", beside {listed(others, _MOST_NAMED)}" if others else ""
    if column is None:
        named = listed(instants, _MOST_NAMED)
        return EventTime(None, f"several columns are timestamps: {named}" if instants else "it has no timestamp")
    if not _is_identifier(column):
        return EventTime(None, f"its timestamp {column!r} has a name that the settings do not take")
    if not partitioned:
        return EventTime(column, "its only timestamp, by which the table is not partitioned")
    if any(word.startswith(_OF_A_STATE) or word in _OF_AN_END for word in map(str.lower, _WORDS.findall(column))):
        return EventTime(column, f"the table is partitioned by it{beside}, but it sounds like a state of the row")
    return EventTime(column, f"the table is partitioned by it{beside}", is_sure=True)


def is_chosen(name: str, include: tuple[str, ...], exclude: tuple[str, ...]) -> bool:
    """Whether globs choose a table: any of `include`, all where that is empty, and none of `exclude`."""
    return (not include or any(fnmatchcase(name, glob) for glob in include)) and not any(
        fnmatchcase(name, glob) for glob in exclude
    )


def unfit_name(catalog: str, levels: tuple[str, ...]) -> str | None:
    """Why a table of these names, its namespace's before its own, can't be written in the settings; None if it can."""
    if len(levels) < 2:
        return "it is in no namespace"
    if not all(map(_is_identifier, levels)):
        return "a dot, a blank or a backtick is part of its name"
    if levels[0] == catalog and len(levels) > 2:
        return f"its namespace begins with the catalog's name, {catalog}: give the catalog another one"
    return None


def _is_identifier(name: str) -> bool:
    return name.split() == [name] and "." not in name and "`" not in name
