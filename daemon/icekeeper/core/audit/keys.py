"""Which rows both sides hold: keys, their fingerprints, and what differs. Pure; the hashing is SQL of the adapters.

Both engines give a row's values the same hash, and a key the same text. A fingerprint adds up the hashes of all rows,
modulo 2**64, so that their order does not matter and a doubled row changes it (XOR would cancel it).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from itertools import islice

from icekeeper.core.audit.records import FindingKind, Fingerprint
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason


@dataclass(frozen=True, slots=True)
class Salt:
    """What tells one of a row's two hashes from the other: it is put before texts, and XORed with numbers."""

    text: str
    number: int


SALTS = (Salt("a", 0x1F83D9ABFB41BD6B), Salt("b", 0x5BE0CD19137E2179))
# Numbers nearer to 0 than this, counted in their last digit, are hashed as integers of 64 bits, others by their text.
HASHED_DIGITS = 18
# What is hashed instead of NULL: none of those integers.
NULL_NUMBER = 2**62
# How each column's text begins or ends, so that no two rows have the same text: see `KeyColumn`.
NULL = "N"
NUMBER_END = ";"
LENGTH_END = ":"


class Kind(StrEnum):
    """Kinds of values that both engines can make the same text of.

    DAY: an instant at midnight. PADDED: a text of a fixed length, which zero bytes at its end fill up.
    """

    NUMBER = "number"
    INSTANT = "instant"
    DAY = "day"
    TEXT = "text"
    PADDED = "padded"


# What a column is compared as, by its kinds in Iceberg and in ClickHouse. No instant of ClickHouse's is a day's: it has
# an hour that the day in Iceberg has lost.
_COMPARED_AS = {
    (Kind.NUMBER, Kind.NUMBER): Kind.NUMBER,
    (Kind.INSTANT, Kind.INSTANT): Kind.INSTANT,
    (Kind.INSTANT, Kind.DAY): Kind.INSTANT,
    (Kind.DAY, Kind.DAY): Kind.INSTANT,
    (Kind.TEXT, Kind.TEXT): Kind.TEXT,
    (Kind.TEXT, Kind.PADDED): Kind.PADDED,
}
# Of Iceberg's decimals, and of those that Spark computes with; of a fraction it takes the digits from a number above 1.
_MOST_DIGITS = 38
_MOST_SCALE = 36


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A column's type in its engine's words. `kind` None: no text can be made of it that is the same on both sides.

    `scale`: how many digits a number has after the point, `whole`: how many at most before it (only of Iceberg's).
    """

    words: str
    kind: Kind | None
    scale: int = 0
    whole: int = 0


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column by its names on both sides.

    Its text: `N` for NULL; of a number all digits up to `scale`, then `;`; of an instant its microseconds since 1970 in
    UTC, then `;`; of a text its length in bytes, `:`, and itself, a padded one without the zero bytes at its end.

    Its hash is that of an integer of 64 bits: of a number of at most HASHED_DIGITS digits these digits, of an instant
    its microseconds; of other numbers and of texts the hash of the text without the marks above.
    """

    iceberg: str
    source: str
    kind: Kind
    scale: int = 0


@dataclass(frozen=True, slots=True)
class Key:
    """The columns that tell rows apart, and those whose values are compared besides."""

    columns: tuple[KeyColumn, ...]
    compare: tuple[KeyColumn, ...] = ()

    @property
    def iceberg_columns(self) -> tuple[str, ...]:
        return tuple(column.iceberg for column in (*self.columns, *self.compare))


@dataclass(frozen=True, slots=True)
class Buckets:
    """The keys whose first hash ends with one of these numbers, in its last `bits` bits."""

    bits: int
    numbers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """Which keys are read and how: each row, or (`distinct`) each key once; within some buckets or everywhere."""

    key: Key
    distinct: bool = False
    within: Buckets | None = None


@dataclass(frozen=True, slots=True)
class KeyRows:
    """The rows of one key, and the sum of their hashes over key and compared values (0 where none are compared).

    `at`: the earliest event time of them, in microseconds since 1970.
    """

    rows: int
    values: int = 0
    at: int = 0


def agreed_key(
    names: Sequence[str],
    compare: Sequence[str],
    source_names: Mapping[str, str],
    iceberg: Mapping[str, ColumnType],
    source: Mapping[str, ColumnType],
) -> Key:
    """The key as both sides have it; `iceberg` and `source` hold the types of the columns that are there, by name.

    PermanentError `key_type` where a column is missing, or both sides can't make the same text of it.
    """
    wrong: list[str] = []

    def agreed(name: str) -> KeyColumn:
        there = source_names.get(name, name)
        ours, theirs = iceberg.get(name), source.get(there)
        unfit = [why_unfit("Iceberg", name, ours), why_unfit("ClickHouse", there, theirs)]
        wrong.extend(text for text in unfit if text is not None)
        if ours is None or theirs is None or ours.kind is None or theirs.kind is None:
            return KeyColumn(name, there, Kind.TEXT)
        kind, scale = _COMPARED_AS.get((ours.kind, theirs.kind)), max(ours.scale, theirs.scale)
        both = f"{name} is {ours.words} in Iceberg and {theirs.words} in ClickHouse"
        if kind is None:
            wrong.append(both)
        elif ours.whole + scale > _MOST_DIGITS or scale > _MOST_SCALE:
            wrong.append(f"{both}: {ours.whole} digits before the point and {scale} after it are too many to compare")
        return KeyColumn(name, there, kind or Kind.TEXT, scale)

    key = Key(tuple(map(agreed, names)), tuple(map(agreed, compare)))
    if wrong:
        raise PermanentError("; ".join(wrong), reason=Reason.KEY_TYPE)
    return key


def why_unfit(side: str, name: str, found: ColumnType | None) -> str | None:
    """Why a column of one side can be in no key; None where it can. `found` None: there is no such column."""
    if found is None:
        return f"{side} has no column {name}"
    if found.kind is None:
        return f"{name} is {found.words} in {side}, which has no text that is the same on both sides"
    return None


def values_of(columns: Sequence[KeyColumn], text: bytes) -> tuple[str | None, ...]:
    """The values in a key's text as they are shown, instants in ISO 8601; of bytes that are no UTF-8 a U+FFFD."""
    rest, values = text, list[str | None]()
    for column in columns:
        if rest.startswith(NULL.encode()):
            values.append(None)
            rest = rest[len(NULL) :]
        elif column.kind in (Kind.TEXT, Kind.PADDED):
            length, _, rest = rest.partition(LENGTH_END.encode())
            values.append(rest[: int(length)].decode(errors="replace"))
            rest = rest[int(length) :]
        else:
            number, _, rest = rest.partition(NUMBER_END.encode())
            try:
                values.append(_readable(column.kind, number.decode()))
            except OverflowError:
                # A year past 9999: its microseconds.
                values.append(number.decode())
    return tuple(values)


def _readable(kind: Kind, number: str) -> str:
    if kind is Kind.INSTANT:
        instant = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=int(number))
        return instant.isoformat().replace("+00:00", "Z")
    return number.rstrip("0").rstrip(".") if "." in number else number


