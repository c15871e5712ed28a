"""Tables that Spark can't read are known by their schema before any work; those that it can read are worked on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.probe import table_facts
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.audit.records import FileFault, FindingKind
from icekeeper.core.calendar import window_of
from icekeeper.core.enums import AuditStatus, Decision, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.doctor.tables import table_checks
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, SLOT, Night, nights
from tests.integration.odd import MINUTE, Odd, create, insert, table_of

MIB = 1024**2
FILES = 6


@dataclass(frozen=True)
class Unsupported:
    """A second column, its type in Iceberg's Java API, and what is said of it."""

    column: str
    type: str
    said: str


def of_type(kind: str, words: str) -> Unsupported:
    return Unsupported("at", kind, f"the column at is of type {words}, which Spark can't read")


def reserved(name: str) -> Unsupported:
    return Unsupported(name, "String", f"the column {name} has a name that Iceberg reserves for its metadata columns")


UNSUPPORTED = {
    "a time": of_type("Time", "time"),
    "an instant in nanoseconds": of_type("TimestampNano.withZone", "timestamptz_ns"),
    "local nanoseconds": of_type("TimestampNano.withoutZone", "timestamp_ns"),
    "the name of the partition": reserved("_partition"),
    "the name of the file": reserved("_file"),
    "the name of the position": reserved("_pos"),
}
PLAYED = ("a time", "the name of the partition")
TWINS, TWICE = "cold.twins", "twice"


@pytest.fixture(scope="module")
async def night(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    def only_these(document: dict[str, Any]) -> None:
        some = {"source": "events", "timestamp": "ts"}
        document["tables"] = [{"name": table_of(name), **some} for name in UNSUPPORTED]
        document["tables"] += [
            {"name": table_of(f"{TWICE} {name}"), "compact": {"min_input_files": 3}, **some} for name in LISTED_TWICE
        ]
        document["tables"] += [
            {"name": f"{TWINS}_{how}", "compact": {"strategy": how, "min_input_files": 2, "prove": "100 %"}, **some}
            for how in ("sort", "binpack")
        ]

    async with nights(box, engine, tmp_path_factory.mktemp("unsupported")) as make_night:
        made = await make_night(COINBASE, change=only_these, days=0.25, files_per_commit=1, old_snapshots=0)
        made.services.ports.proofs.saved = timedelta(days=1)
        execute = partial(made.world.clickhouse.execute, database=made.world.clickhouse_database)
        execute("CREATE TABLE events (ts DateTime64(3)) ENGINE = MergeTree ORDER BY ts")
        execute("INSERT INTO events SELECT toDateTime64('2026-02-17 10:00:00', 3, 'UTC') FROM numbers(45)")
        yield made


def make_table(spark: SparkSession, catalog: str, table: str, columns: dict[str, Any]) -> Any:
    """A table by Iceberg's API, for Spark's SQL could not make it."""
    jvm: Any = IcebergJvm(spark)
    types = jvm.iceberg.types
    fields = [
        getattr(types, "Types$NestedField").optional(number, name, kind(types))
        for number, (name, kind) in enumerate(columns.items(), start=1)
    ]
    schema = jvm.iceberg.Schema(jvm.java.util.ArrayList(fields))
    namespace, _, name = table.rpartition(".")
    spaces = jvm.iceberg.catalog.Namespace.of(jvm.array(jvm.lang.String, (namespace,)))
    identifier = jvm.iceberg.catalog.TableIdentifier.of(spaces, name)
    properties = {"format-version": "3", "write.distribution-mode": "none"}
    spec = jvm.iceberg.PartitionSpec.unpartitioned()
    return jvm.open_catalog(catalog).icebergCatalog().createTable(identifier, schema, spec, properties)


def of(kind: str) -> Any:
    """One of Iceberg's types: `Time`, `Timestamp.withZone`."""
    name, _, way = kind.partition(".")
    return lambda types: getattr(getattr(types, f"Types${name}Type"), way or "get")()


def with_files(spark: SparkSession, catalog: str, table: str, case: Unsupported) -> None:
    """The table with small files by its manifests, of which no one reads any."""
    handle = make_table(spark, catalog, table, {"ts": of("Timestamp.withZone"), case.column: of(case.type)})
    jvm: Any = IcebergJvm(spark)
    append = handle.newAppend()
    for number in range(FILES):
        file = jvm.iceberg.DataFiles.builder(handle.spec()).withPath(f"{handle.location()}/data/{number}.parquet")
        append.appendFile(file.withFormat("parquet").withFileSizeInBytes(1000).withRecordCount(1).build())
    append.commit()


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in PLAYED else pytest.mark.long) for name in UNSUPPORTED]
)
async def test_a_column_that_spark_can_not_read_is_named_by_all_and_tried_once(night: Night, name: str) -> None:
    case, table = UNSUPPORTED[name], table_of(name)
    engine, catalog = night.services.engine, night.catalog
    await engine.run(partial(with_files, catalog=catalog, table=table, case=case), timeout=MINUTE)

    facts = await engine.run(lambda spark: table_facts(IcebergJvm(spark), catalog, table, 128 * MIB), timeout=MINUTE)
    (policy,) = [each for each in night.settings.policies() if each.name == table]
    checks = table_checks(catalog, [facts], {table: policy}, SLOT)
    assert f"{table}: {case.said}" in [check.text for check in checks]

    order = make_order(night.settings, SLOT, Trigger.MANUAL, stages=(Stage.COMPACT,), tables=(table,))
    ((planned,), errors) = await make_plans(order, night.services.ports)
    assert (planned.decision, planned.reason, planned.note) == (Decision.HOLD, Reason.TABLE_UNSUPPORTED, case.said)
    assert not errors

    report = await night.run(tables=(table,))
    compacted, expired, audited = report.tasks
    assert (compacted.outcome, compacted.reason, compacted.note) == (
        TaskOutcome.HELD, Reason.TABLE_UNSUPPORTED, case.said,
    )  # fmt: skip
    assert (expired.outcome, expired.reason) == (TaskOutcome.SKIPPED, Reason.NOTHING_EXPIRED)
    assert (audited.outcome, audited.reason) == (TaskOutcome.FAILED, Reason.TABLE_UNSUPPORTED)
    assert case.said in report.audits[0].notes
    assert [task.attempts for task in report.tasks] == [1, 1, 1]


