"""Odd tables for the tests: how each is made, and deletes that Spark itself never writes. The tests are elsewhere."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.core.tables import planning
from tests.conftest import Night

MINUTE = timedelta(minutes=1)

# A statement in which `{t}` is the table, `{n}` its name as a procedure takes it and `{c}` its catalog; or anything.
Step = str | Callable[[Night, str], Awaitable[None]]

# Rows of three days with nulls among them, unlike in each column.
ROW = "id, if(id % 7 = 0, null, concat('s', id % 3)), timestamp'2026-02-10' + make_interval(0, 0, 0, int(id % 3))"
# The compaction of a table of more than one partition is cut into slices from here on.
SLICE_FILES = 10


def insert(row: str = ROW, start: int = 0, rows: int = 45, files: int = 5) -> str:
    """Adds so many files to each partition: a task of Spark writes its own into each that it has rows for."""
    return f"INSERT INTO {{t}} SELECT {row} FROM range({start}, {start + rows}, 1, {files})"


@dataclass(frozen=True)
class Odd:
    """A table's past. `columns` are what is compared, `pruned` is counted with the partitions' help."""

    steps: tuple[Step, ...]
    schema: str = "id BIGINT, s STRING, ts TIMESTAMP"
    partitions: str = ""
    properties: str = ""
    columns: str = "*"
    pruned: str = ""
    dangling: bool = False
    sliced: bool = False


ALTER = "ALTER TABLE {t} "
MERGE_ON_READ = "'write.delete.mode' = 'merge-on-read', 'write.update.mode' = 'merge-on-read'"
FIFTHS = "DELETE FROM {t} WHERE id % 5 = 0"
ELEVENTHS = "UPDATE {t} SET s = 'u' WHERE id % 11 = 1"
# Files whose every row is deleted; a condition on the bare column would drop them as files.
WHOLE_FILES = (insert(start=1000, rows=5, files=1), "DELETE FROM {t} WHERE id div 1000 = 1")
WITH_LINEAGE = "*, _row_id, _last_updated_sequence_number"
NESTED = "named_struct('a', int(id)), map('k', named_struct('x', int(id))), array(named_struct('y', int(id)))"


def equality_deletes(column: str, *values: str | None, by_partition: bool = False) -> Step:
    """Deletes all rows with these values by an equality delete file, as Flink would; one a partition on demand."""

    async def step(night: Night, table: str) -> None:
        def write(spark: SparkSession) -> None:
            _write_equality_deletes(spark, _quoted(night, table), column, values, by_partition)

        await night.services.engine.run(write, timeout=MINUTE)

    return step


def _write_equality_deletes(
    spark: SparkSession, name: str, column: str, values: tuple[str | None, ...], by_partition: bool
) -> None:
    jvm = IcebergJvm(spark)
    iceberg: Any = jvm.iceberg
    gateway: Any = spark._sc._gateway
    table = jvm.load(name)
    spec, only = table.spec(), table.schema().select(gateway.jvm.java.util.List.of(column))
    ids = gateway.new_array(gateway.jvm.int, 1)
    ids[0] = table.schema().findField(column).fieldId()
    builder = getattr(iceberg.data, "GenericFileWriterFactory$Builder")(table)
    writers = builder.equalityFieldIds(ids).equalityDeleteRowSchema(only).build()
    files = iceberg.io.OutputFileFactory.builderFor(table, 1, 1).format(iceberg.FileFormat.PARQUET).build()
    places: dict[str, Any] = {"": None}
    if by_partition:
        tasks = [task.file().partition() for task in table.newScan().planFiles().iterator()]
        places = {spec.partitionToPath(partition): partition for partition in tasks}
    change = table.newRowDelta()
    for partition in places.values():
        file = files.newOutputFile() if partition is None else files.newOutputFile(spec, partition)
        writer = writers.newEqualityDeleteWriter(file, spec, partition)
        for value in values:
            record = iceberg.data.GenericRecord.create(only)
            record.setField(column, value)
            writer.write(record)
        writer.close()
        change.addDeletes(writer.toDeleteFile())
    change.commit()


async def add_a_column_with_a_default(night: Night, table: str) -> None:
    """What rows of before the column read is in the table's metadata alone (format version 3)."""

    def change(spark: SparkSession) -> None:
        jvm = IcebergJvm(spark)
        text = getattr(jvm.iceberg.types, "Types$StringType").get()
        default = jvm.iceberg.expressions.Expressions.lit("never said")
        jvm.load(_quoted(night, table)).updateSchema().addColumn("venue", text, "with a default", default).commit()

    await night.services.engine.run(change, timeout=MINUTE)


async def roll_back(night: Night, table: str) -> None:
    """One snapshot back: what came after it is in the table's metadata, and no reference leads there."""
    history = (await night.state(table)).history
    await night.sql(f"CALL {{c}}.system.rollback_to_snapshot('{table}', {history[-2].id})")


