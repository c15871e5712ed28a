"""Keys and their fingerprints with Spark at a snapshot; the same text is made in adapters/clickhouse/keys.py."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.classic.column import Column as ClassicColumn

from icekeeper.adapters.iceberg.catalog import quoted
from icekeeper.core.audit.keys import (
    HASHED_DIGITS,
    LENGTH_END,
    NULL,
    NULL_NUMBER,
    NUMBER_END,
    SALTS,
    Buckets,
    ColumnType,
    KeyColumn,
    KeyQuery,
    KeyRows,
    Kind,
    Salt,
)
from icekeeper.core.audit.records import Fingerprint

_DECIMAL = re.compile(r"^decimal\((\d+), (\d+)\)$")
# How many digits they have.
_INTEGERS = {"boolean": 1, "int": 10, "long": 19}
_KINDS = {
    **dict.fromkeys(_INTEGERS, Kind.NUMBER),
    **dict.fromkeys(("timestamp", "timestamptz"), Kind.INSTANT),
    "date": Kind.DAY,
    **dict.fromkeys(("string", "uuid"), Kind.TEXT),
}
_64_BITS = 2**64
# Names that no column of a table has.
_TEXT, _AT = "icekeeper's text", "icekeeper's event time"


def column_type(words: str) -> ColumnType:
    """A column's type as Iceberg words it."""
    if decimal := _DECIMAL.match(words):
        digits, scale = map(int, decimal.groups())
        return ColumnType(words, Kind.NUMBER, scale, digits - scale)
    return ColumnType(words, _KINDS.get(words), whole=_INTEGERS.get(words, 0))


def fingerprints(spark: SparkSession, rows: str, query: KeyQuery, bits: int) -> dict[int, Fingerprint]:
    """The fingerprints of the buckets that hold any row. `rows`: a FROM clause with its condition.

    Spark's sums of 64 bits overflow, so each half of a hash is summed.
    """
    hashes = _hashed(spark, rows, query)
    names = hashes.columns[1:-1]
    if query.distinct:
        hashes = hashes.select(*names).distinct()
    halves = [
        F.expr(f"sum({half})") for name in names for half in (f"{name} & 4294967295", f"shiftrightunsigned({name}, 32)")
    ]
    counted = hashes.groupBy(F.expr(f"{names[0]} & {2**bits - 1}L")).agg(F.expr("count(*)"), *halves).collect()
    found: dict[int, Fingerprint] = {}
    for bucket, count, *parts in counted:
        sums = tuple((low + (high << 32)) % _64_BITS for low, high in zip(parts[::2], parts[1::2], strict=True))
        found[int(bucket)] = Fingerprint(int(count), sums[:2], sums[2:])
    return found


def key_rows(spark: SparkSession, rows: str, timestamp: str, query: KeyQuery) -> dict[bytes, KeyRows]:
    """The rows of each key, by its text, which may be no UTF-8. `timestamp`: the column of the event time."""
    values = "0L", "0L"
    if query.key.compare:
        values = "sum(hash2 & 4294967295)", "sum(shiftrightunsigned(hash2, 32))"
    aggregates = ("count(*)", *values, "min(at)")
    hashed = _hashed(spark, rows, query, _micros(quoted(timestamp)))
    counted = hashed.groupBy(F.expr("CAST(text AS BINARY)")).agg(*map(F.expr, aggregates)).collect()
    return {
        bytes(key): KeyRows(int(count), (low + (high << 32)) % _64_BITS, int(at))
        for key, count, low, high, at in counted
    }


def _hashed(spark: SparkSession, rows: str, query: KeyQuery, at: str = "0L") -> DataFrame:
    """Of each row the key's text, its two hashes, two over key and compared values where those are, and `at`."""
    key = query.key
    names = ", ".join(dict.fromkeys(map(quoted, key.iceberg_columns)))
    data = spark.sql(f"SELECT {names}, {text_of(key.columns)} AS `{_TEXT}`, {at} AS `{_AT}` FROM {rows}")
    every = [key.columns, (*key.columns, *key.compare)] if key.compare else [key.columns]
    columns = [_hash(spark, columns, salt) for columns in every for salt in SALTS]
    hashes = (each.alias(f"hash{n}") for n, each in enumerate(columns))
    data = data.select(F.col(_TEXT).alias("text"), *hashes, F.col(_AT).alias("at"))
    return data if query.within is None else data.where(_bucket_in("hash0", query.within))


