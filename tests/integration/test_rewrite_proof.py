"""Rewrites that are not what they replaced, on the real engine: Spark is given other rows to write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from icekeeper.adapters.host import Host, wall_clock
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import Stage, TaskOutcome
from icekeeper.core.policy import CompactPolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult
from icekeeper.core.tables.plan import Slice
from icekeeper.core.tables.state import MISMATCH_TAG, RUN_ID_PROPERTY
from icekeeper.execution.acceptance import accept_rewrites
from icekeeper.execution.wiring import build
from icekeeper.sandbox import Sandbox, WorldSpec
from icekeeper.settings import load
from tests.conftest import COINBASE, SLOT, Night, no_waiting, tell_session, write_settings
from tests.integration.odd import MERGE_ON_READ, MINUTE, Odd, create, insert, make, table_of

SCHEMA = "id BIGINT, s STRING, price DECIMAL(18, 8), ts TIMESTAMP"
ROWS = (
    "id, if(id % 7 = 0, null, concat('s', id % 3)), CAST(id % 10 / 7 AS DECIMAL(18, 8)), "
    "timestamp'2026-02-10' + make_interval(0, 0, 0, int(id % 2))"
)
Change = Callable[[DataFrame], DataFrame]


@dataclass(frozen=True)
class Fault:
    """How rows are changed on their way, and what the error says of it.

    `prove`: of the content. `with_deletes` False: delete files are not applied. `stale`: the files are written by the
    schema of before `steps`.
    """

    change: Change
    caught: str
    prove: str = "off"
    steps: tuple[str, ...] = ()
    properties: str = ""
    with_deletes: bool = True
    stale: bool = False


def nothing(data: DataFrame) -> DataFrame:
    return data


def in_one_row(column: str, value: str) -> Change:
    return lambda data: data.withColumn(column, F.expr(f"if(id = 21, {value}, {column})"))


FAULTS = {
    "a value where a null was": Fault(in_one_row("s", "'s1'"), "s: 6 nulls after 7"),
    "a null where a value was": Fault(in_one_row("price", "null"), "price: 1 null after 0"),
    "a highest value that was not there": Fault(in_one_row("price", "9"), "price: another highest value"),
    "another value within the bounds": Fault(
        in_one_row("price", "CAST(0.5 AS DECIMAL(18, 8))"), "other values of price in ts_day=2026-02-11", "10 %"
    ),
    "values of two rows swapped": Fault(
        lambda data: data.withColumn("price", F.expr("CAST((10 - id % 10) % 10 / 7 AS DECIMAL(18, 8))")),
        "other values of price", "10 %",
    ),
    "a delete that has no effect": Fault(
        nothing, "45 live rows after 36: deletes were not applied",
        steps=("DELETE FROM {t} WHERE id % 5 = 0",), properties=MERGE_ON_READ, with_deletes=False,
    ),
    "ids of rows that are given anew": Fault(
        lambda data: data.drop("_row_id", "_last_updated_sequence_number"),
        "other ids of rows (_row_id, _last_updated_sequence_number)", "10 %", properties="'format-version' = '3'",
    ),
    "a column that is not written": Fault(
        lambda data: data.drop("venue"), "venue: the files that came do not have it, 45 values of it went",
        steps=("ALTER TABLE {t} ADD COLUMN venue STRING", insert(f"{ROWS}, 'here'", start=100)), stale=True,
    ),
}  # fmt: skip


# What the metrics of rewrites in which nothing is wrong come to.
DAYS = "PARTITIONED BY (days(ts))"
HEALTHY = {
    "a plain table": (Odd((insert(ROWS),), SCHEMA, DAYS), "; proven by metrics"),
    "columns renamed, added and dropped": (
        Odd(
            (insert(ROWS), "ALTER TABLE {t} RENAME COLUMN price TO cost", "ALTER TABLE {t} ADD COLUMN venue STRING",
             insert(f"{ROWS}, 'here'", start=100), "ALTER TABLE {t} DROP COLUMN s"),
            SCHEMA, DAYS,
        ),
        "; proven by metrics",
    ),
    "numbers that are none, and zeros": (
        Odd((insert("id, element_at(array(double('NaN'), -0.0D, 0.0D), int(id % 3 + 1))"),), "id BIGINT, x DOUBLE"),
        "; proven by metrics",
    ),
    "deletes to apply": (
        Odd((insert(ROWS), "DELETE FROM {t} WHERE id % 5 = 0"), SCHEMA, DAYS, MERGE_ON_READ),
        "; unproven: all columns (deletes were applied)",
    ),
    "a list": (
        Odd((insert("id, array(id)"),), "id BIGINT, l ARRAY<BIGINT>"),
        "; unproven: l.element (no counts)",
    ),
    "metrics of one column are off": (
        Odd((insert(ROWS),), SCHEMA, DAYS, "'write.metadata.metrics.column.price' = 'none'"),
        "; unproven: price (its metrics are off)",
    ),
    "rows with ids": (
        Odd((insert(ROWS),), SCHEMA, DAYS, "'format-version' = '3'"),
        "; unproven: _row_id (only its content shows it)",
    ),
}  # fmt: skip
# Rewrites whose content is compared, of tables whose rows have ids.
V3 = "ALTER TABLE {t} SET TBLPROPERTIES ('format-version' = '3')"
WITH_IDS = {
    "ids, of rows updated and deleted, too": Odd(
        (insert(ROWS), "DELETE FROM {t} WHERE id % 5 = 0", "UPDATE {t} SET s = 'u' WHERE id % 11 = 1",
         insert(ROWS, start=100)),
        SCHEMA, DAYS, f"'format-version' = '3', {MERGE_ON_READ}",
    ),
    "ids that come with the rewrite": Odd((insert(ROWS), V3), SCHEMA, DAYS),
    "ids that came with a commit": Odd((insert(ROWS), V3, insert(ROWS, start=100)), SCHEMA, DAYS),
}  # fmt: skip


@pytest.fixture(scope="module")
async def night(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    spec = WorldSpec(
        name=f"proof{uuid4().hex[:8]}", now=SLOT, days=0.25, commits_per_day=4, files_per_commit=1, rows_per_file=5,
        symbols=2, old_snapshots=0, tables=(COINBASE,),
    )  # fmt: skip
    world = await asyncio.to_thread(box.world, spec)

    def only_these(document: dict[str, Any]) -> None:
        document["tables"] = [
            {"name": table_of(name), "compact": {"prove": fault.prove, "min_input_files": 2}}
            for name, fault in FAULTS.items()
        ]
        document["tables"] += [{"name": table_of(name), "compact": {"prove": "off"}} for name in HEALTHY]
        document["tables"] += [{"name": table_of(name), "compact": {"prove": "100 %"}} for name in WITH_IDS]

    folder = tmp_path_factory.mktemp("proof")
    config = write_settings(world, folder / "icekeeper.yaml", folder / "state", only_these)
    settings = load(config)
    await tell_session(engine, settings)
    host = Host(wall_clock, {}, (settings.state_dir,))
    services = build(settings, engine, sleep=no_waiting, surroundings=host)
    await migrate(world.postgres.dsn(world.postgres_database), world.postgres.password)
    yield Night(box, world, config, settings, services, catalog=settings.catalog.name)
    await services.close()


def rewrite_wrongly(night: Night, fault: Fault, stale: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has the session rewrite a table as Iceberg's action does, with other rows."""

    async def compact(
        table: str, policy: CompactPolicy, part: Slice, run_id: UUID, timeout: timedelta, before_commit: Any = None
    ) -> bool:
        def work(spark: SparkSession) -> bool:
            _rewrite(spark, night.services.lakehouse._tables.name(table), fault, stale, run_id)
            return True

        return await night.services.engine.run(work, timeout=MINUTE)

    monkeypatch.setattr(night.services.lakehouse, "compact", compact)


