"""How the rows of both engines differ, by key and by minute: what findings are judged by. Without icekeeper's code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from icekeeper.core.audit.records import FindingKind

MISSING, EXTRA = FindingKind.MISSING, FindingKind.EXTRA
DUPLICATE, CHANGED = FindingKind.DUPLICATE, FindingKind.CHANGED
Key = tuple[str | None, ...]


@dataclass(frozen=True)
class Row:
    """A row by its event time and its compared values."""

    at: datetime
    values: tuple[Any, ...]


KeyedRows = Mapping[Key, Sequence[Row]]


@dataclass(frozen=True)
class Differing:
    """Rows that differ in one way, at one time; `key`: None where only numbers of rows are compared."""

    kind: FindingKind
    at: datetime
    rows: int
    key: Key | None = None


@dataclass(frozen=True)
class Truth:
    """How many rows both sides hold of a window, and how these differ: by key, and by the minute."""

    clickhouse: int
    iceberg: int
    merges: bool = False
    by_key: tuple[Differing, ...] = ()
    by_minute: tuple[Differing, ...] = ()

    @classmethod
    def of(cls, source: KeyedRows, iceberg: KeyedRows, *, merges: bool) -> Truth:
        """`merges`: of each key one row is compared, and only Iceberg may hold more of them."""
        rows = [sum(map(len, side.values())) for side in (source, iceberg)]
        minutes = tuple(_minutes(source, iceberg, merges))
        if merges:
            source, iceberg = (
                {key: [Row(min(row.at for row in found), ())] for key, found in side.items()}
                for side in (source, iceberg)
            )
        return cls(rows[0], rows[1], merges, tuple(_keys(source, iceberg)), minutes)

    def rows(self, kind: FindingKind) -> int:
        """The rows whose keys differ in this way."""
        return sum(each.rows for each in self.by_key if each.kind is kind)


def _keys(source: KeyedRows, iceberg: KeyedRows) -> Iterator[Differing]:
    for key in {*source, *iceberg}:
        there, ours = source.get(key, ()), iceberg.get(key, ())
        at = min(row.at for row in ours or there)
        more = len(ours) - len(there)
        if more < 0:
            yield Differing(MISSING, min(row.at for row in there), -more, key)
        elif more > 0:
            yield Differing(DUPLICATE if there else EXTRA, at, more, key)
        elif Counter(row.values for row in there) != Counter(row.values for row in ours):
            yield Differing(CHANGED, at, len(ours), key)


def _minutes(source: KeyedRows, iceberg: KeyedRows, merges: bool) -> Iterator[Differing]:
    there, ours = (
        Counter(row.at.replace(second=0, microsecond=0) for rows in side.values() for row in rows)
        for side in (source, iceberg)
    )
    for minute in sorted({*there, *ours}):
        more = ours[minute] - there[minute]
        if more < 0:
            yield Differing(MISSING, minute, -more)
        elif more > 0 and not merges:
            yield Differing(EXTRA, minute, more)
