"""Builds a world's past in bulk: the rows and commits of its ticks, without running each tick."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pyarrow as pa
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Snapshot

from icekeeper.sandbox.file_slices import FileSlice, micros, slice_by_tick
from icekeeper.sandbox.table_shapes import TableShape
from icekeeper.sandbox.table_writer import Head, Put, TableWriter
from icekeeper.sandbox.trades import Ticks, rows_of
from icekeeper.sandbox.world import World, hours_mask
from icekeeper.sandbox.world_spec import OFFLOAD_LAG, from_micros

_HOUR_MS = 3_600_000


@dataclass(frozen=True)
class _Cycles:
    """Cycles that found rows: the files of each by its tick (microseconds, in order), and all rows that they read."""

    files: dict[int, list[FileSlice]]
    read: pa.Table


def build_world(world: World) -> None:
    """Fills the world's databases and catalog. The databases exist and are empty."""
    spec = world.spec
    ticks = spec.ticks()
    database = world.postgres_database
    world.watermarks.create()
    world.postgres.execute(database, "CREATE TABLE sandbox_world (traded_until timestamptz NOT NULL)")
    world.postgres.execute(database, "INSERT INTO sandbox_world VALUES ($1)", from_micros(ticks[-1]) - OFFLOAD_LAG)
    for shape in spec.shapes:
        _build_table(world, shape, ticks)


def _build_table(world: World, shape: TableShape, ticks: list[int]) -> None:
    spec = world.spec
    world.clickhouse.execute(shape.ddl(), database=world.clickhouse_database)
    past: list[_Cycles] = []
    if spec.old_snapshots:
        bounds = spec.old_bounds(shape)
        rows = rows_of(shape, bounds, spec.volume, spec.seed)
        world.insert(shape, rows.offered)
        past.append(_offload(world, shape, bounds, spec.old_ticks()))
        if spec.now - from_micros(int(bounds.high[-1])) > shape.source_ttl:
            # ClickHouse's TTL would have dropped them.
            world.clickhouse.execute(f"TRUNCATE TABLE {shape.source}", database=world.clickhouse_database)
    bounds = spec.bounds(ticks)
    rows = rows_of(shape, bounds, spec.volume, spec.seed)
    world.insert(shape, rows.offered)
    past.append(_offload(world, shape, bounds, ticks))
    world.insert(shape, rows.behind)
    first = spec.committed_us(spec.old_ticks()[0] if spec.old_snapshots else ticks[0])
    metadata = world.catalog.begin(shape, first // 1000 - _HOUR_MS)
    with world.catalog.uploads() as put:
        snapshots = _commit(world, metadata, past, put)
    world.catalog.finish(shape, metadata, snapshots)
    _note_cycles(world, shape, past, from_micros(first), ticks[-1])


def _offload(world: World, shape: TableShape, bounds: Ticks, ticks: list[int]) -> _Cycles:
    """What the offload's cycles of these ticks read from ClickHouse, and write."""
    spec = world.spec
    read = world.read(shape, int(bounds.low[0]), int(bounds.high[-1]))
    number = np.searchsorted(bounds.high, micros(read, shape.timestamp), side="left").astype(np.int64)
    kept = hours_mask(shape, read, spec.lost_hours(shape.iceberg))
    files = slice_by_tick(shape, read.filter(pa.array(kept)), number[kept], spec.files_per_commit, spec.rows_per_file)
    return _Cycles({ticks[each]: files.get(each, []) for each in np.unique(number).tolist()}, read)


def _commit(world: World, metadata: TableMetadata, past: list[_Cycles], put: Put) -> list[Snapshot]:
    """Stores all files and all snapshots of a table."""
    head = Head(None, 0, metadata.last_updated_ms, (), 0, 0, 0)
    snapshots: list[Snapshot] = []
    writer = TableWriter(metadata, put)
    for tick, slices in (each for cycles in past for each in cycles.files.items() if each[1]):
        files = [writer.write_file(each.rows, each.partition) for each in slices]
        # A REST catalog stamps the table's creation with the present, and takes no older commit.
        moment = max(world.spec.committed_us(tick) // 1000, head.timestamp_ms + 1)
        snapshot, head = writer.append(head, files, moment)
        snapshots.append(snapshot)
    return snapshots


def _note_cycles(world: World, shape: TableShape, past: list[_Cycles], first: datetime, last_tick: int) -> None:
    """What the last cycle with rows noted of itself, and the last cycle of all if that brought none."""
    spec, marks, tick = world.spec, world.watermarks, None
    marks.add(shape.source, first)
    for cycles in past:
        if cycles.files:
            tick, slices = list(cycles.files.items())[-1]
            newest = from_micros(int(micros(cycles.read, shape.timestamp).max()))
            rows = sum(each.rows.num_rows for each in slices)
            ended = from_micros(spec.committed_us(tick))
            marks.succeeded(shape.source, newest, shape.max_sequence(cycles.read), rows, from_micros(tick), ended)
    if tick != last_tick:
        marks.running(shape.source, from_micros(spec.marked_us(last_tick)))
