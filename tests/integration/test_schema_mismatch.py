"""Files of other engines that do not fit their table's schema: what a rewrite would change is not rewritten."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from secrets import token_hex
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.proof import schema_fit
from icekeeper.adapters.iceberg.proof.reading import FileAnswer, read_footers
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.audit.certificates import Uncertified
from icekeeper.core.audit.evidence import uncertified
from icekeeper.core.audit.records import FileFault, FindingKind
from icekeeper.core.calendar import window_of
from icekeeper.core.enums import AuditStatus, Stage, TaskOutcome, Trigger
from icekeeper.core.policy import CompactPolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables import planning
from icekeeper.core.tables.plan import Slice
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, SLOT, Night, nights
from tests.integration.odd import MINUTE, Odd, Step, contents, create, insert, make, table_of

AT, AT_SQL = datetime(2026, 2, 17, 10, tzinfo=UTC), "timestamp'2026-02-17 10:00:00'"
# Spark writes so many files into both partitions; another engine adds one to the second.
FILES = 4
ROW = "p STRING, ts TIMESTAMP, v DOUBLE NOT NULL"


def column(kind: pa.DataType, name: str = "v", number: int = 3) -> pa.Field:
    """A column of a file with its field id, and nullable, as other engines have all of theirs."""
    return pa.field(name, kind, metadata={b"PARQUET:field_id": str(number).encode()})


@dataclass(frozen=True)
class Case:
    """A table's column `v` (its third), what Spark writes into it, and how the file of another engine has it.

    `said`: what is said of that file; empty: it fits. `metrics`: whether its manifest has counts. `ids`: whether its
    columns have field ids. `foreign` None: the file lacks the column. `steps`: with the table before the file comes.
    `p`: how the file has the partition's column. An ORC file's manifest has null counts of `v` alone.
    """

    declared: str
    value: str
    foreign: pa.Field | None
    values: tuple[Any, Any]
    said: str = ""
    metrics: bool = True
    ids: bool = True
    steps: tuple[Step, ...] = ()
    p: tuple[pa.DataType, Any] = (pa.string(), "bad")
    form: str = "parquet"
    codec: str = "snappy"


def null_in(declared: str, value: str, kind: pa.DataType, one: Any, **more: Any) -> Case:
    said = "the required column v holds 1 null"
    return Case(f"{declared} NOT NULL", value, column(kind), (one, None), said, **more)


def of_type(declared: str, value: str, kind: pa.DataType, one: Any, said: str = "") -> Case:
    return Case(declared, value, column(kind), (one, one), said)


async def require_element(night: Night, table: str) -> None:
    """No SQL of Spark's makes the elements of a list required."""

    def change(spark: SparkSession) -> None:
        handle = IcebergJvm(spark).load(night.services.lakehouse._tables.name(table))
        handle.updateSchema().allowIncompatibleChanges().requireColumn("v.element").commit()

    await night.services.engine.run(change, timeout=MINUTE)