def _hash(spark: SparkSession, columns: Sequence[KeyColumn], salt: Salt) -> Column:
    """The columns' numbers, one hashed into the other."""
    first, *others = (_number(spark, column, salt) for column in columns)
    hashed = _xxhash64(spark, first)
    for number in others:
        hashed = _xxhash64(spark, hashed.bitwiseXOR(number))
    return hashed


def _number(spark: SparkSession, column: KeyColumn, salt: Salt) -> Column:
    """A BIGINT that stands for a value: itself where it is a number of so many bits, else the hash of its text."""
    name = quoted(column.iceberg)
    match column.kind:
        case Kind.TEXT | Kind.PADDED:
            number = _hashed_text(spark, _text(column), salt)
        case Kind.INSTANT:
            number = F.expr(f"{_micros(name)} ^ {salt.number}L")
        case _:
            number = _hashed_text(spark, _decimal(column), salt)
            if column.scale <= HASHED_DIGITS:
                value = f"CAST({name} AS DECIMAL(38, {column.scale}))"
                limit = 10 ** (HASHED_DIGITS - column.scale)
                integer = _last_digits(spark, F.expr(value)).bitwiseXOR(F.lit(salt.number))
                number = F.when(F.expr(f"{value} > -{limit} AND {value} < {limit}"), integer).otherwise(number)
    null = F.lit(NULL_NUMBER ^ salt.number)
    return F.when(F.expr(f"{name} IS NULL"), null).otherwise(number)


def _hashed_text(spark: SparkSession, text: str, salt: Salt) -> Column:
    return _xxhash64(spark, F.concat(F.lit(salt.text), F.expr(text)))


def _xxhash64(spark: SparkSession, value: Any) -> Column:
    """XXH64 with the seed 0, like ClickHouse's: Spark's own SQL function has 42."""
    jvm: Any = spark._jvm
    sql = jvm.org.apache.spark.sql
    children = jvm.org.apache.spark.api.python.PythonUtils.toSeq([sql.classic.ExpressionUtils.expression(value._jc)])
    return ClassicColumn(sql.classic.ExpressionUtils.column(sql.catalyst.expressions.XxHash64(children, 0)))


def _last_digits(spark: SparkSession, decimal: Any) -> Column:
    """A decimal counted in its last digit, which Spark's SQL has no function for."""
    jvm: Any = spark._jvm
    sql = jvm.org.apache.spark.sql
    value = sql.classic.ExpressionUtils.expression(decimal._jc)
    return ClassicColumn(sql.classic.ExpressionUtils.column(sql.catalyst.expressions.UnscaledValue(value)))


def text_of(columns: Sequence[KeyColumn]) -> str:
    """An expression: the columns' texts, one after the other."""
    return f"concat({', '.join(map(_column_text, columns))})"


def _column_text(column: KeyColumn) -> str:
    if column.kind in (Kind.TEXT, Kind.PADDED):
        text = _text(column)
        return f"coalesce(concat(CAST(octet_length({text}) AS STRING), '{LENGTH_END}', {text}), '{NULL}')"
    number = f"CAST({_micros(quoted(column.iceberg))} AS STRING)"
    if column.kind is not Kind.INSTANT:
        number = _decimal(column)
    return f"coalesce(concat({number}, '{NUMBER_END}'), '{NULL}')"


def _text(column: KeyColumn) -> str:
    text = f"CAST({quoted(column.iceberg)} AS STRING)"
    if column.kind is Kind.TEXT:
        return text
    # By hex digits: functions of texts count characters, and it may be no UTF-8.
    return f"CAST(unhex(regexp_replace(hex({text}), '(00)+$', '')) AS STRING)"


def _micros(instant: str) -> str:
    return f"unix_micros(CAST({instant} AS TIMESTAMP))"


def _decimal(column: KeyColumn) -> str:
    return _digits(f"CAST({quoted(column.iceberg)} AS DECIMAL(38, {column.scale}))", column.scale)


def _digits(number: str, scale: int) -> str:
    """All digits of a decimal. Where spark.sql.ansi.enabled is false, a cast alone writes small ones like 1E-8."""
    if not scale:
        return f"CAST({number} AS STRING)"
    whole, part = f"CAST(floor(abs({number})) AS STRING)", f"CAST(abs({number}) % 1 + 1 AS STRING)"
    return f"concat(if({number} < 0, '-', ''), {whole}, substring({part}, 2))"


def _bucket_in(hashed: str, buckets: Buckets) -> str:
    return f"({hashed} & {2**buckets.bits - 1}L) IN ({', '.join(f'{number}L' for number in buckets.numbers)})"
