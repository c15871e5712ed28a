"""Files whose row groups are copied, not rewritten: which of them, and that two readers find the same rows after it."""

from __future__ import annotations

import base64
import io
import json
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.copying import row_groups
from icekeeper.adapters.iceberg.deleting.kept import KeptPaths
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.proof.compiled import ROW_GROUP_COPIER, new_instance
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import Stage, TaskOutcome
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult
from icekeeper.core.tables import planning
from icekeeper.sandbox import Sandbox
from tests.conftest import COINBASE, Night, nights
from tests.integration.odd import (
    ALTER,
    FIFTHS,
    MERGE_ON_READ,
    MINUTE,
    Odd,
    Step,
    contents,
    create,
    insert,
    table_of,
)

DAYS = "PARTITIONED BY (days(ts))"
PLAIN = "id BIGINT, s STRING, price DECIMAL(18, 8), ts TIMESTAMP"
ROWS = (
    "id, if(id % 7 = 0, null, concat('s', id % 3)), CAST(id / 7 AS DECIMAL(18, 8)), "
    "timestamp'2026-02-10' + make_interval(0, 0, 0, int(id % 2))"
)
NESTED = (
    "id BIGINT, st STRUCT<a: INT, deep: STRUCT<t: STRING>>, l ARRAY<STRUCT<y: DOUBLE>>, m MAP<STRING, ARRAY<INT>>, "
    "none STRING, ts TIMESTAMP"
)
NESTED_ROWS = (
    "id, if(id % 5 = 0, null, named_struct('a', int(id), 'deep', named_struct('t', string(id)))), "
    "if(id % 3 = 0, null, array(named_struct('y', double(id)), null)), map('k', array(int(id), null)), null, "
    "timestamp'2026-02-10'"
)
FLOATS = "id BIGINT, x DOUBLE, f FLOAT, never DOUBLE"
FLOAT_ROWS = (
    "id, if(id < 9, double('NaN'), element_at(array(double('NaN'), -0.0D, id / 3.0D, null), int(id % 4 + 1))), "
    "float(id), double('NaN')"
)
# Parquet's writers leave statistics out where the lowest and the highest value take 4 KiB together.
LONG_TEXTS = "id, if(id % 9 = 0, null, concat(sha2(string(id), 512), repeat(string(id), 5000)))"
OTHER_LONG_TEXTS = "id, array_join(transform(sequence(1, 40), n -> sha2(concat(id, n), 512)), '')"
SMALL_GROUPS = (
    "'write.parquet.row-group-size-bytes' = '256', 'write.parquet.row-group-check-min-record-count' = '2', "
    "'write.parquet.row-group-check-max-record-count' = '2', 'write.parquet.page-row-limit' = '2'"
)


def plain(rows: int = 9) -> pa.Table:
    """Rows as another engine has them, with the field ids of PLAIN."""
    kinds = (pa.int64(), pa.string(), pa.decimal128(18, 8), pa.timestamp("us", "UTC"))
    names = [part.split()[0] for part in PLAIN.replace("(18, 8)", "").split(", ")]
    fields = [
        pa.field(name, kind, metadata={b"PARQUET:field_id": str(number).encode()})
        for number, (name, kind) in enumerate(zip(names, kinds, strict=True), start=1)
    ]
    values = [
        [*range(rows)], [f"s{n % 3}" if n % 4 else None for n in range(rows)], [Decimal(n) for n in range(rows)],
        [1_770_681_600_000_000] * rows,
    ]  # fmt: skip
    columns = [pa.array(each, kind) for each, kind in zip(values, kinds, strict=True)]
    return pa.table(columns, schema=pa.schema(fields))


def same(rows: pa.Table) -> pa.Table:
    return rows


def foreign(
    change: Callable[[pa.Table], pa.Table] = same,
    files: int = 3,
    body: Callable[[bytes], bytes] = bytes,
    **options: Any,
) -> Step:
    """Adds files that pyarrow writes with these options, of rows that `change` and bytes that `body` changes."""
    return partial(_add_foreign, change, files, body, {"compression": "zstd", **options})