NAMES = json.dumps([{"field-id": number, "names": [name]} for number, name in enumerate(("p", "ts", "v"), start=1)])
MAPPED = f"ALTER TABLE {{t}} SET TBLPROPERTIES ('schema.name-mapping.default' = '{NAMES}')"
STRUCT = pa.struct([column(pa.int32(), "a", 4)])
LIST = pa.list_(column(pa.int32(), "element", 4))
IN_STRUCT = ("STRUCT<a: INT NOT NULL>", "named_struct('a', int(id))", column(STRUCT))
IN_LIST = ("ARRAY<INT>", "array(int(id))", column(LIST))
UNNAMED = "its columns have no field ids, and the table has no name mapping"
CASES = {
    "a null in a required double": null_in("DOUBLE", "double(id)", pa.float64(), 7.5),
    "neither field ids nor a name mapping": replace(
        of_type("BIGINT", "id", pa.int64(), 7, UNNAMED), ids=False, metrics=False
    ),
    "an int where the table has a long": of_type("BIGINT", "id", pa.int32(), 7),
    "a null in a required int": null_in("INT", "int(id)", pa.int32(), 7),
    "a null in a required int, without metrics": null_in("INT", "int(id)", pa.int32(), 7, metrics=False),
    "a null in a required long": null_in("BIGINT", "id", pa.int64(), 7),
    "a null in a required string": null_in("STRING", "string(id)", pa.string(), "x"),
    "a null in a required decimal": null_in(
        "DECIMAL(18, 8)", "CAST(id AS DECIMAL(18, 8))", pa.decimal128(18, 8), Decimal("1.50000000"), metrics=False
    ),
    "a null in a required timestamp": null_in("TIMESTAMP", AT_SQL, pa.timestamp("us", "UTC"), AT),
    "a null in a required field of a struct": Case(
        *IN_STRUCT, ({"a": 7}, {"a": None}), "the required column v.a holds 1 null"
    ),
    "no struct where its field is required": Case(*IN_STRUCT, ({"a": 7}, None)),
    "a null in a list whose elements are required": Case(
        *IN_LIST, ([7, None, None], []), "the required column v.element holds 2 nulls", steps=(require_element,)
    ),
    "no list where its elements are required": Case(*IN_LIST, ([7], None), steps=(require_element,)),
    "a required column that is not there": Case(
        "BIGINT NOT NULL", "id", None, (0, 0), "the required column v is not in it"
    ),
    "an int where the table has a string": of_type(
        "STRING", "string(id)", pa.int32(), 7, "the column v is string in the table and int in the file"
    ),
    "a long where the table has an int": of_type(
        "INT", "int(id)", pa.int64(), 7, "the column v is int in the table and long in the file"
    ),
    "nanoseconds where the table has microseconds": of_type(
        "TIMESTAMP", AT_SQL, pa.timestamp("ns", "UTC"), AT,
        "the column v is timestamptz in the table and timestamptz_ns in the file",
    ),
    "digits after the point that the table has not": of_type(
        "DECIMAL(9, 2)", "CAST(id AS DECIMAL(9, 2))", pa.decimal128(9, 3), Decimal("1.505"),
        "the column v is decimal(9, 2) in the table and decimal(9, 3) in the file",
    ),
    "a float where the table has a double": of_type("DOUBLE", "double(id)", pa.float32(), 7.5),
    "a decimal of fewer digits": of_type(
        "DECIMAL(18, 2)", "CAST(id AS DECIMAL(18, 2))", pa.decimal128(9, 2), Decimal("1.50")
    ),
    "milliseconds where the table has microseconds": of_type("TIMESTAMP", AT_SQL, pa.timestamp("ms", "UTC"), AT),
    "no field ids but a name mapping": replace(
        of_type("BIGINT", "id", pa.int64(), 7), ids=False, metrics=False, steps=(MAPPED,)
    ),
    "a null without field ids, by a name mapping": null_in(
        "BIGINT", "id", pa.int64(), 7, ids=False, metrics=False, steps=(MAPPED,)
    ),
    "a null in an orc file, by its manifest": null_in("DOUBLE", "double(id)", pa.float64(), 7.5, form="orc"),
    "a column without a field id beside others with": Case(
        "BIGINT", "id", pa.field("v", pa.int64()), (7, 7), "the column v has no field id in the file"
    ),
    "a list whose elements have no field id": Case(
        "ARRAY<INT>", "array(int(id))", column(pa.list_(pa.int32())), ([7], [7]),
        "the column v.element has no field id in the file",
    ),
    "pages of a codec that is not there": Case(
        *IN_STRUCT, ({"a": 7}, None), codec="brotli",
        said="the nulls of the required column v.a can't be counted: "
        "Class org.apache.hadoop.io.compress.BrotliCodec was not found",
    ),
    "a partition's column of another type": replace(
        of_type("BIGINT", "id", pa.int64(), 7), p=(pa.int32(), 5), metrics=False
    ),
}  # fmt: skip
PLAYED = tuple(CASES)[:3]
AUDITED, WHOLE, READ, LATE = "cold.audited", "cold.whole", "cold.read", "cold.late"
MIXED, UNSURE = "cold.mixed", "cold.unsure"
GROWN, EVOLVED = "cold.grown", "cold.evolved"
# Files of two thirds of this: small for Iceberg's planner, and a rewrite would make as many.
TARGET, LARGE = "1MiB", 690_000


