"""Builds a world's past in bulk: the rows and commits of its ticks, without running each tick."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pyiceberg.table.snapshots import Snapshot

from icekeeper.sandbox.file_slices import FileSlice, micros, slice_by_tick
from icekeeper.sandbox.table_shapes import WATERMARK_DDL, TableShape
from icekeeper.sandbox.table_writer import Head, TableWriter
from icekeeper.sandbox.trades import Ticks, rows_of
from icekeeper.sandbox.world import World, hours_mask
from icekeeper.sandbox.world_spec import OFFLOAD_LAG, WorldSpec, from_micros

_HOUR_MS = 3_600_000


def build_world(world: World) -> None:
    """Fills the world's databases and catalog. The databases exist and are empty."""
    spec = world.spec
    ticks = spec.ticks()
    database = world.postgres_database
    world.postgres.execute(database, WATERMARK_DDL)
    world.postgres.execute(database, "CREATE TABLE sandbox_world (traded_until timestamptz NOT NULL)")
    world.postgres.execute(database, "INSERT INTO sandbox_world VALUES ($1)", from_micros(ticks[-1]) - OFFLOAD_LAG)
    for shape in spec.shapes:
        _build_table(world, shape, ticks)


def _build_table(world: World, shape: TableShape, ticks: list[int]) -> None:
    spec = world.spec
    world.clickhouse.execute(shape.ddl(), database=world.clickhouse_database)
    past: list[tuple[int, list[FileSlice]]] = []
    committed = [spec.committed_us(tick) for tick in ticks]
    if spec.old_snapshots:
        bounds = spec.old_bounds(shape)
        rows = rows_of(shape, bounds, spec.volume, spec.seed)
        world.insert(shape, rows.offered)
        past += _offload(world, shape, bounds, [spec.committed_us(tick) for tick in spec.old_ticks()])
        if spec.now - from_micros(int(bounds.high[-1])) > shape.source_ttl:
            # ClickHouse's TTL would have dropped them.
            world.clickhouse.execute(f"TRUNCATE TABLE {shape.source}", database=world.clickhouse_database)
    bounds = spec.bounds(ticks)
    rows = rows_of(shape, bounds, spec.volume, spec.seed)
    world.insert(shape, rows.offered)
    past += _offload(world, shape, bounds, committed)
    world.insert(shape, rows.behind)
    metadata = world.catalog.begin(shape, _first_commit_ms(spec, committed) - _HOUR_MS)
    with world.catalog.uploads() as put:
        writer = TableWriter(metadata.location, metadata.schema(), metadata.spec(), put)
        snapshots = _commit(writer, metadata.last_updated_ms, past)
    world.catalog.finish(shape, metadata, snapshots)
    _note_watermark(world, shape, ticks[-1], rows.offered, past)


def _first_commit_ms(spec: WorldSpec, committed: list[int]) -> int:
    first = spec.committed_us(spec.old_ticks()[0]) if spec.old_snapshots else committed[0]
    return first // 1000


def _offload(world: World, shape: TableShape, bounds: Ticks, committed: list[int]) -> list[tuple[int, list[FileSlice]]]:
    """(commit time in microseconds, files) of each tick that has rows, read from ClickHouse as the offload reads."""
    spec = world.spec
    rows = world.read(shape, int(bounds.low[0]), int(bounds.high[-1]))
    rows = rows.filter(pa.array(hours_mask(shape, rows, spec.lost_hours(shape.iceberg))))
    tick = np.searchsorted(bounds.high, micros(rows, shape.timestamp), side="left").astype(np.int64)
    by_tick = slice_by_tick(shape, rows, tick, spec.files_per_commit, spec.rows_per_file)
    return [(committed[number], slices) for number, slices in sorted(by_tick.items())]


def _commit(writer: TableWriter, created_ms: int, past: list[tuple[int, list[FileSlice]]]) -> list[Snapshot]:
    """Stores all files and all snapshots of a table."""
    head = Head(None, 0, created_ms, (), 0, 0, 0)
    snapshots: list[Snapshot] = []
    for moment, slices in past:
        files = [writer.write_file(each.rows, each.partition) for each in slices]
        # A REST catalog stamps the table's creation with the present, and takes no older commit.
        snapshot, head = writer.append(head, files, max(moment // 1000, head.timestamp_ms + 1))
        snapshots.append(snapshot)
    return snapshots


def _note_watermark(
    world: World, shape: TableShape, last_tick: int, rows: pa.Table, past: list[tuple[int, list[FileSlice]]]
) -> None:
    sequence = int(np.max(rows.column(shape.sequence).to_numpy())) if shape.sequence else None
    last_moment = world.spec.committed_us(last_tick)
    last_files = past[-1][1] if past and past[-1][0] == last_moment else []
    world.postgres.execute(
        world.postgres_database,
        "INSERT INTO offload_watermarks VALUES ($1, $2, $3, $4, 'success', $5, 0, NULL)",
        shape.source,
        from_micros(last_tick) - OFFLOAD_LAG,
        sequence,
        sum(each.rows.num_rows for each in last_files),
        from_micros(last_moment),
    )