def _rewrite(spark: SparkSession, name: str, fault: Fault, stale: Any, run_id: UUID) -> None:
    jvm: Any = IcebergJvm(spark)
    table, of_spark = jvm.load(name), jvm.iceberg.spark
    tasks = list(table.newScan().planFiles().iterator())
    if fault.with_deletes:
        data = spark.read.format("iceberg").load(_staged(jvm, table, tasks))
    else:
        before = table.history()[0].snapshotId()
        data = spark.read.option("versionAsOf", before).table(name)
    to = _staged(jvm, stale or table, tasks)
    changed = fault.change(data).repartitionByRange(1, "ts").sortWithinPartitions("ts")
    changed.write.format("iceberg").mode("append").save(to)
    change = table.newRewrite().validateFromSnapshot(table.currentSnapshot().snapshotId())
    for task in tasks:
        change.deleteFile(task.file())
    for file in of_spark.FileRewriteCoordinator.get().fetchNewFiles(stale or table, to):
        change.addFile(file)
    change.set(RUN_ID_PROPERTY, str(run_id))
    change.commit()


def _staged(jvm: Any, table: Any, tasks: list[Any]) -> str:
    name = uuid4().hex
    jvm.iceberg.spark.SparkTableCache.get().add(name, table)
    jvm.iceberg.spark.ScanTaskSetManager.get().stageTasks(table, name, tasks)
    return name