@pytest.mark.parametrize("how", ["binpack", "sort"])
async def test_columns_that_differ_by_case_only_are_compacted_and_audited(night: Night, how: str) -> None:
    table, engine = f"{TWINS}_{how}", night.services.engine
    columns = {"TS": of("String"), "ts": of("Timestamp.withZone"), "price": of("Long"), "Price": of("Long")}
    rows = f"SELECT 'x', timestamp'2026-02-17 10:00:00', id, -id FROM range(0, 45, 1, {FILES})"

    def fill(spark: SparkSession) -> None:
        make_table(spark, night.catalog, table, columns)
        spark.conf.set("spark.sql.caseSensitive", "true")
        try:
            spark.sql(f"INSERT INTO {night.catalog}.{table} {rows}")
        finally:
            spark.conf.set("spark.sql.caseSensitive", "false")

    await engine.run(fill, timeout=MINUTE)
    report = await night.run(Stage.COMPACT, Stage.AUDIT, tables=(table,))
    (compacted, audited), (audit,) = report.tasks, report.audits
    assert (compacted.outcome, compacted.error, audited.error) == (TaskOutcome.DONE, None, None)
    assert "is the same" in compacted.note
    assert compacted.after is not None
    assert compacted.after.data_files == 1
    assert (audit.status, audit.iceberg_row_count) == (AuditStatus.OK, 45)
    setting = await engine.run(lambda spark: spark.conf.get("spark.sql.caseSensitive"), timeout=MINUTE)
    assert setting == "false"


@dataclass(frozen=True)
class Twice:
    """A file of p=bad, of the 17th, that is listed again, in this partition; and whether the table is held."""

    again: str
    held: bool = False


