"""The floor: plain Arrow reads and writes the same bytes, whole objects fetched side by side. It commits nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSystem

from bench.record import Output
from bench.rivals import ALL_TABLES, Job
from bench.warehouse import Base, path_in_store

_FETCHES = 32
_TARGET = 128 * 1024**2
# A partition with fewer is none that a compaction would touch.
_FEWEST = 5


class Floor:
    """The least time in which these files can be read and written on this machine."""

    name = "floor"
    parts = frozenset({"compact", "night", "files"})
    frees_late = False
    most_tables = ALL_TABLES
    note = "nothing is committed, nothing expired"

    async def do(self, job: Job) -> Output | None:
        store = job.warehouse.arrow()
        written = [output for base in job.bases for output in await asyncio.to_thread(_rewrite, store, base)]
        return Output(
            files=len(written),
            bytes=sum(each.bytes for each in written),
            rows=sum(each.rows for each in written),
            row_groups=sum(each.row_groups for each in written),
            columns_with_bounds=min(each.columns_with_bounds for each in written),
        )


def _rewrite(store: FileSystem, base: Base) -> list[Output]:
    """It knows the list of files already: reading metadata is not measured."""
    written = []
    with ThreadPoolExecutor(_FETCHES) as pool:
        for group in _groups(base):
            bodies = list(pool.map(lambda uri: _fetch(store, uri), group))
            rows = pa.concat_tables([pq.read_table(pa.BufferReader(body)) for body in bodies])
            written.append(_write(store, f"{group[0].rpartition('/')[0]}/{uuid.uuid4()}.parquet", rows))
    return written


def _groups(base: Base) -> list[list[str]]:
    """The files of each partition that has several, as many together as make a file of the target's size."""
    partitions: dict[str, list[str]] = defaultdict(list)
    for uri in sorted(base.live):
        partitions[uri.rpartition("/")[0]].append(uri)
    groups: list[list[str]] = []
    for uris in partitions.values():
        if len(uris) < _FEWEST:
            continue
        room = 0
        for uri in uris:
            size = base.kept[uri].stat().st_size
            if size > room:
                groups.append([])
                room = _TARGET
            groups[-1].append(uri)
            room -= size
    return groups


def _fetch(store: FileSystem, uri: str) -> pa.Buffer:
    with store.open_input_stream(path_in_store(uri)) as stream:
        return stream.read_buffer()


def _write(store: FileSystem, uri: str, rows: pa.Table) -> Output:
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd", compression_level=3)
    body = sink.getvalue()
    with store.open_output_stream(path_in_store(uri)) as stream:
        stream.write(body)
    footer = pq.read_metadata(pa.BufferReader(body))
    first = footer.row_group(0)
    with_bounds = sum(
        (column := first.column(number)).is_stats_set and column.statistics.has_min_max
        for number in range(first.num_columns)
    )
    return Output(1, body.size, footer.num_rows, footer.num_row_groups, with_bounds)