async def _add_foreign(change: Any, files: int, body: Any, options: dict[str, Any], night: Night, table: str) -> None:
    def add(spark: SparkSession) -> None:
        jvm: Any = IcebergJvm(spark)
        handle = jvm.load(night.services.lakehouse._tables.name(table))
        append, config = handle.newAppend(), jvm.iceberg.MetricsConfig.forTable(handle)
        for _ in range(files):
            path = f"{handle.location()}/data/foreign-{uuid4().hex}.parquet"
            sink = io.BytesIO()
            pq.write_table(change(plain()), sink, **options)
            with night.box.s3.filesystem().open_output_stream(path.partition("://")[2]) as stream:
                stream.write(body(sink.getvalue()))
            file = handle.io().newInputFile(path)
            added = jvm.iceberg.DataFiles.builder(handle.spec()).withPath(path).withFormat("parquet")
            added = added.withFileSizeInBytes(file.getLength())
            if "encryption_properties" in options:
                added = added.withRecordCount(9)
            else:
                added = added.withMetrics(jvm.iceberg.parquet.ParquetUtil.fileMetrics(file, config))
            append.appendFile(added.build())
        append.commit()

    await night.services.engine.run(add, timeout=MINUTE)


@dataclass(frozen=True)
class Case:
    """A table; `why` its row groups are not copied, empty where they are, and then how the copy is proven.

    `smallest`: the size of row groups from which they are copied, `target` that of files.
    """

    odd: Odd
    why: str = ""
    proven: str = "proven by metrics"
    smallest: int = 1
    target: str = "128MiB"


def one(*more: Step, properties: str = "", partitions: str = "") -> Odd:
    return Odd((insert(ROWS), *more), PLAIN, partitions, properties)


def of_pyarrow(*files: Step) -> Odd:
    return Odd(files, PLAIN)


def with_column(position: int, kind: pa.DataType, nullable: bool = True) -> Callable[[pa.Table], pa.Table]:
    """The rows with a column of another type, or required."""

    def change(rows: pa.Table) -> pa.Table:
        changed = rows.schema.field(position).with_type(kind).with_nullable(nullable)
        return rows.cast(rows.schema.set(position, changed))

    return change


def with_long_texts(rows: pa.Table) -> pa.Table:
    return rows.set_column(1, rows.schema.field(1), pa.array([f"{n}" * 5000 for n in range(len(rows))]))


def misplaced(body: bytes) -> bytes:
    """The offset index of the first column says a byte less, or more, of its only page."""
    page = pq.read_metadata(io.BytesIO(body)).row_group(0).column(0).data_page_offset
    # Thrift's compact protocol: PageLocation is offset (1: i64), compressed_page_size (2: i32), first_row_index.
    location = b"\x16" + varint(page) + b"\x15"
    assert body.count(location) == 1
    return flipped(body, body.index(location) + len(location))


def with_another_checksum(body: bytes) -> bytes:
    """Of the first page, a dictionary."""
    at = pq.read_metadata(io.BytesIO(body)).row_group(0).column(0).dictionary_page_offset
    # PageHeader is type (1), uncompressed_page_size (2), compressed_page_size (3), crc (4), all i32.
    for _ in range(3):
        assert body[at] == 0x15
        at += 1
        while body[at] & 0x80:
            at += 1
        at += 1
    return flipped(body, at + 1)


def varint(number: int) -> bytes:
    """A positive number as Thrift writes it: doubled, seven bits a byte."""
    number, digits = 2 * number, bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*digits, number])


def flipped(body: bytes, at: int) -> bytes:
    """With one bit changed, which is none of those that say how long a number is."""
    return body[:at] + bytes([body[at] ^ 2]) + body[at + 1 :]


def without_ids(rows: pa.Table) -> pa.Table:
    return rows.cast(pa.schema([each.remove_metadata() for each in rows.schema]))


def without_an_id(rows: pa.Table) -> pa.Table:
    return rows.append_column("more", pa.array([1] * len(rows)))


class Keys(encryption.KmsClient):  # type: ignore[misc]
    """Keeps no keys: what it wraps is its own text."""

    def wrap_key(self, key: bytes, name: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, name: str) -> bytes:
        return base64.b64decode(wrapped)