async def stage_a_write(night: Night, table: str) -> None:
    """Write-audit-publish: a snapshot that nobody has published."""
    await night.sql(f"ALTER TABLE {_quoted(night, table)} SET TBLPROPERTIES ('write.wap.enabled' = 'true')")
    await night.services.engine.run(lambda spark: spark.conf.set("spark.wap.id", "not-yet"), timeout=MINUTE)
    try:
        await make(night, table, insert("id, 'wap', null"))
    finally:
        await night.services.engine.run(lambda spark: spark.conf.unset("spark.wap.id"), timeout=MINUTE)


async def make(night: Night, table: str, *steps: Step) -> None:
    for step in steps:
        if isinstance(step, str):
            await night.sql(step.replace("{t}", _quoted(night, table)).replace("{n}", table))
        else:
            await step(night, table)


async def create(night: Night, table: str, odd: Odd) -> None:
    """Makes the table, with no shuffle that would bring together what a test wants apart."""
    apart = "'write.distribution-mode' = 'none', 'write.spark.fanout.enabled' = 'true'"
    properties = f"{apart}, {odd.properties}" if odd.properties else apart
    made = f"CREATE TABLE {{t}} ({odd.schema}) USING iceberg {odd.partitions} TBLPROPERTIES ({properties})"
    await make(night, table, made, *odd.steps)


async def contents(night: Night, table: str, columns: str = "*", pruned: str = "") -> tuple[list[str], int | None]:
    """All rows, sorted, and how many of them a filter finds that Iceberg answers by the partitions."""
    name = _quoted(night, table)
    rows = await night.sql(f"SELECT to_json(struct({columns})) FROM {name}")
    found = await night.sql(f"SELECT count(*) FROM {name} WHERE {pruned}") if pruned else [[None]]
    return sorted(row[0] for row in rows), found[0][0]


async def spark_jobs(night: Night) -> int:
    """How many jobs the session has ever started."""
    return await night.services.engine.run(
        lambda spark: int(spark.sparkContext._jsc.sc().dagScheduler().numTotalJobs()), timeout=MINUTE
    )


def table_of(shape: str) -> str:
    """A plain table name for a shape's description."""
    return "cold." + re.sub(r"\W+", "_", shape)


def _quoted(night: Night, table: str) -> str:
    return ".".join(f"`{part}`" for part in (night.world.catalog_name, *table.split(".")))


