"""Fingerprints of whole rows with Spark: which rows there are, in whatever order. Runs in the session's thread.

Spark's xxhash64 skips nulls, knows no maps, and takes -0.0 for 0.0. So it hashes, with the values, which of them are
null, how long arrays are, and which zeros are negative.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.types import (
    ArrayType,
    DataType,
    DoubleType,
    FloatType,
    MapType,
    StructField,
    StructType,
    VariantType,
)

from icekeeper.adapters.iceberg.catalog import quoted
from icekeeper.core.audit.records import Fingerprint

# What Spark adds to the rows of a table of format version 3 while it is rewritten; null in those of before it.
_ROW_ID = "_row_id"
_LINEAGE = (_ROW_ID, "_last_updated_sequence_number")
_64_BITS = 2**64
# So many flags fit into a number that is hashed.
_FLAGS = 63


def row_fingerprints(data: DataFrame) -> tuple[Fingerprint, Fingerprint]:
    """The fingerprint over all columns; and that of the rows that have an id, over columns and lineage."""
    values, lineage = hash_of(_columns(data)), ", ".join(_LINEAGE)
    with_ids = f"if({_ROW_ID} IS NULL, NULL, xxhash64({values}, {lineage}))" if _ROW_ID in data.columns else "NULL"
    rows, identified = _fingerprints(data, [values, f"CAST({with_ids} AS BIGINT)"])
    return rows, identified


def column_fingerprints(data: DataFrame) -> dict[str, Fingerprint]:
    """The fingerprint of each column by itself: which values there are, in whatever rows."""
    columns = _columns(data)
    found = _fingerprints(data, [hash_of([column]) for column in columns])
    return {column.name: fingerprint for column, fingerprint in zip(columns, found, strict=True)}


def _columns(data: DataFrame) -> list[StructField]:
    return [column for column in data.schema.fields if column.name not in _LINEAGE]


def _fingerprints(data: DataFrame, hashes: Sequence[str]) -> Iterator[Fingerprint]:
    """Of each of these hashes, in one scan: rows in which it is not null, and two sums, the second of the hash's hash.

    Spark's sums of 64 bits overflow, so each half of a hash is summed.
    """
    names = [f"hash{number}" for number in range(len(hashes))]
    hashed = data.select(*(F.expr(text).alias(name) for name, text in zip(names, hashes, strict=True)))
    sums = [
        F.expr(text)
        for name in names
        for text in (
            f"count({name})",
            f"sum({name} & 4294967295)",
            f"sum(shiftrightunsigned({name}, 32))",
            f"sum(if({name} IS NULL, NULL, xxhash64({name}) & 4294967295))",
            f"sum(if({name} IS NULL, NULL, shiftrightunsigned(xxhash64({name}), 32)))",
        )
    ]
    found = hashed.agg(*sums).collect()[0]
    for at in range(0, len(found), 5):
        rows, low, high, low2, high2 = (int(part or 0) for part in found[at : at + 5])
        yield Fingerprint(rows, ((low + (high << 32)) % _64_BITS, (low2 + (high2 << 32)) % _64_BITS))


def hash_of(columns: Sequence[StructField]) -> str:
    """An expression: 64 bits that stand for the values of these columns."""
    return _hash([(quoted(column.name), column.dataType) for column in columns])


def _hash(values: Sequence[tuple[str, DataType]], depth: int = 0) -> str:
    """The hash of values (expression and type), with the flags that tell apart what it does not."""
    flags: list[str] = []
    leaves: list[str] = []
    for value, kind in values:
        _take_apart(value, kind, flags, leaves, depth)
    packed = [flags[at : at + _FLAGS] for at in range(0, len(flags), _FLAGS)]
    numbers = (" + ".join(f"if({flag}, {2**bit}L, 0L)" for bit, flag in enumerate(some)) for some in packed)
    return f"xxhash64({', '.join([*numbers, *leaves]) or '0L'})"


def _take_apart(value: str, kind: DataType, flags: list[str], leaves: list[str], depth: int) -> None:
    """Adds what has to be hashed of a value, which is never ambiguous: flags, and expressions that Spark can hash."""
    flags.append(f"{value} IS NULL")
    match kind:
        case StructType():
            for field in kind.fields:
                _take_apart(f"{value}.{quoted(field.name)}", field.dataType, flags, leaves, depth)
        case ArrayType():
            item = f"item{depth}"
            hashed = _hash([(item, kind.elementType)], depth + 1)
            leaves += [f"size({value})", f"transform({value}, {item} -> {hashed})"]
        case MapType():
            item = f"item{depth}"
            hashed = _hash([(f"{item}.key", kind.keyType), (f"{item}.value", kind.valueType)], depth + 1)
            # Whatever the order of its keys.
            leaves += [f"size({value})", f"array_sort(transform(map_entries({value}), {item} -> {hashed}))"]
        case FloatType() | DoubleType():
            # Only a zero is made a text.
            flags.append(f"coalesce(if({value} = 0, CAST({value} AS STRING) LIKE '-%', false), false)")
            leaves.append(value)
        case VariantType():
            leaves += [f"to_json({value})", f"schema_of_variant({value})"]
        case _:
            leaves.append(value)