def encrypted(plaintext_footer: bool) -> dict[str, Any]:
    """Options of pyarrow's writer: a footer that says so, or one that can't be read without a key."""
    config = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"price": ["price"]}, plaintext_footer=plaintext_footer
    )
    factory = encryption.CryptoFactory(lambda _: Keys())
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), config)
    return {"encryption_properties": properties}


NAMES = json.dumps([{"field-id": n, "names": [part.split()[0]]} for n, part in enumerate(PLAIN.split(", "), start=1)])
# Three files of Spark's, zstd as the table has it, beside those of another engine.
SPARKS = insert(ROWS, files=3)
COPIED = {
    "files of Spark's by days": Case(one(partitions=DAYS)),
    "format version 1": Case(one(properties="'format-version' = '1'")),
    "dictionaries and bloom filters": Case(
        one(properties="'write.parquet.bloom-filter-enabled.column.s' = 'true', "
            "'write.parquet.bloom-filter-enabled.column.id' = 'true'")
    ),
    "several row groups a file, several pages a chunk": Case(one(properties=SMALL_GROUPS)),
    "NaN and zeros": Case(Odd((insert(FLOAT_ROWS),), FLOATS)),
    "nested columns and one of nulls alone": Case(
        Odd((insert(NESTED_ROWS),), NESTED),
        proven="unproven: l.element.y (no metrics that can be compared), m.key (no counts), "
        "m.value.element (no counts)",
    ),
    "texts too long for statistics": Case(
        Odd((insert(LONG_TEXTS), insert("id, null", files=1)), "id BIGINT, s STRING"),
    ),
    "texts too long for statistics in files that are split": Case(
        Odd((insert(OTHER_LONG_TEXTS, rows=2000, files=2),),
            "id BIGINT, s STRING", "", "'write.parquet.row-group-size-bytes' = '500000'"),
        target="1MiB",
    ),
    "texts too long for bounds, of pyarrow": Case(
        of_pyarrow(foreign(with_long_texts, 5)), proven="unproven: s (no bounds, only counts)"
    ),
    "a sort order of the table": Case(one(ALTER + "WRITE ORDERED BY s", insert(ROWS, start=100))),
    "files of pyarrow, without indexes": Case(of_pyarrow(foreign(files=5))),
    "checksums, indexes and newer pages": Case(
        of_pyarrow(foreign(files=5, write_page_checksum=True, write_page_index=True, data_page_version="2.0"))
    ),
    "no dictionaries, several row groups": Case(of_pyarrow(foreign(files=5, use_dictionary=False, row_group_size=4))),
    "a column that is required in the files alone": Case(
        of_pyarrow(foreign(with_column(0, pa.int64(), nullable=False), 5))
    ),
    "a column that may be null by now": Case(
        Odd((insert("id"), ALTER + "ALTER COLUMN id DROP NOT NULL"), "id BIGINT NOT NULL")
    ),
    "notes of another writer in the footer": Case(
        of_pyarrow(foreign(lambda rows: rows.replace_schema_metadata({b"pandas": b"{}", b"by": b"them"}), files=5))
    ),
    "large files are split": Case(
        Odd((insert("id, sha2(string(id), 512)", rows=200_000),), "id BIGINT, s STRING", "",
            "'write.parquet.row-group-size-bytes' = '500000'"),
        target="1MiB",
    ),
}  # fmt: skip
REWRITTEN = {
    "format version 3": Case(one(properties="'format-version' = '3'"), "format version 3 has ids of rows"),
    "deletes": Case(one(FIFTHS, properties=MERGE_ON_READ), "deletes apply to it"),
    "another codec in one file": Case(
        of_pyarrow(foreign(files=2), foreign(compression="snappy")), "by SNAPPY, not ZSTD"
    ),
    "another codec than the table's": Case(
        one(ALTER + "SET TBLPROPERTIES ('write.parquet.compression-codec' = 'gzip')"), "by ZSTD, not GZIP"
    ),
    "another codec in one column": Case(
        of_pyarrow(foreign(files=5, compression={"id": "zstd", "s": "snappy", "price": "zstd", "ts": "zstd"})),
        "by SNAPPY, not ZSTD",
    ),
    "a dropped column": Case(one(ALTER + "DROP COLUMN s"), "not those that the table has"),
    "an added column": Case(one(ALTER + "ADD COLUMN more INT"), "not those that the table has"),
    "a renamed column": Case(one(ALTER + "RENAME COLUMN s TO t"), "not those that the table has"),
    "a promoted column": Case(
        one(ALTER + "ALTER COLUMN price TYPE DECIMAL(20, 8)"), "its column price is stored otherwise than Iceberg does"
    ),
    "a column that is required in the table alone": Case(
        Odd((foreign(files=5),), PLAIN.replace("BIGINT", "BIGINT NOT NULL")), "not those that the table has"
    ),
    "no statistics of a column": Case(
        of_pyarrow(foreign(files=3), foreign(files=3, write_statistics=["id", "ts"])), "not known how many nulls"
    ),
    "an offset index of other pages": Case(
        of_pyarrow(foreign(files=4, write_page_index=True), foreign(files=1, write_page_index=True, body=misplaced)),
        "in [id] its offset index does not say where its pages are",
    ),
    "a nested column added": Case(
        Odd((insert("named_struct('a', id)"), ALTER + "ADD COLUMN st.b INT"), "st STRUCT<a: BIGINT>"),
        "not those that the table has",
    ),
    "no field ids": Case(
        of_pyarrow(ALTER + f"SET TBLPROPERTIES ('schema.name-mapping.default' = '{NAMES}')", foreign(without_ids, 5)),
        "has no field id",
    ),
    "a column without a field id beside others with": Case(of_pyarrow(foreign(without_an_id, 5)), "has no field id"),
    "columns stored otherwise": Case(of_pyarrow(SPARKS, foreign()), "stored otherwise than those of other files"),
    "instants of 96 bits": Case(of_pyarrow(foreign(files=5, use_deprecated_int96_timestamps=True)), "96 bits"),
    "dates of an older calendar": Case(
        of_pyarrow(foreign(lambda rows: rows.replace_schema_metadata({b"org.apache.spark.legacyDateTime": b""}), 5)),
        "an older calendar",
    ),
    "small row groups": Case(one(properties=SMALL_GROUPS), "a row group of it has 0 KiB", smallest=900),
    "small row groups in one file": Case(
        of_pyarrow(foreign(files=4), foreign(files=1, row_group_size=1)), "a row group of it has 0 KiB", smallest=400
    ),
    "a row group larger than files may be": Case(
        Odd((insert("id, sha2(string(id), 512)", rows=200_000),), "id BIGINT, s STRING"),
        "row groups are larger than files may be", target="1MiB",
    ),
    "milliseconds": Case(
        of_pyarrow(foreign(with_column(3, pa.timestamp("ms", "UTC")), 5)), "stored otherwise than Iceberg does"
    ),
    "no counts of NaN": Case(
        Odd((foreign(with_column(2, pa.float64()), 5),), PLAIN.replace("DECIMAL(18, 8)", "DOUBLE")),
        "not known how many NaN price has",
    ),
    "NaN in files that are split": Case(
        Odd((insert("id, if(id % 9 = 0, double('NaN'), double(xxhash64(id)))", rows=1_500_000),), "id BIGINT, x DOUBLE",
            "", "'write.parquet.row-group-size-bytes' = '500000'"),
        "not known how many NaN x has", target="1MiB",
    ),
    "orc files": Case(one(properties="'write.format.default' = 'orc'"), "no Parquet file"),
}  # fmt: skip
# A rewrite would give such pages new checksums: they stay as they are. An offset index does not hide them.
DAMAGED = {
    "a page that is not what its checksum says": Case(
        of_pyarrow(foreign(files=4), foreign(files=1, write_page_checksum=True, body=with_another_checksum)),
        "is damaged: a page is not what its checksum says",
    ),
    "a page with a wrong checksum behind an offset index of other pages": Case(
        of_pyarrow(
            foreign(files=4, write_page_index=True, write_page_checksum=True),
            foreign(files=1, write_page_index=True, write_page_checksum=True, body=misplaced),
            foreign(files=1, write_page_index=True, write_page_checksum=True, body=with_another_checksum),
        ),
        "is damaged: a page is not what its checksum says",
    ),
}
ENCRYPTED = {"a footer that says so": True, "a footer that is encrypted": False}
CASES = COPIED | REWRITTEN | DAMAGED
DELETED, APPENDED, LARGE, REFUSED = OTHERS = ("cold.deleted", "cold.appended", "cold.large_footers", "cold.refused")
PLAYED = (
    "files of Spark's by days",
    "checksums, indexes and newer pages",
    "NaN and zeros",
    "deletes",
    "a dropped column",
    "texts too long for statistics",
    "an offset index of other pages",
    "a page that is not what its checksum says",
)


