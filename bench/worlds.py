"""What tables of the benchmark hold: how many files of which rows. Each file is written once; tables hold copies.

A table's rows are those of a bronze table of the sandbox, in one day partition, by the commits of a day's offload.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyiceberg.manifest import DataFile

from icekeeper.sandbox.catalogs import empty_table
from icekeeper.sandbox.table_shapes import SHAPES, TableShape
from icekeeper.sandbox.table_writer import TableWriter
from icekeeper.sandbox.trades import Ticks, Volume, rows_of
from icekeeper.sandbox.world_spec import to_micros

# The night of all tables, and the day that it compacts and audits: long past, so that none counts it as open.
SLOT = datetime(2026, 2, 18, 2, 0, tzinfo=UTC)
DAY = date(2026, 2, 17)
# A day whose snapshots the night expires.
OLD_DAY = date(2026, 2, 9)
# Snapshots before that go. A daemon computes it from its settings, the rivals get it as an argument.
CUT_OFF = SLOT - timedelta(days=7)
RETAIN_LAST = 3
# A MergeTree, so that the audit counts it as it is.
SHAPE = SHAPES["cold.bronze_trades_coinbase"]

_EPOCH = date(1970, 1, 1)
_FIRST_TICK, _LAST_TICK = timedelta(minutes=10), timedelta(hours=23, minutes=50)
_COMMITS_A_DAY = 96
_SYMBOLS = 34


@dataclass(frozen=True, slots=True)
class Fill:
    """The files of one day: `commits` snapshots share them evenly; of `distinct` different ones the rest are copies."""

    files: int
    commits: int
    rows_per_file: int = 430  # about 15 KB
    distinct: int | None = None

    @property
    def rows(self) -> int:
        return self.files * self.rows_per_file


# Sixty files of about 6.5 MB. Making rows up takes longer than any rival needs to rewrite them.
BIG = Fill(60, 60, rows_per_file=275_000, distinct=10)
# As many bytes in files of one row group of about 10 MiB each.
BIG8 = Fill(44, 44, rows_per_file=400_000, distinct=11)

_BIG = {"big": BIG, "big8": BIG8}


def fill_of(shape: str, commits: int = _COMMITS_A_DAY) -> Fill:
    """`big`, `big8`, or as many small files as the shape's name says.

    Raises:
        ValueError: The name is none of these.
    """
    if shape in _BIG:
        return _BIG[shape]
    return Fill(int(shape), min(int(shape), commits))


def source_shape(fill: Fill) -> TableShape:
    """The table as ClickHouse has it: one source for all tables of a fill."""
    return replace(SHAPE, source=f"trades_{fill.files}_of_{fill.rows_per_file}")


@dataclass(frozen=True, slots=True)
class Body:
    """A Parquet file on disk, and what a manifest says of it; its path there is to be replaced."""

    path: Path
    described: DataFile
    folder: str

    def at(self, uri: str) -> DataFile:
        """The same file as part of a table."""
        described = DataFile(*(self.described[position] for position in range(len(self.described))))
        described[1] = uri
        return described


def commits_of(fill: Fill, day: date, directory: Path) -> list[list[Body]]:
    """Writes the day's files into a directory; the files of each commit."""
    captured: list[bytes] = []
    metadata = empty_table(SHAPE, "", 0)
    writer = TableWriter(metadata, lambda _, body: captured.append(body))
    directory.mkdir(parents=True, exist_ok=True)
    bodies: list[Body] = []
    for rows in _rows(fill, day):
        described = writer.write_file(rows, ((day - _EPOCH).days,))
        folder, _, name = described.file_path.removeprefix("/data/").rpartition("/")
        path = directory / name
        path.write_bytes(captured.pop())
        bodies.append(Body(path, described, folder))
    # What Arrow keeps for the next time would count as the memory of the rival that is measured.
    pa.default_memory_pool().release_unused()
    repeated = [bodies[number % len(bodies)] for number in range(fill.files)]
    edges = np.linspace(0, fill.files, fill.commits + 1).round().astype(int).tolist()
    return [repeated[low:high] for low, high in itertools.pairwise(edges)]


def as_one_file(fill: Fill, day: date, directory: Path) -> list[list[Body]]:
    """The same day as a compaction leaves it."""
    whole = Fill(1, 1, rows_per_file=fill.rows)
    return commits_of(whole, day, directory)


def rows_of_day(fill: Fill, day: date) -> pa.Table:
    """All rows of a day, as ClickHouse has them."""
    return pa.concat_tables(list(_rows(replace(fill, distinct=None), day)))


def _rows(fill: Fill, day: date) -> Iterator[pa.Table]:
    """The rows of each different file."""
    midnight = to_micros(datetime(day.year, day.month, day.day, tzinfo=UTC))
    low, high = (midnight + each // timedelta(microseconds=1) for each in (_FIRST_TICK, _LAST_TICK))
    count = fill.distinct or fill.files
    edges = np.linspace(low, high, count + 1).astype(np.int64)
    volume = Volume(files=1, rows=fill.rows_per_file, symbols=_SYMBOLS)
    step = 10 if fill.rows_per_file < 10_000 else 1  # a day of big files would not fit into memory
    for start in range(0, count, step):
        end = min(start + step, count)
        ticks = Ticks(edges[start:end], edges[start + 1 : end + 1])
        table = rows_of(SHAPE, ticks, volume, seed=1).offered.select(SHAPE.offloaded_columns)
        for number in range(end - start):
            yield table.slice(number * fill.rows_per_file, fill.rows_per_file)