# --- what differs


# So many rows a bucket on average, where that takes no more buckets than 2**_MOST_BITS for each that is split, and no
# more than 2**_MOST_BITS_IN_ALL, which both sides send.
_BUCKET_ROWS = 8
_MOST_BITS = 14
_MOST_BITS_IN_ALL = 16
# So many characters of a value are shown.
_MOST_SHOWN = 100
# More buckets than this are not named in a query.
MOST_BUCKETS = 4096


def sampled(slot: datetime, rows: int, most: int) -> Buckets | None:
    """The part of all keys that a night compares of so many rows, by its day; None: all of them."""
    bits = max(0, math.ceil(math.log2(rows / most))) if rows else 0
    return Buckets(bits, (slot.toordinal() % 2**bits,)) if bits else None


def finer_bits(within: Buckets | None, rows: int) -> int:
    """By how many bits to tell the buckets of so many rows apart."""
    bits, buckets = (within.bits, len(within.numbers)) if within else (0, 1)
    wanted = math.ceil(math.log2(max(2, rows / _BUCKET_ROWS / buckets)))
    most = _MOST_BITS_IN_ALL - math.ceil(math.log2(buckets))
    return bits + min(wanted, _MOST_BITS, most)


def differing_buckets(source: Mapping[int, Fingerprint], iceberg: Mapping[int, Fingerprint]) -> dict[int, int]:
    """The buckets whose fingerprints differ, each with the rows of the side that has more."""
    nothing = Fingerprint()
    both = {bucket: (source.get(bucket), iceberg.get(bucket)) for bucket in sorted({*source, *iceberg})}
    return {
        bucket: max((there or nothing).rows, (ours or nothing).rows)
        for bucket, (there, ours) in both.items()
        if there != ours
    }


def explorable(buckets: Mapping[int, int], most: int) -> tuple[int, ...]:
    """As many of the buckets, with their rows, as hold no more rows than that; one at least."""
    chosen: list[int] = []
    rows = 0
    for bucket, size in islice(buckets.items(), MOST_BUCKETS):
        rows += size
        if chosen and rows > most:
            break
        chosen.append(bucket)
    return tuple(chosen)


@dataclass(frozen=True, slots=True)
class DifferentKey:
    """A key that differs, by its text, in how many rows, and their event time in microseconds since 1970."""

    kind: FindingKind
    text: bytes
    rows: int
    at: int = 0


def different_keys(
    source: Mapping[bytes, KeyRows], iceberg: Mapping[bytes, KeyRows], *, distinct: bool = False
) -> list[DifferentKey]:
    """What differs between the rows of both sides, by their keys; `distinct`: between their keys alone."""
    if distinct:
        source, iceberg = ({text: KeyRows(1, at=key.at) for text, key in side.items()} for side in (source, iceberg))
    found: list[DifferentKey] = []
    nothing = KeyRows(0)
    for text in sorted({*source, *iceberg}):
        there, ours = source.get(text, nothing), iceberg.get(text, nothing)
        more = ours.rows - there.rows
        if more < 0:
            found.append(DifferentKey(FindingKind.MISSING, text, -more, there.at))
        elif more > 0:
            kind = FindingKind.DUPLICATE if there.rows else FindingKind.EXTRA
            found.append(DifferentKey(kind, text, more, ours.at))
        elif ours.values != there.values:
            found.append(DifferentKey(FindingKind.CHANGED, text, ours.rows, ours.at))
    return found


def shown(key: Key, text: bytes) -> tuple[str | None, ...]:
    """The values in a key's text as a finding names them: long ones are cut."""
    return tuple(map(_shortened, values_of(key.columns, text)))


def _shortened(value: str | None) -> str | None:
    return value if value is None or len(value) <= _MOST_SHOWN else f"{value[:_MOST_SHOWN]}..."