@pytest.fixture(scope="module")
async def night(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    def only_these(document: dict[str, Any]) -> None:
        some = {"compact": {"prove": "off", "min_input_files": 2}}
        document["tables"] = [
            {"name": name, **some} for name in (*map(table_of, CASES), WHOLE, READ, LATE, MIXED, UNSURE, GROWN)
        ]
        document["tables"] += [{"name": EVOLVED, "compact": {**some["compact"], "target_file_size": TARGET}}]
        document["tables"] += [{"name": AUDITED, "source": "audited", "timestamp": "ts", **some}]

    async with nights(box, engine, tmp_path_factory.mktemp("fit")) as make_night:
        yield await make_night(COINBASE, change=only_these, days=0.25, files_per_commit=1, old_snapshots=0)


async def plant(night: Night, table: str, case: Case, partitions: str = "PARTITIONED BY (p)") -> str:
    """The table with files of Spark's in both of its partitions, and one of another engine in `bad`: its path."""
    row = f"if(id % 2 = 0, 'good', 'bad'), {AT_SQL}, {case.value}"
    odd = Odd(
        (insert(row, rows=40, files=FILES), *case.steps), f"p STRING, ts TIMESTAMP, v {case.declared}", partitions
    )
    await create(night, table, odd)
    (path,) = await add_foreign(night, table, case, partition="p=bad" if partitions else "")
    return path


async def add_foreign(night: Night, table: str, *cases: Case, partition: str = "p=bad") -> list[str]:
    """Adds the files of these cases by one commit."""

    def add(spark: SparkSession) -> list[str]:
        jvm: Any = IcebergJvm(spark)
        handle = jvm.load(night.services.lakehouse._tables.name(table))
        append = handle.newAppend()
        some = [_foreign(jvm, handle, night, case, partition) for case in cases]
        for file in some:
            append.appendFile(file)
        append.commit()
        return [file.location() for file in some]

    return await night.services.engine.run(add, timeout=MINUTE)


def null_counts(jvm: Any, counts: dict[int, int]) -> Any:
    """A map of Java's whose values are longs, which py4j does not make of small numbers."""
    databind = jvm.spark._jvm.com.fasterxml.jackson.databind
    kinds = (jvm.lang.Class.forName(f"java.{name}") for name in ("util.HashMap", "lang.Integer", "lang.Long"))
    kind = databind.type.TypeFactory.defaultInstance().constructMapType(*kinds)
    return databind.ObjectMapper().readValue(json.dumps(counts), kind)


def _foreign(jvm: Any, handle: Any, night: Night, case: Case, partition: str) -> Any:
    """A file of another engine, as a commit takes it."""
    folder = f"{handle.location()}/data/{partition}".rstrip("/")
    path = f"{folder}/foreign-{uuid4().hex}.{case.form}"
    kind, value = case.p
    fields = [column(kind, "p", 1), column(pa.timestamp("us", "UTC"), "ts", 2)]
    values = [pa.array([value] * 2, kind), pa.array([AT] * 2, fields[1].type)]
    if case.foreign is not None:
        fields.append(case.foreign)
        values.append(pa.array(case.values, case.foreign.type))
    if not case.ids:
        fields = [field.remove_metadata() for field in fields]
    rows = pa.table(values, schema=pa.schema(fields))
    with night.box.s3.filesystem().open_output_stream(path.partition("://")[2]) as stream:
        if case.form == "orc":
            pa.orc.write_table(rows, stream)
        else:
            pq.write_table(rows, stream, compression=case.codec)
    file = handle.io().newInputFile(path)
    added = jvm.iceberg.DataFiles.builder(handle.spec()).withPath(path).withFormat(case.form)
    added = added.withFileSizeInBytes(file.getLength()).withRecordCount(len(case.values))
    if partition:
        added = added.withPartitionPath(partition)
    if case.metrics and case.form == "orc":
        counts = null_counts(jvm, {3: case.values.count(None)})
        added = added.withMetrics(jvm.iceberg.Metrics(len(case.values), None, counts, counts, None))
    elif case.metrics:
        config = jvm.iceberg.MetricsConfig.forTable(handle)
        added = added.withMetrics(jvm.iceberg.parquet.ParquetUtil.fileMetrics(file, config))
    return added.build()


async def files(night: Night, table: str) -> dict[str, set[str]]:
    """The paths of the table's files by partition."""
    rows = await night.sql(f"SELECT partition.p, collect_set(file_path) FROM {{c}}.{table}.files GROUP BY 1")
    return {row[0]: set(row[1]) for row in rows}


async def planned_note(night: Night, table: str) -> str:
    order = make_order(night.settings, SLOT, Trigger.MANUAL, stages=(Stage.COMPACT,), tables=(table,))
    ((planned,), _) = await make_plans(order, night.services.ports)
    return planned.note


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in PLAYED else pytest.mark.long) for name in CASES]
)
async def test_a_file_that_does_not_fit_its_table_is_not_rewritten(night: Night, name: str) -> None:
    case, table = CASES[name], table_of(name)
    path = await plant(night, table, case)
    before = await files(night, table)
    assert path in before["bad"]
    rows = None if case.said else await contents(night, table)
    planned = await planned_note(night, table)

    proof = await night.services.ports.lakehouse.prove_files(table, "ts", window_of(SLOT), MINUTE)
    (task,) = (await night.run(Stage.COMPACT, tables=(table,))).tasks

    after = await files(night, table)
    assert (task.outcome, task.error, len(after["good"])) == (TaskOutcome.DONE, None, 1)
    if not case.said:
        assert (proof.bad, len(after["bad"])) == ((), 1)
        assert await contents(night, table) == rows
        return
    assert [(bad.path, bad.fault, bad.detail) for bad in proof.bad] == [(path, FileFault.SCHEMA, case.said)]
    assert after["bad"] == before["bad"]
    left_out = f"not p=bad, where a rewrite would change files that do not fit the schema: {path} ({case.said})"
    assert left_out in planned
    assert left_out in task.note


