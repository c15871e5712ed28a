"""Divides rows into the small files of a commit: by tick, by partition, into even pieces. Pure."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyiceberg.io.pyarrow import schema_to_pyarrow
from pyiceberg.transforms import DayTransform, IdentityTransform, MonthTransform

from icekeeper.sandbox.table_shapes import TableShape

Ints = npt.NDArray[np.int64]
_DAY_US = 86_400_000_000


@dataclass(frozen=True)
class FileSlice:
    """The rows of one data file, and the partition all of them lie in (as Iceberg stores its values)."""

    partition: tuple[Any, ...]
    rows: pa.Table


def micros(rows: pa.Table, column: str) -> Ints:
    """A timestamp column as microseconds since 1970."""
    values = rows.column(column).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.asarray(values.to_numpy(), dtype=np.int64)


def slice_by_tick(
    shape: TableShape, rows: pa.Table, tick: Ints, files: int | None, rows_per_file: int
) -> dict[int, list[FileSlice]]:
    """The files of each tick: `files` even ones if it has enough rows, at least one per partition, none empty.

    `files` None: one per partition.
    `tick` is the number of each row's tick; ticks without rows are left out. The rows' types become Iceberg's.
    """
    if rows.num_rows == 0:
        return {}
    rows = rows.cast(schema_to_pyarrow(shape.schema, include_field_ids=True))
    values, code = _partitions(shape, rows)
    at = micros(rows, shape.timestamp)
    order = np.lexsort((at, code, tick))
    rows, tick, code = rows.take(order), tick[order], code[order]
    # A segment is a run of rows of one tick and one partition.
    starts = np.flatnonzero(np.r_[True, (np.diff(tick) != 0) | (np.diff(code) != 0)])
    ends = np.r_[starts[1:], len(tick)]
    segments: dict[int, list[tuple[int, int]]] = {}
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        segments.setdefault(int(tick[start]), []).append((start, end))
    return {
        number: [
            FileSlice(values[code[start]], rows.slice(low, high - low))
            for (start, end), pieces in zip(runs, _share_out(runs, files, rows_per_file), strict=True)
            for low, high in _even(start, end, pieces)
        ]
        for number, runs in segments.items()
    }


def _share_out(runs: list[tuple[int, int]], files: int | None, rows_per_file: int) -> list[int]:
    """The number of files for each run of rows: at least one, the rest where files would be largest."""
    sizes = [end - start for start, end in runs]
    pieces = [1] * len(sizes)
    wanted = min(files or 1, -(-sum(sizes) // rows_per_file))
    while sum(pieces) < wanted:
        largest = max(range(len(sizes)), key=lambda index: sizes[index] / pieces[index])
        if pieces[largest] >= sizes[largest]:
            break
        pieces[largest] += 1
    return pieces


def _even(start: int, end: int, pieces: int) -> list[tuple[int, int]]:
    edges = [start + (end - start) * number // pieces for number in range(pieces + 1)]
    return list(itertools.pairwise(edges))


def _partitions(shape: TableShape, rows: pa.Table) -> tuple[list[tuple[Any, ...]], Ints]:
    """The distinct partitions, and the number of each row's."""
    columns: list[list[Any]] = []
    code = np.zeros(rows.num_rows, dtype=np.int64)
    for field in shape.partition.fields:
        name = shape.schema.find_field(field.source_id).name
        if isinstance(field.transform, IdentityTransform):
            raw = rows.column(name).to_numpy(zero_copy_only=False)
        elif isinstance(field.transform, DayTransform):
            raw = micros(rows, name) // _DAY_US
        elif isinstance(field.transform, MonthTransform):
            raw = micros(rows, name).astype("datetime64[us]").astype("datetime64[M]").astype(np.int64)
        else:
            raise TypeError(f"{shape.iceberg}: no rule for the partition transform {field.transform}")
        distinct, inverse = np.unique(raw, return_inverse=True)
        columns.append(distinct.tolist())
        code = code * len(distinct) + inverse
    # One number is combined from all columns, and taken apart again for those that occur.
    occurring, number = np.unique(code, return_inverse=True)
    partitions = []
    for mixed in occurring.tolist():
        values: list[Any] = []
        for distinct in reversed(columns):
            mixed, index = divmod(mixed, len(distinct))
            values.append(distinct[index])
        partitions.append(tuple(reversed(values)))
    return partitions, np.asarray(number, dtype=np.int64)
