"""Which rows of a file a repair adds, by keys that one row has or several: exactly those that lack, or none."""

from __future__ import annotations

from datetime import timedelta

import pytest
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.repair.rows import lacking, with_key
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.audit.repair import NotRepairable, Refusal

# Of each key its values in the file, its rows in the table at that time and elsewhere in the audited window, and what
# is added: where each row counts, and where only keys do (None: refused).
CASES: list[tuple[list[str], int, int, list[str] | None, list[str] | None]] = [
    (["a"], 0, 0, ["a"], ["a"]),
    (["a"], 1, 0, [], []),
    (["a", "b"], 0, 0, ["a", "b"], None),
    (["a", "a"], 0, 0, ["a", "a"], ["a"]),
    (["a", "a"], 1, 0, ["a"], []),
    (["a", "b"], 1, 0, None, []),
    (["a", "b"], 2, 0, [], []),
    (["a"], 3, 0, [], []),
    (["a"], 0, 1, None, None),
    (["a", "a"], 1, 1, None, []),
    (["a"], 1, 1, [], []),
    # Values that a text without microseconds would make one.
    (["2026-02-17 09:00:00.000001", "2026-02-17 09:00:00.000002"], 1, 0, None, []),
    (["2026-02-17 09:00:00.000001", "2026-02-17 09:00:00.000002"], 0, 0, [
        "2026-02-17 09:00:00.000001", "2026-02-17 09:00:00.000002"], None),
]  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("by_rows", [True, False])
async def test_only_rows_that_surely_lack_are_added(engine: SparkEngine, by_rows: bool) -> None:
    expected = {f"k{n}": added if by_rows else keyed for n, (*_, added, keyed) in enumerate(CASES)}
    refused = [key for key, added in expected.items() if added is None]

    def work(spark: SparkSession) -> dict[str, list[str] | None]:
        found: dict[str, list[str] | None] = dict(
            _added(spark, [key for key in expected if key not in refused], by_rows)
        )
        for key in refused:
            with pytest.raises(NotRepairable) as error:
                _added(spark, [key], by_rows)
            assert error.value.refusal is Refusal.KEY_SHARED
            found[key] = None
        return found

    assert await engine.run(work, timeout=timedelta(minutes=10)) == expected


def _added(spark: SparkSession, keys: list[str], by_rows: bool) -> dict[str, list[str]]:
    """What is added of these cases, by key."""
    chosen = {key: CASES[int(key[1:])] for key in keys}
    rows = spark.createDataFrame(
        [(key, value) for key, case in chosen.items() for value in case[0]], "id string, v string"
    )
    rows = rows.selectExpr("id", "IF(length(v) > 1, NULL, v) AS text", "try_cast(v AS timestamp) AS at")
    held = [(key, inside, elsewhere) for key, (_, inside, elsewhere, *_) in chosen.items() if inside or elsewhere]
    counted = spark.createDataFrame(held, "id string, inside long, elsewhere long")
    found = {key: list[str]() for key in keys}
    for key, value in (
        lacking(with_key(rows, "id"), counted, "cold.a", by_rows=by_rows)
        .selectExpr("id", "coalesce(text, date_format(at, 'yyyy-MM-dd HH:mm:ss.SSSSSS'))")
        .collect()
    ):
        found[key].append(value)
    return {key: sorted(values) for key, values in found.items()}