async def test_each_footer_is_read_once(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []

    def counting(*arguments: Any, **options: bool) -> list[FileAnswer]:
        jvm, prover, footers, planned, numbers = arguments
        chosen = list(numbers)
        read.append(len(chosen))
        return read_footers(jvm, prover, footers, planned, chosen, **options)

    monkeypatch.setattr(schema_fit, "read_footers", counting)
    await plant(night, READ, CASES["an int where the table has a long"])
    await planned_note(night, READ)
    assert read == [2 * FILES + 1]
    await planned_note(night, READ)
    await make(night, READ, insert(f"'good', {AT_SQL}, id", files=FILES))
    await planned_note(night, READ)
    assert read == [2 * FILES + 1, FILES]


async def test_files_of_one_commit_are_each_compared(night: Night) -> None:
    case = CASES["nanoseconds where the table has microseconds"]
    fits = replace(case, foreign=column(pa.timestamp("us", "UTC")))
    await plant(night, MIXED, fits)
    _, unfit = await add_foreign(night, MIXED, fits, case)
    assert f"{unfit} ({case.said})" in await planned_note(night, MIXED)


async def test_an_orc_file_without_null_counts_is_held_and_is_no_fault_to_an_audit(night: Night) -> None:
    case = replace(CASES["a null in an orc file, by its manifest"], metrics=False)
    path = await plant(night, UNSURE, case)
    for _ in range(2):
        proof = await night.services.ports.lakehouse.prove_files(UNSURE, "ts", window_of(SLOT), MINUTE)
        note = await planned_note(night, UNSURE)
        assert f"{path} (whether the required column v holds nulls is not known)" in note
        assert proof.bad == ()


async def test_a_file_that_comes_after_the_plan_is_not_rewritten(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes between the two slices of a compaction: the second one is planned anew."""
    case = CASES["a null in a required double"]
    await plant(night, LATE, replace(case, values=(7.5, 8.5)))
    monkeypatch.setattr(planning, "SLICE_MAX_FILES", FILES + 1)
    compact, paths = night.services.lakehouse.compact, list[str]()

    async def one_comes_first(table: str, policy: CompactPolicy, part: Slice, *arguments: Any) -> bool:
        if part.partitions == ("p=good",):
            paths.extend(await add_foreign(night, LATE, case, partition="p=good"))
        return await compact(table, policy, part, *arguments)

    monkeypatch.setattr(night.services.lakehouse, "compact", one_comes_first)
    (task,) = (await night.run(Stage.COMPACT, tables=(LATE,))).tasks
    after = await files(night, LATE)
    assert (task.outcome, task.attempts, len(after["bad"]), len(after["good"])) == (TaskOutcome.DONE, 2, 1, FILES + 1)
    assert paths[0] in after["good"]


async def test_an_old_file_of_which_there_were_not_enough_is_not_rewritten_when_one_more_comes_after_the_plan(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All partitions of the plan are rewritten, so that the slice names none. Another plan of the table comes first."""
    case = CASES["a null in a required double"]
    await create(night, GROWN, Odd((insert(f"'good', {AT_SQL}, double(id)", files=FILES),), ROW, "PARTITIONED BY (p)"))
    (path,) = await add_foreign(night, GROWN, case)
    compact, paths = night.services.lakehouse.compact, list[str]()

    async def one_comes_first(table: str, policy: CompactPolicy, part: Slice, *arguments: Any) -> bool:
        if not paths:
            assert part.partitions == ()
            paths.extend(await add_foreign(night, GROWN, replace(case, values=(7.5, 8.5))))
            await planned_note(night, GROWN)
        return await compact(table, policy, part, *arguments)

    monkeypatch.setattr(night.services.lakehouse, "compact", one_comes_first)
    (task,) = (await night.run(Stage.COMPACT, tables=(GROWN,))).tasks
    after = await files(night, GROWN)
    assert (task.outcome, task.attempts, len(after["good"])) == (TaskOutcome.DONE, 2, 1)
    assert after["bad"] == {path, *paths}


async def test_a_file_that_is_rewritten_along_with_those_of_an_older_spec_is_compared_as_well(night: Night) -> None:
    """Files of an older spec can't be selected by partition: the action takes whatever the planner groups."""
    case = CASES["a null in a required string"]
    large = "concat_ws('', transform(sequence(1, 1890), x -> sha2(concat(id, ' ', x), 512)))"
    steps = (
        insert(f"'good', {AT_SQL}, string(id)", files=FILES),
        "ALTER TABLE {t} ADD PARTITION FIELD p",
        insert(f"'bad', {AT_SQL}, {large}", rows=5 * FILES, files=FILES),
    )
    await create(night, EVOLVED, Odd(steps, "p STRING, ts TIMESTAMP, v STRING NOT NULL"))
    (path,) = await add_foreign(night, EVOLVED, replace(case, values=(token_hex(LARGE // 2), None)))
    policy = next(each.compact for each in night.settings.policies() if each.name == EVOLVED)
    groups = await night.services.ports.lakehouse.file_groups(EVOLVED, policy)
    assert {(group.older_spec, group.gains, bool(group.unfit)) for group in groups} == {
        (True, True, False),
        (False, False, True),
    }
    before = await night.state(EVOLVED)
    (task,) = (await night.run(Stage.COMPACT, tables=(EVOLVED,))).tasks
    assert (task.outcome, task.reason) == (TaskOutcome.HELD, Reason.SCHEMA_MISMATCH)
    assert path in task.note
    assert await night.state(EVOLVED) == before


async def test_a_table_without_partitions_is_held(night: Night) -> None:
    path = await plant(night, WHOLE, CASES["a null in a required double"], partitions="")
    before = await night.state(WHOLE)
    (task,) = (await night.run(Stage.COMPACT, tables=(WHOLE,))).tasks
    assert (task.outcome, task.reason, task.attempts) == (TaskOutcome.HELD, Reason.SCHEMA_MISMATCH, 1)
    assert path in task.note
    assert await night.state(WHOLE) == before


async def test_an_audit_finds_the_file_and_certifies_no_day_until_the_schema_is_mended(night: Night) -> None:
    execute = partial(night.world.clickhouse.execute, database=night.world.clickhouse_database)
    execute("CREATE TABLE audited (ts DateTime64(3)) ENGINE = MergeTree ORDER BY ts")
    execute("INSERT INTO audited SELECT toDateTime64('2026-02-17 10:00:00', 3, 'UTC') FROM numbers(42)")
    path = await plant(night, AUDITED, CASES["a null in a required double"])

    first = await night.run(Stage.COMPACT, Stage.AUDIT, tables=(AUDITED,))
    again = await night.run(Stage.COMPACT, tables=(AUDITED,))

    (audit,) = first.audits
    assert (audit.status, audit.reason) == (AuditStatus.ERROR, Reason.SCHEMA_MISMATCH)
    assert [(finding.kind, finding.files, finding.rows) for finding in audit.findings] == [
        (FindingKind.FILE, (path,), 2)
    ]
    assert uncertified(audit) is Uncertified.BAD_FILES
    assert f"do not fit the table's schema, with 2 rows by these manifests: {path}" in audit.notes
    assert (again.tasks[0].outcome, again.tasks[0].reason) == (TaskOutcome.HELD, Reason.SCHEMA_MISMATCH)

    await make(night, AUDITED, "ALTER TABLE {t} ALTER COLUMN v DROP NOT NULL")
    rows = await contents(night, AUDITED)
    mended = await night.run(Stage.AUDIT, Stage.COMPACT, tables=(AUDITED,))
    again = await night.run(Stage.COMPACT, tables=(AUDITED,))
    assert (mended.audits[0].status, mended.audits[0].findings) == (AuditStatus.OK, ())
    assert (again.tasks[0].outcome, await contents(night, AUDITED)) == (TaskOutcome.DONE, rows)
