"""Fingerprints of rows on the real Spark: a single value of any type that changes makes another one, order does not."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.rows.content import column_fingerprints, row_fingerprints
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.audit.records import Fingerprint

TIMEOUT = timedelta(minutes=3)

# Of each type two values that are not the same. Where they are alike to a hash of Spark's, it is said beside them.
PAIRS = {
    "boolean": ("true", "false"),
    "int": ("1", "2"),
    "int, a null": ("1", "CAST(null AS INT)"),
    "int, zero and a null": ("0", "CAST(null AS INT)"),
    "bigint": ("1L", "4294967297L"),
    "float": ("1.5F", "1.25F"),
    "float, zeros": ("0.0F", "-0.0F"),
    "double, zeros": ("0.0D", "-0.0D"),  # Spark hashes both as 0.0
    "double, NaN": ("double('NaN')", "double('Infinity')"),
    "double, NaN and a null": ("double('NaN')", "CAST(null AS DOUBLE)"),
    "decimal": ("CAST(1.1 AS DECIMAL(18, 8))", "CAST(1.10000001 AS DECIMAL(18, 8))"),
    "decimal of 38 digits": (
        "CAST(12345678901234567890.1 AS DECIMAL(38, 8))", "CAST(12345678901234567890.2 AS DECIMAL(38, 8))"
    ),
    "date": ("date'2026-02-17'", "date'2026-02-18'"),
    "timestamp": ("timestamp'2026-02-17 00:00:00.000001'", "timestamp'2026-02-17 00:00:00.000002'"),
    "timestamp_ntz": ("timestamp_ntz'2026-02-17 00:00:00.000001'", "timestamp_ntz'2026-02-17 00:00:00.000002'"),
    "string": ("'a'", "'b'"),
    "string, empty and a null": ("''", "CAST(null AS STRING)"),
    "string, blanks": ("'a'", "'a '"),
    "string, the word null": ("'null'", "CAST(null AS STRING)"),
    "binary": ("X'00'", "X'0000'"),
    "binary, empty and a null": ("X''", "CAST(null AS BINARY)"),
    "struct": ("named_struct('a', 1, 'b', 'x')", "named_struct('a', 1, 'b', 'y')"),
    "struct, a null in it and a null": (
        "CAST(named_struct('a', null) AS STRUCT<a: INT>)", "CAST(null AS STRUCT<a: INT>)"
    ),
    "struct, which of two is null": (
        "CAST(named_struct('a', 1, 'b', null) AS STRUCT<a: INT, b: INT>)",
        "CAST(named_struct('a', null, 'b', 1) AS STRUCT<a: INT, b: INT>)",
    ),
    "struct in a struct": ("named_struct('a', named_struct('b', 1))", "named_struct('a', named_struct('b', 2))"),
    "array": ("array(1, 2)", "array(2, 1)"),
    "array, a null in it": ("array(1, null)", "array(1)"),  # Spark skips nulls
    "array, empty and a null": ("CAST(array() AS ARRAY<INT>)", "CAST(null AS ARRAY<INT>)"),
    "array, empty and of a null": ("CAST(array() AS ARRAY<INT>)", "CAST(array(null) AS ARRAY<INT>)"),
    "array, zeros": ("array(0.0D)", "array(-0.0D)"),
    "array of arrays": ("array(array(1), array(2))", "array(array(1, 2), CAST(array() AS ARRAY<INT>))"),
    "array of structs": ("array(named_struct('a', 1))", "array(named_struct('a', 2))"),
    "map, its value": ("map('k', 1)", "map('k', 2)"),
    "map, its key": ("map('k', 1)", "map('l', 1)"),
    "map, a null in it": ("map('k', CAST(null AS INT))", "CAST(map() AS MAP<STRING, INT>)"),
    "map, empty and a null": ("CAST(map() AS MAP<STRING, INT>)", "CAST(null AS MAP<STRING, INT>)"),
    "map of structs": ("map('k', named_struct('a', 1))", "map('k', named_struct('a', 2))"),
    "variant": ("parse_json('[1]')", "parse_json('[2]')"),
    "variant, null in it and a null": ("parse_json('null')", "CAST(null AS VARIANT)"),
}  # fmt: skip


def of(spark: SparkSession, *values: str, others: str = "") -> Fingerprint:
    """The fingerprint of a row for each of these values, beside two columns that are the same in all."""
    rows = " UNION ALL ".join(f"SELECT {value} AS `c.d`, 7 AS id, 'x' AS s" for value in values)
    return row_fingerprints(spark.sql(f"SELECT * FROM ({rows}) {others}"))[0]


async def test_one_value_that_changes_makes_another_fingerprint_whatever_its_type(engine: SparkEngine) -> None:
    def work(spark: SparkSession) -> list[dict[str, Fingerprint]]:
        sides = (", ".join(f"{pair[side]} AS `{name}`" for name, pair in PAIRS.items()) for side in (0, 1))
        rows = spark.sql(
            " UNION ALL ".join(f"SELECT {number} AS side, {values}" for number, values in enumerate(sides))
        )
        return [column_fingerprints(rows.where(f"side = {side}").drop("side")) for side in (0, 1)]

    one, other = await engine.run(work, timeout=TIMEOUT)
    assert one.keys() == other.keys() == PAIRS.keys()
    assert [name for name in PAIRS if one[name] == other[name]] == []


async def test_the_order_of_rows_makes_no_other_fingerprint_and_their_number_does(engine: SparkEngine) -> None:
    def work(spark: SparkSession) -> tuple[Fingerprint, Fingerprint, Fingerprint]:
        return of(spark, "'a'", "'a'", "'b'"), of(spark, "'b'", "'a'", "'a'"), of(spark, "'a'", "'b'", "'b'")

    first, reordered, other = await engine.run(work, timeout=TIMEOUT)
    assert (first.rows, first == reordered, first == other) == (3, True, False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("map('a', 1, 'b', 2)", "map('b', 2, 'a', 1)"),
        ("double('NaN')", "-double('NaN')"),
    ],
)
async def test_what_is_the_same_has_the_same_fingerprint(engine: SparkEngine, one: str, other: str) -> None:
    first, second = await engine.run(lambda spark: (of(spark, one), of(spark, other)), timeout=TIMEOUT)
    assert first == second


async def test_values_that_move_between_columns_or_rows_are_seen(engine: SparkEngine) -> None:
    def work(spark: SparkSession) -> list[Fingerprint]:
        tables = (
            "VALUES (1, CAST(null AS INT)), (2, 3)",
            "VALUES (CAST(null AS INT), 1), (2, 3)",
            "VALUES (1, 3), (2, CAST(null AS INT))",
            "VALUES (1, CAST(null AS INT))",
        )
        return [row_fingerprints(spark.sql(f"SELECT * FROM {rows} AS t (a, b)"))[0] for rows in tables]

    assert len(set(await engine.run(work, timeout=TIMEOUT))) == 4


async def test_a_column_by_itself_says_which_values_there_are_and_lineage_is_none(engine: SparkEngine) -> None:
    def work(spark: SparkSession) -> list[dict[str, Fingerprint]]:
        tables = "VALUES (1, 'x', 5), (2, 'y', 6)", "VALUES (1, 'y', 7), (2, 'x', 8)", "VALUES (1, 'x', 9), (3, 'y', 9)"
        return [column_fingerprints(spark.sql(f"SELECT * FROM {rows} AS t (a, b, _row_id)")) for rows in tables]

    first, swapped, changed = await engine.run(work, timeout=TIMEOUT)
    assert first == swapped
    assert (first["a"] != changed["a"], first["b"] == changed["b"], sorted(first)) == (True, True, ["a", "b"])


async def test_no_row_has_a_fingerprint_and_many_columns_have_one(engine: SparkEngine) -> None:
    def work(spark: SparkSession) -> tuple[Fingerprint, Fingerprint, Fingerprint]:
        wide = ", ".join(f"if(id = {{}}, null, id) AS c{number}" for number in range(200))
        rows = [spark.sql(f"SELECT {wide.format(*[null] * 200)} FROM range(9)") for null in (3, 4)]
        return tuple(row_fingerprints(some)[0] for some in (rows[0].where("false"), *rows))  # type: ignore[return-value]

    nothing, one, other = await engine.run(work, timeout=TIMEOUT)
    assert (nothing, one.rows) == (Fingerprint(0), 9)
    assert one != other


async def test_ids_of_rows_have_a_fingerprint_of_their_own_with_the_rows_that_they_are_of(engine: SparkEngine) -> None:
    def work(spark: SparkSession) -> list[tuple[Fingerprint, Fingerprint]]:
        tables = {
            "plain": "(1, 10, 1), (2, 11, 1)",
            "swapped": "(1, 11, 1), (2, 10, 1)",
            "updated": "(1, 10, 2), (2, 11, 1)",
            "without": "(1, CAST(null AS BIGINT), CAST(null AS BIGINT)), (2, null, null)",
        }
        names = "id, _row_id, _last_updated_sequence_number"
        return [row_fingerprints(spark.sql(f"SELECT * FROM VALUES {rows} AS t ({names})")) for rows in tables.values()]

    found = await engine.run(work, timeout=TIMEOUT)
    assert len({values for values, _ in found}) == 1
    assert len({ids for _, ids in found}) == 4
    assert [ids.rows for _, ids in found] == [2, 2, 2, 0]
