"""How the sandbox divides rows into a commit's files."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa

from icekeeper.sandbox.file_slices import FileSlice, slice_by_tick
from icekeeper.sandbox.table_shapes import SHAPES, TableShape
from icekeeper.sandbox.trades import Ticks, Volume, rows_of
from icekeeper.sandbox.world_spec import WorldSpec

BRONZE, SILVER = SHAPES["cold.bronze_trades_binance"], SHAPES["cold.silver_trades"]
GOLD, DAILY = SHAPES["cold.gold_ohlcv_1m"], SHAPES["cold.gold_ohlcv_1d"]
MIDNIGHT = datetime(2026, 2, 1, tzinfo=UTC)


def sliced(shape: TableShape, now: datetime, *, days: float = 4 / 96, files: int = 3) -> dict[int, list[FileSlice]]:
    spec = WorldSpec(now=now, days=days, files_per_commit=files, tables=(shape.iceberg,), old_snapshots=0)
    bounds = spec.bounds(spec.ticks())
    rows = rows_of(shape, bounds, spec.volume, seed=1).offered.select(shape.offloaded_columns)
    at = rows.column(shape.timestamp).cast(pa.int64()).to_numpy()
    tick = np.searchsorted(bounds.high, at, side="left")
    return slice_by_tick(shape, rows, tick, spec.files_per_commit, spec.rows_per_file)


def sizes(slices: list[FileSlice]) -> list[int]:
    return [each.rows.num_rows for each in slices]


def test_a_tick_within_one_partition_fills_its_files_evenly() -> None:
    ticks = sliced(BRONZE, MIDNIGHT + timedelta(hours=12))
    assert [sizes(slices) for slices in ticks.values()] == [[20, 20, 20]] * 4


def test_a_tick_over_midnight_splits_by_day() -> None:
    ticks = sliced(BRONZE, MIDNIGHT + timedelta(minutes=31))
    days = [sorted({each.partition[0] for each in slices}) for slices in ticks.values()]
    day = (date(2026, 1, 31) - date(1970, 1, 1)).days
    assert [day, day + 1] in days
    assert all(sum(sizes(slices)) == 60 for slices in ticks.values())
    assert all(len(slices) == 3 for slices in ticks.values())


def test_no_more_exchanges_than_files_come_in_a_silver_tick() -> None:
    for files in (1, 2, 3):
        ticks = sliced(SILVER, MIDNIGHT + timedelta(hours=12), days=1, files=files)
        over_midnight = {number for number, slices in ticks.items() if len({each.partition[0] for each in slices}) > 1}
        assert {len(slices) for number, slices in ticks.items() if number not in over_midnight} == {files}
        seen = {each.partition[1] for slices in ticks.values() for each in slices}
        assert seen == {"binance", "kraken", "coinbase"}


def test_every_file_lies_in_one_partition_and_none_is_empty() -> None:
    for shape in (SILVER, GOLD):
        for slices in sliced(shape, MIDNIGHT + timedelta(hours=1), days=0.2).values():
            for each in slices:
                assert each.rows.num_rows > 0
                exchange = each.partition[1]
                assert set(each.rows.column("exchange").to_pylist()) == {exchange}


def test_ticks_without_rows_write_nothing() -> None:
    ticks = sliced(DAILY, MIDNIGHT + timedelta(hours=2), days=0.5)
    assert len(ticks) == 1
    assert sum(sizes(*ticks.values())) == 34 + 9  # a candle per coin, every fourth with a second unmerged row


def test_every_row_lies_within_its_tick_and_none_on_its_lower_bound() -> None:
    low = np.array([1_770_000_000_000_000], dtype=np.int64)
    for shape in SHAPES.values():
        rows = rows_of(shape, Ticks(low, low + 7), Volume(files=1, rows=50, symbols=3), seed=1).offered
        at = rows.column(shape.timestamp).cast(pa.int64()).to_numpy()
        assert ((at > low[0]) & (at <= low[0] + 7)).all()