async def maintain(night: Night, table: str) -> list[StageResult]:
    report = await night.run(Stage.COMPACT, Stage.EXPIRE, tables=(table,))
    return list(report.tasks)


@pytest.mark.parametrize("name", FAULTS)
async def test_a_wrong_rewrite_fails_is_tagged_and_holds_its_table(
    night: Night, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault, table = FAULTS[name], table_of(name)
    partitions = "PARTITIONED BY (days(ts))"
    await create(night, table, Odd((insert(ROWS),), SCHEMA, partitions, fault.properties))
    before_steps = await night.services.engine.run(
        lambda spark: IcebergJvm(spark).load(night.services.lakehouse._tables.name(table)), timeout=MINUTE
    )
    await make(night, table, *fault.steps)
    rows = await night.sql(f"SELECT * FROM {night.catalog}.{table} ORDER BY id")
    before = await night.state(table)
    with monkeypatch.context() as patch:
        night.services.ports.proofs.saved = timedelta(hours=1)
        rewrite_wrongly(night, fault, before_steps if fault.stale else None, patch)
        compacted, _ = await maintain(night, table)

    assert (compacted.outcome, compacted.reason, compacted.attempts) == (TaskOutcome.FAILED, Reason.REWRITE_MISMATCH, 1)
    assert fault.caught in (compacted.error or "")
    (tag,) = [ref for ref in (await night.state(table)).refs if ref.name.startswith(MISMATCH_TAG)]
    assert (tag.kind, tag.snapshot_id) == ("tag", before.health.snapshot_id)
    assert "rollback_to_snapshot" in (compacted.error or "")
    await make(night, table, *["INSERT INTO {t} (id, ts) VALUES (1000, timestamp'2026-02-10')"] * 2)
    held, _ = await maintain(night, table)
    assert (held.outcome, held.reason) == (TaskOutcome.HELD, Reason.REWRITE_MISMATCH)

    # As docs/operations.md has it.
    appended = [snapshot.id for snapshot in (await night.state(table)).history if snapshot.operation == "append"][-2:]
    await night.sql(f"CALL {night.catalog}.system.rollback_to_snapshot('{table}', {tag.snapshot_id})")
    for snapshot_id in appended:
        await night.sql(f"CALL {night.catalog}.system.cherrypick_snapshot('{table}', {snapshot_id})")
    assert await accept_rewrites(night.services, table, "rolled back", "ada") == (tag.name,)
    again, _ = await maintain(night, table)
    assert (again.outcome, again.error) == (TaskOutcome.DONE, None)
    assert await night.sql(f"SELECT * FROM {night.catalog}.{table} WHERE id < 1000 ORDER BY id") == rows
    assert len(await night.sql(f"SELECT * FROM {night.catalog}.{table} WHERE id = 1000")) == len(appended) == 2


@pytest.mark.parametrize("name", HEALTHY)
async def test_a_healthy_rewrite_is_proven_or_it_is_said_why_not(night: Night, name: str) -> None:
    odd, proven = HEALTHY[name]
    await create(night, table_of(name), odd)
    compacted, _ = await maintain(night, table_of(name))
    assert (compacted.outcome, compacted.error) == (TaskOutcome.DONE, None)
    assert compacted.note.endswith(proven)


@pytest.mark.parametrize("name", WITH_IDS)
async def test_rows_keep_their_ids_and_those_that_had_none_prove_nothing_wrong(night: Night, name: str) -> None:
    await create(night, table_of(name), WITH_IDS[name])
    night.services.ports.proofs.saved = timedelta(hours=1)
    compacted, _ = await maintain(night, table_of(name))
    assert (compacted.outcome, compacted.error) == (TaskOutcome.DONE, None)
    assert "; proven by content; " in compacted.note