ODD: dict[str, Odd] = {
    "position deletes, of whole files too": Odd(
        (insert(), FIFTHS, *WHOLE_FILES), partitions="PARTITIONED BY (days(ts))", properties=MERGE_ON_READ,
        pruned="ts < timestamp'2026-02-11'", dangling=True,
    ),
    "deletion vectors beside position deletes of before": Odd(
        (insert(), FIFTHS, ALTER + "SET TBLPROPERTIES ('format-version' = '3')", ELEVENTHS, *WHOLE_FILES),
        properties=MERGE_ON_READ, columns=WITH_LINEAGE, dangling=True,
    ),
    "equality deletes everywhere, of a column dropped since": Odd(
        (insert(), equality_deletes("s", "s1", None), ALTER + "DROP COLUMN s"), dangling=True
    ),
    "equality deletes by partition, all of one": Odd(
        (insert(), equality_deletes("s", "s1", by_partition=True)), partitions="PARTITIONED BY (s)", pruned="s = 's2'",
        sliced=True, dangling=True,
    ),
    "equality deletes of every row": Odd((insert(), equality_deletes("s", "s0", "s1", "s2", None)), dangling=True),
    "format version 3, a variant and a default": Odd(
        (insert("id, parse_json(concat('[', id, ']'))"), add_a_column_with_a_default, FIFTHS,
         insert("id, null, 'own'", files=1)),
        schema="id BIGINT, v VARIANT", properties="'format-version' = '3', " + MERGE_ON_READ,
        columns=WITH_LINEAGE, pruned="venue = 'never said'",
    ),
    "days became hours and an identity": Odd(
        (insert(), FIFTHS, ALTER + "REPLACE PARTITION FIELD days(ts) WITH hours(ts)", ALTER + "ADD PARTITION FIELD s",
         insert(start=100, files=2)),
        partitions="PARTITIONED BY (days(ts))", properties=MERGE_ON_READ, pruned="s = 's1'",
    ),
    "two files a partition of an older spec": Odd(
        (insert(files=1), insert(files=1), ALTER + "REPLACE PARTITION FIELD days(ts) WITH hours(ts)"),
        partitions="PARTITIONED BY (days(ts))",
    ),
    "partitioned, not any more, and by another column again": Odd(
        (insert(), ALTER + "ADD PARTITION FIELD s", insert(start=100, files=2), ALTER + "DROP PARTITION FIELD s",
         ALTER + "DROP COLUMN s", insert("id, timestamp'2026-02-10'", start=200, files=2),
         ALTER + "ADD PARTITION FIELD days(ts)"),
        pruned="ts < timestamp'2026-02-11'",
    ),
    "format version 1 with a dropped partition field": Odd(
        (insert(), ALTER + "DROP PARTITION FIELD s", insert(start=100, files=2)),
        partitions="PARTITIONED BY (s, days(ts))", properties="'format-version' = '1'", pruned="s = 's1'",
    ),
    "partitions by words that need care, buckets and first letters": Odd(
        (insert("id, element_at(array(null, 'null', '', 'a/b c%41+=#?&\"ü😀', 'it''s\n'), int(id % 4 + 1)), null"),),
        partitions="PARTITIONED BY (s, bucket(1, id), truncate(1, s))", pruned="s = 'null'", sliced=True,
    ),
    "partitions by numbers that are none and instants near the epoch": Odd(
        (insert("element_at(array(double('NaN'), double('-Infinity'), -0.0D), int(id % 3 + 1)), "
                "timestamp_micros(1000), timestamp_ntz'1970-01-01 00:00:01'"),),
        schema="x DOUBLE, ts TIMESTAMP, local TIMESTAMP_NTZ", partitions="PARTITIONED BY (x, ts, local)",
        pruned="isnan(x)", sliced=True,
    ),
    "partitions by what lies in a struct, by decimals and wider numbers": Odd(
        (insert("int(id), named_struct('d', date'1969-12-31' + int(id % 3)), CAST(id % 3 / 7 AS DECIMAL(38, 8))"),
         ALTER + "ALTER COLUMN id TYPE BIGINT"),
        schema="id INT, e STRUCT<d: DATE>, amount DECIMAL(38, 8)",
        partitions="PARTITIONED BY (e.d, amount, truncate(100, id))", pruned="e.d = date'1969-12-31'", sliced=True,
    ),
    "partitions by bytes": Odd(
        (insert("id, CAST(concat('b', id % 3) AS BINARY)"),), schema="id BIGINT, b BINARY",
        partitions="PARTITIONED BY (b)", pruned="b = X'6230'", sliced=True,
    ),
    "evolved columns": Odd(
        (insert(f"int(id), float(id) / 3, CAST(id AS DECIMAL(9, 2)), {NESTED}, 'r', 's1', timestamp'2026-02-10'"),
         *(ALTER + change for change in (
             "ALTER COLUMN id TYPE BIGINT", "ALTER COLUMN f TYPE DOUBLE", "ALTER COLUMN d TYPE DECIMAL(20, 2)",
             "ALTER COLUMN r DROP NOT NULL", "ADD COLUMN st.b STRING", "ADD COLUMN m.value.z STRING",
             "ADD COLUMN l.element.z STRING", "ADD COLUMN first INT FIRST", "RENAME COLUMN ts TO event_time",
             "DROP COLUMN s", "ADD COLUMN s STRING"))),
        schema="id INT, f FLOAT, d DECIMAL(9, 2), st STRUCT<a: INT>, m MAP<STRING, STRUCT<x: INT>>, "
        "l ARRAY<STRUCT<y: INT>>, r STRING NOT NULL, s STRING, ts TIMESTAMP",
    ),
    "orc and avro files with deletes": Odd(
        (insert(), FIFTHS, ALTER + "SET TBLPROPERTIES ('write.format.default' = 'avro')", insert(start=100), ELEVENTHS),
        properties="'write.format.default' = 'orc', " + MERGE_ON_READ, dangling=True,
    ),
    "a sort order, statistics, object storage paths, sizes and metadata of its own": Odd(
        (insert(), ALTER + "UNSET TBLPROPERTIES ('write.spark.fanout.enabled', 'write.distribution-mode')",
         ALTER + "WRITE DISTRIBUTED BY PARTITION LOCALLY ORDERED BY s DESC NULLS LAST, id",
         "CALL {c}.system.compute_table_stats('{n}')"),
        partitions="PARTITIONED BY (days(ts))",
        properties="'write.object-storage.enabled' = 'true', 'write.target-file-size-bytes' = '1024', "
        "'write.metadata.delete-after-commit.enabled' = 'true', 'write.metadata.previous-versions-max' = '1'",
    ),
    "rolled back, and a write that is not published": Odd(
        (insert(), "INSERT INTO {t} VALUES (1, 's1', null)", roll_back, stage_a_write)
    ),
    "made anew over an old table": Odd(
        (insert(), "CREATE OR REPLACE TABLE {t} (s STRING) USING iceberg PARTITIONED BY (s) TBLPROPERTIES "
         "('write.distribution-mode' = 'none')", insert("concat('s', id % 2)")),
        pruned="s = 's1'",
    ),
}  # fmt: skip


def shape_slices(odd: Odd, monkeypatch: Any) -> None:
    """Few files a slice, where the table is to be compacted in several."""
    if odd.sliced:
        monkeypatch.setattr(planning, "SLICE_MAX_FILES", SLICE_FILES)