def some(cases: Iterable[str]) -> list[Any]:
    return [pytest.param(name, marks=() if name in PLAYED else pytest.mark.long) for name in cases]


@pytest.fixture(scope="module")
async def night(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    def only_these(document: dict[str, Any]) -> None:
        compact = {"strategy": "auto", "copy_row_groups": True, "min_input_files": 2, "prove": "off", "retries": 1}
        document["tables"] = [
            {"name": table_of(name), "compact": compact | {"target_file_size": case.target}}
            for name, case in CASES.items()
        ]
        document["tables"] += [{"name": name, "compact": compact} for name in (*map(table_of, ENCRYPTED), *OTHERS)]
        # With more threads a partition that is split into many files is cut by their number.
        document["spark"]["master"] = "local[2]"

    async with nights(box, engine, tmp_path_factory.mktemp("copying")) as make_night:
        yield await make_night(COINBASE, change=only_these, days=0.25, files_per_commit=1, old_snapshots=0)


async def compact(night: Night, table: str) -> StageResult:
    (task,) = (await night.run(Stage.COMPACT, tables=(table,))).tasks
    return task


async def paths(night: Night, table: str) -> list[str]:
    return [str(row[0]) for row in await night.sql(f"SELECT file_path FROM {{c}}.{table}.data_files ORDER BY 1")]


async def by_pyarrow(night: Night, table: str) -> list[str]:
    """All rows of a table without delete files, as pyarrow reads its files."""
    store, rows = night.box.s3.filesystem(), list[str]()
    for path in await paths(night, table):
        with store.open_input_file(path.partition("://")[2]) as file:
            rows += [json.dumps(row, default=str, sort_keys=True) for row in pq.read_table(file).to_pylist()]
    return sorted(rows)


async def indexes(night: Night, table: str) -> Counter[str]:
    """How many row groups, bloom filters, column indexes and offset indexes its files have."""
    found = Counter[str]()
    kinds = ("bloom filters", "column indexes", "offset indexes")

    def count(spark: SparkSession, path: str) -> None:
        jvm = IcebergJvm(spark)
        handle = jvm.load(night.services.lakehouse._tables.name(table))
        file = handle.io().newInputFile(path)
        read = new_instance(jvm, "RowGroups", file, file.getLength(), None, folder=row_groups._FOLDER)
        for block in read.indexes():
            found["row groups"] += 1
            for chunk in block:
                found.update(kind for kind, index in zip(kinds, chunk, strict=True) if index is not None)

    for path in await paths(night, table):
        await night.services.engine.run(partial(count, path=path), timeout=MINUTE)
    return found


def copies(night: Night) -> set[str]:
    return {key for key in night.store() if key.endswith("-copied.parquet")}


@pytest.mark.parametrize("name", some(COPIED))
async def test_row_groups_are_copied_and_two_readers_find_the_same_rows(
    night: Night, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, table = COPIED[name], table_of(name)
    monkeypatch.setattr(planning, "COPY_MIN_SIZE", case.smallest)
    await create(night, table, case.odd)
    pruned = "s = 's1' AND id > 20" if case.odd.schema == PLAIN else ""
    rows, arrow = await contents(night, table, pruned=pruned), await by_pyarrow(night, table)
    before = await paths(night, table)
    had = await indexes(night, table)
    task = await compact(night, table)
    assert (task.outcome, task.error) == (TaskOutcome.DONE, None)
    assert task.note.endswith(f"; row groups copied; {case.proven}"), task.note
    after = await paths(night, table)
    assert not set(after) & set(before)
    assert all(path.endswith("-copied.parquet") for path in after)
    assert await contents(night, table, pruned=pruned) == rows
    assert await by_pyarrow(night, table) == arrow
    assert await indexes(night, table) == had
    assert not KeptPaths(night.services.engine.options.state_dir).counts()
    offsets = await night.sql(f"SELECT size(split_offsets), sort_order_id, file_size_in_bytes FROM {{c}}.{table}.files")
    assert (sum(row[0] for row in offsets), {row[1] for row in offsets}) == (had["row groups"], {0})


@pytest.mark.parametrize("name", some(REWRITTEN))
async def test_what_is_not_safe_to_copy_is_rewritten(night: Night, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, table = REWRITTEN[name], table_of(name)
    monkeypatch.setattr(planning, "COPY_MIN_SIZE", case.smallest)
    await create(night, table, case.odd)
    rows, before = await contents(night, table), await paths(night, table)
    task = await compact(night, table)
    assert (task.outcome, task.error) == (TaskOutcome.DONE, None)
    assert "; row groups not copied (" in task.note
    assert case.why in task.note
    after = await paths(night, table)
    assert not set(after) & set(before)
    assert not any(path.endswith("-copied.parquet") for path in after)
    assert await contents(night, table) == rows


@pytest.mark.parametrize("name", some(DAMAGED))
async def test_a_damaged_file_is_neither_copied_nor_rewritten(
    night: Night, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, table = DAMAGED[name], table_of(name)
    monkeypatch.setattr(planning, "COPY_MIN_SIZE", case.smallest)
    await create(night, table, case.odd)
    before, others = await paths(night, table), copies(night)
    task = await compact(night, table)
    assert (task.outcome, task.reason, task.attempts) == (TaskOutcome.FAILED, Reason.FILE_CORRUPT, 1), task.error
    assert task.error is not None
    assert case.why in task.error
    assert any(path in task.error for path in before)
    assert (await paths(night, table), copies(night)) == (before, others)
    assert not KeptPaths(night.services.engine.options.state_dir).counts()


async def test_a_store_that_refuses_in_mid_chunk_is_not_taken_for_pages_that_are_wrong(
    night: Night, tmp_path: Path
) -> None:
    """The second piece of a chunk can't be read: its file is gone by then."""
    path = tmp_path / "large.parquet"
    rows = pa.table({"b": pa.array([os.urandom(100_000) for _ in range(90)], pa.binary())})
    pq.write_table(rows, path, compression="none", use_dictionary=False)

    def read(spark: SparkSession) -> None:
        jvm: Any = IcebergJvm(spark)
        file = jvm.iceberg.Files.localInput(str(path))
        block = new_instance(jvm, "RowGroups", file, file.getLength(), None, folder=row_groups._FOLDER).block(0)
        readers = spark._jvm.java.util.concurrent.Executors.newFixedThreadPool(1)  # type: ignore[union-attr]
        pieces = new_instance(jvm, "Pieces", readers, 1, folder=row_groups._FOLDER)
        pieces.add(file, block)
        pieces.begin()
        path.unlink()
        try:
            pages = new_instance(jvm, "Pages", folder=row_groups._FOLDER)
            pages.wrong(pieces, block.getColumns().get(0), block.getRowCount(), True, None, None)
        finally:
            readers.shutdown()

    with pytest.raises(PermanentError, match="NotFoundException"):
        await night.services.engine.run(read, timeout=MINUTE)


@pytest.mark.parametrize("name", ENCRYPTED)
async def test_files_of_which_a_part_is_encrypted_are_not_copied(
    night: Night, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither are they rewritten: no key of theirs is known to Spark."""
    table = table_of(name)
    monkeypatch.setattr(planning, "COPY_MIN_SIZE", 1)
    await create(night, table, of_pyarrow(foreign(files=3, **encrypted(ENCRYPTED[name]))))
    before = await paths(night, table)
    task = await compact(night, table)
    assert task.outcome is TaskOutcome.FAILED
    assert await paths(night, table) == before


async def test_rows_deleted_meanwhile_stay_deleted_and_nothing_is_left_of_the_copy(
    night: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The delete is committed after the files were read: the copy is refused, and the next attempt applies it."""
    monkeypatch.setattr(planning, "COPY_MIN_SIZE", 1)
    await create(night, DELETED, one(properties=MERGE_ON_READ))
    others, tried = copies(night), meanwhile(night, monkeypatch, f"DELETE FROM {{c}}.{DELETED} WHERE id % 5 = 0")
    task = await compact(night, DELETED)
    assert (task.outcome, task.attempts, len(tried)) == (TaskOutcome.DONE, 2, 1), task.error
    assert "row groups not copied (" in task.note
    assert "deletes apply to it" in task.note
    assert [row[0] for row in await night.sql(f"SELECT count(*) FROM {{c}}.{DELETED}")] == [36]
    assert copies(night) == others
    assert not KeptPaths(night.services.engine.options.state_dir).counts()


async def test_rows_added_meanwhile_stay(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "COPY_MIN_SIZE", 1)
    await create(night, APPENDED, one())
    meanwhile(night, monkeypatch, f"INSERT INTO {{c}}.{APPENDED} SELECT {ROWS} FROM range(100, 105)")
    task = await compact(night, APPENDED)
    assert (task.outcome, task.attempts) == (TaskOutcome.DONE, 1), task.error
    assert "; row groups copied; " in task.note
    assert [row[0] for row in await night.sql(f"SELECT count(*) FROM {{c}}.{APPENDED}")] == [50]


async def test_footers_that_do_not_fit_into_memory_are_not_read(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "COPY_MIN_SIZE", 1)
    monkeypatch.setattr(row_groups, "FOOTERS_SHARE", 1_000_000)
    await create(night, LARGE, one())
    task = await compact(night, LARGE)
    assert (task.outcome, task.error) == (TaskOutcome.DONE, None)
    assert "; row groups not copied (" in task.note
    assert ".parquet: the footers of the slice take more of the heap than they may" in task.note


async def test_groups_that_are_refused_leave_their_memory_to_others(night: Night) -> None:
    """Once their footers are read, and it is not known how many NaN they have: several times what may be kept."""
    await create(
        night, REFUSED, Odd((foreign(with_column(2, pa.float64()), 5),), PLAIN.replace("DECIMAL(18, 8)", "DOUBLE"))
    )

    def refuse(spark: SparkSession) -> set[str]:
        jvm: Any = IcebergJvm(spark)
        table = jvm.load(night.services.lakehouse._tables.name(REFUSED))
        everything = jvm.iceberg.expressions.Expressions.alwaysTrue()
        planner = jvm.iceberg.actions.BinPackRewriteFilePlanner(table, everything, jvm.current_id(table), True)
        planner.init({"rewrite-all": "true"})
        group = planner.plan().groups().iterator().next()
        share = int(spark._jvm.Runtime.getRuntime().maxMemory()) // 200_000  # type: ignore[union-attr]
        copier = new_instance(jvm, ROW_GROUP_COPIER, table, 1, share, folder=row_groups._FOLDER)
        return {str(copier.take(group, 10, 10**9)).partition(": ")[2] for _ in range(10)}

    refusals = await night.services.engine.run(refuse, timeout=MINUTE)
    assert refusals == {"it is not known how many NaN price has in each file"}


def meanwhile(night: Night, monkeypatch: pytest.MonkeyPatch, statement: str) -> list[str]:
    """Has another writer commit once, between the plan of a copy and its first byte."""
    keep, tried = row_groups._keep, list[str]()

    def write_first(table: Any, name: str, *arguments: Any) -> None:
        if not tried:
            tried.append(name)
            spark = SparkSession.getActiveSession()
            assert spark is not None
            spark.sql(statement.replace("{c}", night.catalog))
        keep(table, name, *arguments)

    monkeypatch.setattr(row_groups, "_keep", write_first)
    return tried
