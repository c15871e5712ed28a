"""A table whose columns or partitions change between the plan of a compaction and its commit keeps every value."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.copying import row_groups
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import Stage, TaskOutcome
from icekeeper.core.runs import StageResult
from icekeeper.core.tables import planning
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, Night, nights
from tests.integration.odd import MINUTE, Odd, contents, create, insert, table_of

FILES = 3
COLUMNS = "id BIGINT, n INT, s STRING, t STRING, r STRING NOT NULL, p STRING, ts TIMESTAMP"
ROW = (
    "id, if(id % 5 = 0, null, int(id)), if(id % 7 = 0, null, concat('s', id % 3)), concat('t', id), 'r', "
    "if(id % 2 = 0, 'a', 'b'), timestamp'2026-02-10 10:00:00'"
)
TABLE = Odd((insert(ROW, rows=40, files=FILES),), COLUMNS, "PARTITIONED BY (p, days(ts))")
# What somebody does meanwhile, as what follows ALTER TABLE.
ALTERED = {
    "a column is added": ("ADD COLUMN more INT FIRST",),
    "a column is dropped": ("DROP COLUMN s",),
    "a column is dropped and another one gets its name": ("DROP COLUMN s", "ADD COLUMN s INT"),
    "two columns change their names": ("RENAME COLUMN s TO x", "RENAME COLUMN t TO s", "RENAME COLUMN x TO t"),
    "a column is widened": ("ALTER COLUMN n TYPE BIGINT",),
    "a required column may be null": ("ALTER COLUMN r DROP NOT NULL",),
    "the column of a partition is renamed": ("RENAME COLUMN p TO venue",),
    "a partition field is added": ("ADD PARTITION FIELD s",),
    "a partition field is replaced": ("REPLACE PARTITION FIELD days(ts) WITH hours(ts)",),
    "a partition field is dropped": ("DROP PARTITION FIELD p",),
    "a partition field is dropped with its column": ("DROP PARTITION FIELD p", "DROP COLUMN p"),
    "an order is given": ("WRITE ORDERED BY s DESC",),
    "the format version is raised": ("SET TBLPROPERTIES ('format-version' = '3')",),
    "other files are written": ("SET TBLPROPERTIES ('write.format.default' = 'orc')",),
}
# How it is rewritten, and when that happens: before the second of two slices is begun, or while the first one is read,
# before its commit.
WAYS = {"binpack": "between", "sort": "during", "copied": "during"}
PLAYED = (
    ("a partition field is dropped with its column", "binpack"),
    ("a column is dropped and another one gets its name", "copied"),
)
CASES = [(what, way) for what in ALTERED for way in WAYS]


def name_of(*case: str) -> str:
    return table_of(" ".join(case))


@pytest.fixture(scope="module")
async def night(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    def only_these(document: dict[str, Any]) -> None:
        ways: dict[str, dict[str, Any]] = {
            "binpack": {"strategy": "binpack"},
            "sort": {"strategy": "sort"},
            "copied": {"strategy": "auto", "copy_row_groups": True},
        }
        document["tables"] = [
            {
                "name": name_of(what, way),
                "timestamp": "id",
                "compact": {"min_input_files": 2, "prove": "100 %", "retries": 1, **ways[way]},
            }
            for what, way in CASES
        ]

    async with nights(box, engine, tmp_path_factory.mktemp("altered")) as make_night:
        yield await make_night(COINBASE, change=only_these, days=0.25, files_per_commit=1, old_snapshots=0)


def alter_once(night: Night, table: str, what: str, done: list[str]) -> Callable[[SparkSession], None]:
    def alter(spark: SparkSession) -> None:
        if not done:
            for change in ALTERED[what]:
                spark.sql(f"ALTER TABLE {night.catalog}.{table} {change}")
                done.append(change)

    return alter


def between(night: Night, alter: Callable[[SparkSession], None], monkeypatch: pytest.MonkeyPatch) -> None:
    compact, slices = night.services.lakehouse.compact, list[str]()

    async def altered_first(*arguments: Any) -> bool:
        slices.append("")
        if len(slices) == 2:
            await night.services.engine.run(alter, timeout=MINUTE)
        return await compact(*arguments)

    monkeypatch.setattr(night.services.lakehouse, "compact", altered_first)


def during(night: Night, alter: Callable[[SparkSession], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is loaded, and its rewrite planned, by then."""
    actions, keep = IcebergJvm.actions, row_groups._keep

    def of_action(jvm: IcebergJvm) -> Any:
        alter(jvm.spark)
        return actions(jvm)

    def of_copier(*arguments: Any) -> None:
        spark = SparkSession.getActiveSession()
        assert spark is not None
        alter(spark)
        keep(*arguments)

    monkeypatch.setattr(IcebergJvm, "actions", of_action)
    monkeypatch.setattr(row_groups, "_keep", of_copier)


async def compact(night: Night, table: str) -> StageResult:
    (task,) = (await night.run(Stage.COMPACT, tables=(table,))).tasks
    return task


@pytest.mark.parametrize(
    ("what", "way"),
    [pytest.param(*case, marks=() if case in PLAYED else pytest.mark.long) for case in CASES],
)
async def test_an_alteration_in_the_middle_of_a_compaction_leaves_every_value(
    night: Night, what: str, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SLICE_MAX_FILES", FILES)
    monkeypatch.setattr(planning, "COPY_MIN_SIZE", 1)
    table, done = name_of(what, way), list[str]()
    untouched = f"{table}_twin"
    for name in (table, untouched):
        await create(night, name, TABLE)
    with monkeypatch.context() as patch:
        alter = alter_once(night, table, what, done)
        (between if WAYS[way] == "between" else during)(night, alter, patch)
        task = await compact(night, table)
    await night.services.engine.run(alter_once(night, untouched, what, []), timeout=MINUTE)
    rows = await contents(night, untouched)

    assert done == list(ALTERED[what])
    assert await contents(night, table) == rows
    assert (task.outcome, task.error) == (TaskOutcome.DONE, None)
    # Slices are of the partitions of one spec: with another one they are planned anew.
    assert task.attempts == (2 if "partition field" in what else 1)
    # What an older partition spec wrote is written anew by the next night.
    again = await compact(night, table)
    assert again.outcome in (TaskOutcome.DONE, TaskOutcome.SKIPPED), again
    assert await contents(night, table) == rows
    last = await compact(night, table)
    assert last.outcome is TaskOutcome.SKIPPED, last
