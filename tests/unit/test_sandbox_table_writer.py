"""What the sandbox writes by hand for speed is what pyiceberg would have written."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pyiceberg.io.pyarrow import (
    PyArrowFileIO,
    compute_statistics_plan,
    data_file_statistics_from_parquet_metadata,
    parquet_path_to_id_mapping,
)

from icekeeper.sandbox.catalogs import empty_table
from icekeeper.sandbox.file_slices import FileSlice, slice_by_tick
from icekeeper.sandbox.table_shapes import Generation, TableShape, shape_of
from icekeeper.sandbox.table_writer import Head, TableWriter, metrics_of, only_counted
from icekeeper.sandbox.trades import rows_of
from icekeeper.sandbox.world_spec import WorldSpec

# Its one tick takes midnight's candles too.
SPEC = WorldSpec(now=datetime(2026, 2, 18, 0, 21, tzinfo=UTC), days=1 / 96, old_snapshots=0)
NAMES = ("cold.bronze_trades_kraken", "cold.silver_trades", "cold.gold_ohlcv_1d")
GENERATIONS: tuple[Generation, ...] = ("current", "older")
KINDS = [pytest.param(shape_of(name, each), id=f"{name[5:]}-{each}") for name in NAMES for each in GENERATIONS]


def one_tick(shape: TableShape) -> list[FileSlice]:
    rows = rows_of(shape, SPEC.bounds(SPEC.ticks()), SPEC.volume, seed=1).offered.select(shape.offloaded_columns)
    return slice_by_tick(shape, rows, np.zeros(rows.num_rows, dtype=np.int64), 3, 20)[0]


def store(uri: str, body: bytes) -> None:
    path = Path(uri.removeprefix("file://"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


@pytest.mark.parametrize("shape", KINDS)
def test_metrics_are_those_of_pyiceberg(shape: TableShape, tmp_path: Path) -> None:
    writer = TableWriter(empty_table(shape, f"file://{tmp_path}", 0), store)
    each = one_tick(shape)[0]
    file = writer.write_file(each.rows, each.partition)
    footer = pq.read_metadata(file.file_path.removeprefix("file://"))
    columns = parquet_path_to_id_mapping(shape.schema)
    plan = compute_statistics_plan(shape.schema, dict(shape.properties))
    theirs = data_file_statistics_from_parquet_metadata(footer, plan, columns).to_serialized_dict()
    ours = metrics_of(footer, columns, only_counted(shape.schema, shape.properties))
    assert {**ours, "record_count": each.rows.num_rows} == theirs


@pytest.mark.parametrize("shape", KINDS)
def test_pyiceberg_reads_two_appends_back(shape: TableShape, tmp_path: Path) -> None:
    writer = TableWriter(empty_table(shape, f"file://{tmp_path}", 0), store)
    slices = one_tick(shape)
    head = Head(None, 0, 0, (), 0, 0, 0)
    first, head = writer.append(head, [writer.write_file(each.rows, each.partition) for each in slices], 1000)
    second, head = writer.append(head, [writer.write_file(slices[0].rows, slices[0].partition)], 2000)
    assert second.parent_snapshot_id == first.snapshot_id
    assert (first.timestamp_ms, second.timestamp_ms) == (1000, 2000)
    io = PyArrowFileIO()
    newest, oldest = second.manifests(io)
    assert (newest.sequence_number, oldest.sequence_number) == (2, 1)
    assert (newest.added_files_count, oldest.added_files_count) == (1, len(slices))
    entries = oldest.fetch_manifest_entry(io)
    assert [entry.data_file.record_count for entry in entries] == [each.rows.num_rows for each in slices]
    assert [tuple(entry.data_file.partition[n] for n in range(len(shape.partition.fields))) for entry in entries] == [
        each.partition for each in slices
    ]
    assert head.files == len(slices) + 1
    assert head.records == sum(each.rows.num_rows for each in (*slices, slices[0]))