LISTED_TWICE = {
    "in its partition": Twice("p=bad/ts_day=2026-02-17"),
    "in a partition that has too few files": Twice("p=few/ts_day=2026-02-17"),
    "in one of another day": Twice("p=few/ts_day=2026-02-10"),
    "in one that is rewritten as well": Twice("p=good/ts_day=2026-02-17", held=True),
    "under an older partition spec": Twice("", held=True),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if "day" in name else pytest.mark.long) for name in LISTED_TWICE]
)
async def test_a_file_that_is_listed_twice_holds_its_partition_and_is_a_duplicate(night: Night, name: str) -> None:
    case, table = LISTED_TWICE[name], table_of(f"{TWICE} {name}")
    row = "{p}, timestamp'2026-02-{day} 10:00:00'"
    some = insert(row.format(p="if(id % 2 = 0, 'good', 'bad')", day=17), rows=40, files=4)
    few = (insert(row.format(p="'few'", day=day), rows=1, files=1) for day in (10, 17))
    fields = "PARTITIONED BY (p, days(ts))" if case.again else ""
    await create(night, table, Odd((some, *few), "p STRING, ts TIMESTAMP", fields))
    if not case.again:
        for field in ("p", "days(ts)"):
            await night.sql(f"ALTER TABLE {{c}}.{table} ADD PARTITION FIELD {field}")

    def list_again(spark: SparkSession) -> str:
        jvm: Any = IcebergJvm(spark)
        handle = jvm.load(night.services.lakehouse._tables.name(table))
        files = [task.file() for task in handle.newScan().planFiles().iterator()]
        file = next(one for one in files if not case.again or "/p=bad/" in str(one.location()))
        entry = jvm.iceberg.DataFiles.builder(handle.spec()).withPath(file.location()).withFormat("parquet")
        entry = entry.withFileSizeInBytes(file.fileSizeInBytes()).withRecordCount(file.recordCount())
        config = jvm.iceberg.MetricsConfig.forTable(handle)
        read = handle.io().newInputFile(file.location())
        entry = entry.withMetrics(jvm.iceberg.parquet.ParquetUtil.fileMetrics(read, config))
        entry = entry.withPartitionPath(case.again or "p=few/ts_day=2026-02-17")
        handle.newAppend().appendFile(entry.build()).commit()
        return str(file.location())

    path = await night.services.engine.run(list_again, timeout=MINUTE)
    before = await partition_files(night, table)
    report = await night.run(Stage.COMPACT, Stage.AUDIT, tables=(table,))
    compacted, (audit,) = report.tasks[0], report.audits
    assert compacted.error is None
    if case.held:
        assert (compacted.outcome, compacted.reason) == (TaskOutcome.HELD, Reason.COUNT_MISMATCH)
        assert f"files are listed twice: {path}" in compacted.note
        assert await partition_files(night, table) == before
    else:
        assert compacted.outcome is TaskOutcome.DONE
        assert f"not p=bad/ts_day=2026-02-17, where files are listed twice: {path}" in compacted.note
        assert await partition_files(night, table) == {**before, "good 2026-02-17": 1}
    assert (audit.status, audit.reason) == (AuditStatus.ERROR, Reason.COUNT_MISMATCH)
    assert [(bad.path, bad.fault) for bad in audit.bad_files] == [(path, FileFault.LISTED_TWICE)]
    assert [(finding.kind, finding.files) for finding in audit.findings] == [(FindingKind.DUPLICATE, (path,))]

    # As for `audit --again`, or where another thread has refreshed the table: the snapshot is current no more.
    assert audit.snapshot_id is not None
    await night.sql(f"INSERT INTO {{c}}.{table} SELECT * FROM {{c}}.{table} WHERE p = 'few' LIMIT 1")
    proof = await night.services.ports.lakehouse.prove_files(table, "ts", window_of(SLOT), MINUTE, audit.snapshot_id)
    assert [(bad.path, bad.fault) for bad in proof.bad] == [(path, FileFault.LISTED_TWICE)]


async def partition_files(night: Night, table: str) -> dict[str, int]:
    """How many files each partition has."""
    files = f"{{c}}.{table}.files"
    rows = await night.sql(f"SELECT partition.p, string(partition.ts_day), count(*) FROM {files} GROUP BY 1, 2")
    return {f"{p} {day}": count for p, day, count in rows}
