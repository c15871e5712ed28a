"""Whether a rewrite kept every value, by the metrics in its manifests and by fingerprints of its rows. Pure.

Reading them: adapters/iceberg/proof/rewrites.py. How many rows there are before and after: verification.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Literal

from icekeeper.core.formats import counted, listed

# How many columns a note names.
_NAMED = 3
# The metrics mode in which Iceberg writes nothing of a column.
_NO_METRICS = "none"
_INCOMPARABLE = "no metrics that can be compared"
_ROW_ID = "_row_id"
# In place of a column's name.
ALL_COLUMNS = "all columns"
# To Iceberg, when it rounds up a text, one is the next after the other: between them are surrogates.
_BEFORE_SURROGATES, _AFTER_SURROGATES = 0xD7FF, 0xE000


class ProvenBy(StrEnum):
    """What is known of a rewrite: counts and bounds of all columns agree, all rows are the same, or neither."""

    METRICS = "metrics"
    CONTENT = "content"
    UNPROVEN = "unproven"


@dataclass(frozen=True, slots=True)
class ColumnSums:
    """What the manifests say of a column, over the files of one side.

    `nans` None: some file has no count of them. `older` are the rows of files of before the column was added,
    `uncounted` those of others without counts of it, `unbounded` the files that have values of it and no bounds.
    `lower` and `upper`: of texts and bytes.
    """

    values: int = 0
    nulls: int = 0
    nans: int | None = 0
    older: int = 0
    uncounted: int = 0
    unbounded: int = 0
    lower: bytes | None = None
    upper: bytes | None = None

    @property
    def present(self) -> int:
        """How many values are none of null."""
        return self.values - self.nulls


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """A column in the files that went and in those that came.

    `kind`: how bounds compare; those of texts and bytes may be cut off. `lower_order` and `upper_order` are negative
    where the bound of what came is below that of what went, None where a side has none. `mode`: what the table's
    settings have its writers note of the column. `default`: files of before the column read as this value, not as null.
    """

    name: str
    kind: Literal["ordered", "text", "bytes", "none"]
    nested: bool
    floating: bool
    default: bool
    mode: str
    went: ColumnSums
    came: ColumnSums
    lower_order: int | None = None
    upper_order: int | None = None


@dataclass(frozen=True, slots=True)
class PartitionChange:
    """How many files and bytes of a partition went and came."""

    partition: str
    files_went: int
    bytes_went: int
    files_came: int
    bytes_came: int


@dataclass(frozen=True, slots=True)
class Rewritten:
    """What the manifests of a rewrite's snapshot say. `with_deletes`: so many files that went had deletes to apply.
    `with_ids`: rows of the table have ids, which manifests don't show.
    """

    snapshot_id: int
    parent_id: int | None
    rows_went: int
    rows_came: int
    files_went: int = 0
    files_came: int = 0
    formats: tuple[str, ...] = ("PARQUET",)
    with_deletes: int = 0
    columns: tuple[ColumnChange, ...] = ()
    partitions: tuple[PartitionChange, ...] = ()
    with_ids: bool = False

    @property
    def bytes_went(self) -> int:
        return sum(part.bytes_went for part in self.partitions)

    @property
    def units(self) -> tuple[PartitionChange, ...]:
        """The smallest parts that can be compared: its partitions, or all of it (without a name) where rows moved."""
        if all(part.files_went and part.files_came for part in self.partitions):
            return self.partitions
        sums = ("files_went", "bytes_went", "files_came", "bytes_came")
        return (PartitionChange("", *(sum(getattr(part, each) for part in self.partitions) for each in sums)),)


@dataclass(frozen=True, slots=True)
class MetricsVerdict:
    """`wrong`: what can't be, column by column. `unproven`: columns, with why their metrics don't prove them."""

    wrong: tuple[str, ...] = ()
    unproven: Mapping[str, str] = field(default_factory=dict)


def judge_metrics(change: Rewritten) -> MetricsVerdict:
    """Compares each column's counts and bounds on both sides.

    Where rows went by deletes, counts may only fall, and bounds lie within those of before: that proves nothing, as
    other rows may be gone than should be. A wrong verdict is only given where the metrics allow no other.
    """
    wrong: list[str] = []
    unproven: dict[str, str] = {}
    for column in change.columns:
        problem, why = _judge(column, change) if _judged(column, change.formats) else (None, _INCOMPARABLE)
        if problem:
            wrong.append(f"{column.name}: {problem}")
        elif why:
            unproven[column.name] = why
    if change.with_ids:
        unproven[_ROW_ID] = "only its content shows it"
    if change.with_deletes or change.rows_went != change.rows_came:
        unproven = {ALL_COLUMNS: "deletes were applied"}
    return MetricsVerdict(tuple(wrong), unproven)


def _judged(column: ColumnChange, formats: tuple[str, ...]) -> bool:
    """Nested columns are counted differently by each format and writer: only what a struct of Parquet holds is not."""
    return column.kind != "none" and not (column.nested and (formats != ("PARQUET",) or column.floating))


def _judge(column: ColumnChange, change: Rewritten) -> tuple[str | None, str | None]:
    """What is wrong with a column, and why it is not proven where nothing is."""
    went, came = column.went, column.came
    if came.uncounted or came.older:
        return _without_counts(column)
    fewer = change.rows_went - change.rows_came
    gone, most = went.present - came.present, max(fewer, 0)
    if went.uncounted or (went.older and (column.default or column.nested)):
        # More values than are known may have been there; fewer can't.
        if gone > most:
            return f"{counted(came.present, 'value')} that are not null after at least {went.present}", None
        return None, "older files without counts"
    # In files of before the column it is null.
    values, nulls = went.values + went.older, went.nulls + went.older
    if not column.nested and came.values != values - fewer:
        return f"{counted(came.values, 'value')} after {values}{_less(fewer)}", None
    if not 0 <= gone <= most or (not column.nested and not 0 <= nulls - came.nulls <= most):
        return f"{counted(came.nulls, 'null')} after {nulls}{_less(fewer)}", None
    if column.floating:
        if went.nans is None or came.nans is None:
            return _judge_bounds(column, deletes=fewer > 0)[0], "NaN were not counted"
        if not 0 <= went.nans - came.nans <= most:
            return f"{came.nans} NaN after {went.nans}{_less(fewer)}", None
    return _judge_bounds(column, deletes=fewer > 0)


def _without_counts(column: ColumnChange) -> tuple[str | None, str | None]:
    """The verdict where files that came lack counts: their writer was to leave them out, or they lack the column."""
    if column.nested or column.mode == _NO_METRICS:
        return None, "its metrics are off" if column.mode == _NO_METRICS else "no counts"
    if column.went.present:
        text = f"the files that came do not have it, {counted(column.went.present, 'value')} of it went"
        return text, None
    return (None, "no counts") if column.default or column.went.uncounted else (None, None)


def _judge_bounds(column: ColumnChange, *, deletes: bool) -> tuple[str | None, str | None]:
    if column.came.present == 0 and (column.went.present == 0 or deletes):
        return None, None
    if column.went.unbounded or column.came.unbounded or None in (column.lower_order, column.upper_order):
        if column.floating and _only_nans(column.went) and _only_nans(column.came):
            return None, None
        return None, "no bounds, only counts"
    lower, upper = column.lower_order or 0, column.upper_order or 0
    outside = (lower < 0, upper > 0)
    differs = outside if deletes else (lower != 0, upper != 0)
    if not any(differs):
        return None, None
    if column.kind != "ordered":
        bounds = (column.went.lower, column.came.lower), (column.went.upper, column.came.upper)
        text = column.kind == "text"
        sure = [
            different and not _may_be_equal(*pair, text=text) for different, pair in zip(differs, bounds, strict=True)
        ]
        if not any(sure):
            return None, "bounds that are cut off"
        differs = (sure[0], sure[1])
    which = " and ".join(word for word, different in zip(("lowest", "highest"), differs, strict=True) if different)
    return f"another {which} value", None


def _only_nans(sums: ColumnSums) -> bool:
    return sums.nans is not None and sums.nans == sums.present


def _may_be_equal(one: bytes | None, other: bytes | None, *, text: bool) -> bool:
    """Whether two bounds that differ may be of one value: Iceberg cuts bounds off, and makes the last character of an
    upper one larger by one."""
    if one is None or other is None:
        return True
    ours, theirs = (_characters(bound, text=text) for bound in (one, other))
    low, high = sorted((ours, theirs))
    at = next((n for n, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), None)
    if at is None:
        return True  # one is the beginning of the other
    next_one = _AFTER_SURROGATES if text and low[at] == _BEFORE_SURROGATES else low[at] + 1
    return at == len(high) - 1 and high[at] == next_one


def _characters(bound: bytes, *, text: bool) -> list[int]:
    return [ord(character) for character in bound.decode("utf-8", "replace")] if text else list(bound)


def _less(fewer: int) -> str:
    return f", with {counted(fewer, 'row')} deleted" if fewer > 0 else ""


def in_turn(units: Iterable[PartitionChange], slot: datetime) -> list[PartitionChange]:
    """Partitions in the order in which the night of this slot proves them: another one each night."""
    return sorted(units, key=lambda part: _lot(slot, part.partition))


def table_in_turn(tables: Sequence[str], slot: datetime) -> str | None:
    """Whose content a night proves before that of all others. Drawn anew each night, so that none waits for ever."""
    return min(tables, key=lambda table: _lot(slot, table), default=None)


def _lot(slot: datetime, name: str) -> bytes:
    return hashlib.blake2b(f"{slot:%Y-%m-%dT%H:%M} {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()


# --- the note of a task


@dataclass(frozen=True, slots=True)
class RewriteProof:
    """How one rewrite was proven. `unproven`: columns that are not, with why; `parts`: whose content was read."""

    how: ProvenBy
    unproven: Mapping[str, str] = field(default_factory=dict)
    parts: tuple[str, ...] = ()


def proofs_note(proofs: Sequence[RewriteProof]) -> str:
    """`proven by metrics`; `unproven: price (no bounds, only counts); content of day=2026-02-17 is the same`."""
    return "; ".join(_notes(proofs))


def _notes(proofs: Sequence[RewriteProof]) -> Iterator[str]:
    for how in (ProvenBy.METRICS, ProvenBy.CONTENT):
        if number := sum(proof.how is how for proof in proofs):
            of = "" if number == len(proofs) else f"{number} of {counted(len(proofs), 'rewrite')} "
            yield f"{of}proven by {how}"
    unproven = [proof for proof in proofs if proof.how is ProvenBy.UNPROVEN]
    if unproven:
        reasons = {name: why for proof in unproven for name, why in proof.unproven.items()}
        of = "" if len(unproven) == len(proofs) else f"{len(unproven)} of {counted(len(proofs), 'rewrite')} "
        yield f"{of}unproven: {listed((f'{name} ({why})' for name, why in reasons.items()), _NAMED)}"
    if parts := [part or "all partitions" for proof in proofs for part in proof.parts]:
        yield f"the content of {listed(parts, _NAMED)} is the same"
