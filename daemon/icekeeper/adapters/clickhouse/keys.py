"""ClickHouse SQL of keys and their fingerprints. Runs nothing. The same in Spark: adapters/iceberg/rows/keys.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from icekeeper.adapters.clickhouse.event_time import instant_micros, quoted
from icekeeper.core.audit.keys import (
    HASHED_DIGITS,
    LENGTH_END,
    NULL,
    NULL_NUMBER,
    NUMBER_END,
    SALTS,
    Buckets,
    ColumnType,
    Key,
    KeyColumn,
    KeyQuery,
    Kind,
    Salt,
)
from icekeeper.core.audit.records import Fingerprint

# Types around another one that say nothing about its values.
_WRAPPED = re.compile(r"^(?:Nullable|LowCardinality)\((.*)\)$|^SimpleAggregateFunction\(\w+, (.*)\)$")
_DECIMAL = re.compile(r"^Decimal\(\d+, (\d+)\)$")
_KINDS = (
    (re.compile(r"^U?Int\d+$|^Bool$"), Kind.NUMBER),
    (re.compile(r"^DateTime(?:64)?(?:\(.*\))?$"), Kind.INSTANT),
    (re.compile(r"^Date(?:32)?$"), Kind.DAY),
    (re.compile(r"^String$|^UUID$|^Enum(?:8|16)\(.*\)$"), Kind.TEXT),
    (re.compile(r"^FixedString\(\d+\)$"), Kind.PADDED),
)

# ClickHouse prefers an alias to a column of that name: these are the name of none.
_FIRST, _SECOND = "`icekeeper's first hash`", "`icekeeper's second hash`"
AT = "`icekeeper's event time`"


def unwrapped(words: str) -> str:
    """A type without what says nothing about its values."""
    while wrapped := _WRAPPED.match(words):
        words = wrapped[1] or wrapped[2]
    return words


def column_type(words: str) -> ColumnType:
    """A column's type as DESCRIBE words it."""
    inner = unwrapped(words)
    if decimal := _DECIMAL.match(inner):
        return ColumnType(words, Kind.NUMBER, int(decimal[1]))
    return ColumnType(words, next((kind for pattern, kind in _KINDS if pattern.match(inner)), None))


def text_of(columns: Sequence[KeyColumn]) -> str:
    """An expression: the columns' texts, one after the other."""
    return f"concat({', '.join(map(_column_text, columns))}, '')"


def _column_text(column: KeyColumn) -> str:
    name = quoted(column.source)
    if column.kind in (Kind.TEXT, Kind.PADDED):
        # It cuts the zero bytes that fill a FixedString up.
        text = f"toString({name})"
        return f"ifNull(concat(toString(length({text})), '{LENGTH_END}', {text}), '{NULL}')"
    number = f"toString({instant_micros(name)})" if column.kind is Kind.INSTANT else _decimal(name, column.scale)
    return f"ifNull(concat({number}, '{NUMBER_END}'), '{NULL}')"


def fingerprint_of(key: Key) -> str:
    """A select list: how many rows, and the sums of their hashes."""
    return ", ".join(["count()", *(f"sum({hashed})" for hashed in _hashes(key))])


def _hashes(key: Key) -> list[str]:
    """Two hashes of the key, and two of key and compared values where those are."""
    rows = [key.columns, (*key.columns, *key.compare)] if key.compare else [key.columns]
    return [_hash(columns, salt) for columns in rows for salt in SALTS]


def _hash(columns: Sequence[KeyColumn], salt: Salt) -> str:
    """The columns' numbers, one hashed into the other: their texts would cost two to three times as much."""
    first, *others = (_number(column, salt) for column in columns)
    hashed = f"xxHash64({first})"
    for number in others:
        hashed = f"xxHash64(bitXor({hashed}, {number}))"
    return hashed


def _number(column: KeyColumn, salt: Salt) -> str:
    """An Int64 that stands for a value: itself where it is a number of so many bits, else the hash of its text."""
    name = quoted(column.source)
    value = f"assumeNotNull({name})"
    match column.kind:
        case Kind.TEXT | Kind.PADDED:
            number = _hashed_text(f"toString({value})", salt)
        case Kind.INSTANT:
            number = f"bitXor({instant_micros(value)}, {salt.number})"
        case _:
            number = _hashed_text(_decimal(value, column.scale), salt)
            if column.scale <= HASHED_DIGITS:
                fits, integer = _integer(f"({value} + 0)", column.scale)
                number = f"if({fits}, bitXor({integer}, {salt.number}), {number})"
    return f"if(isNull({name}), {NULL_NUMBER ^ salt.number}, {number})"


def _hashed_text(text: str, salt: Salt) -> str:
    return f"reinterpretAsInt64(xxHash64(concat('{salt.text}', {text})))"


def _integer(number: str, scale: int) -> tuple[str, str]:
    """Whether a number fits, and if so its last digits as an Int64."""
    limit = 10 ** (HASHED_DIGITS - scale)
    fits = f"{number} > -{limit} AND {number} < {limit}"
    fitting = f"if({fits}, {number}, 0)"
    if not scale:
        return fits, f"toInt64({fitting})"
    return fits, f"toInt64(reinterpret(toDecimal128({fitting}, {scale}), 'Int128'))"


def _decimal(number: str, scale: int) -> str:
    # A Bool is true or false as a text; of any other number adding 0 changes nothing.
    return f"toDecimalString({number} + 0, {scale})"


def columns_of(key: Key) -> str:
    """A select list: the columns that the key's texts are made of."""
    return ", ".join(dict.fromkeys(quoted(column.source) for column in (*key.columns, *key.compare)))


def fingerprints_query(query: KeyQuery, bits: int, rows: str) -> str:
    """Buckets and their fingerprints; `rows`: a query of the key's columns."""
    source = f"({rows}){_within(query)}"
    if not query.distinct:
        bucket = _bucket(_hashes(query.key)[0], bits)
        return f"SELECT {bucket}, {fingerprint_of(query.key)} FROM {source} GROUP BY {bucket}"
    first, second = _hashes(query.key)
    keys = f"SELECT DISTINCT {first} AS {_FIRST}, {second} AS {_SECOND} FROM {source}"
    bucket = _bucket(_FIRST, bits)
    return f"SELECT {bucket}, count(), sum({_FIRST}), sum({_SECOND}) FROM ({keys}) GROUP BY {bucket}"


def key_rows_query(query: KeyQuery, rows: str) -> str:
    """Texts of keys in hex digits, their rows, the sums of the hashes over key and compared values, the first time.

    `rows`: a query of the key's columns, and of the event time in microseconds as AT.
    """
    values = f"sum({_hashes(query.key)[2]})" if query.key.compare else "0"
    text = text_of(query.key.columns)
    return f"SELECT hex({text}), count(), {values}, min({AT}) FROM ({rows}){_within(query)} GROUP BY {text}"


def fingerprint(row: Sequence[Any]) -> Fingerprint:
    """A row that `fingerprint_of` selected."""
    count, first, second, *values = map(int, row)
    return Fingerprint(count, (first, second), tuple(values))


def _within(query: KeyQuery) -> str:
    return "" if query.within is None else f" WHERE {_bucket_in(_hashes(query.key)[0], query.within)}"


def _bucket(hashed: str, bits: int) -> str:
    return f"bitAnd({hashed}, {2**bits - 1})"


def _bucket_in(hashed: str, buckets: Buckets) -> str:
    return f"{_bucket(hashed, buckets.bits)} IN ({', '.join(map(str, buckets.numbers))})"
