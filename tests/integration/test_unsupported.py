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
TWINS, TWICE = "cold.twins", "cold.twice"


@pytest.fixture(scope="module")
async def night(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    def only_these(document: dict[str, Any]) -> None:
        some = {"source": "events", "timestamp": "ts"}
        document["tables"] = [{"name": table_of(name), **some} for name in UNSUPPORTED]
        document["tables"] += [{"name": TWICE, "compact": {"min_input_files": 2}, **some}]
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


async def test_a_file_that_is_listed_twice_holds_its_partition_and_is_a_duplicate(night: Night) -> None:
    row = "if(id % 2 = 0, 'good', 'bad'), timestamp'2026-02-17 10:00:00'"
    odd = Odd((insert(row, files=4),), "p STRING, ts TIMESTAMP", "PARTITIONED BY (p)")
    await create(night, TWICE, odd)

    def list_again(spark: SparkSession) -> str:
        handle = IcebergJvm(spark).load(night.services.lakehouse._tables.name(TWICE))
        files = [task.file() for task in handle.newScan().planFiles().iterator()]
        (file, *_) = [file for file in files if "/p=bad/" in str(file.location())]
        handle.newAppend().appendFile(file).commit()
        return str(file.location())

    path = await night.services.engine.run(list_again, timeout=MINUTE)
    report = await night.run(Stage.COMPACT, Stage.AUDIT, tables=(TWICE,))
    compacted, (audit,) = report.tasks[0], report.audits
    assert (compacted.outcome, compacted.error) == (TaskOutcome.DONE, None)
    assert f"not p=bad, where files are listed twice: {path}" in compacted.note
    files = await night.sql(f"SELECT partition.p, count(*) FROM {{c}}.{TWICE}.files GROUP BY 1 ORDER BY 1")
    assert [tuple(row) for row in files] == [("bad", 5), ("good", 1)]
    assert (audit.status, audit.reason) == (AuditStatus.ERROR, Reason.COUNT_MISMATCH)
    assert [bad.fault for bad in audit.bad_files] == [FileFault.LISTED_TWICE]
    assert [(finding.kind, finding.files) for finding in audit.findings] == [(FindingKind.DUPLICATE, (path,))]
