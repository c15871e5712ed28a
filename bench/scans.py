"""Reading what was written: a scan of the day in Spark and one in pyarrow, each of all columns. Nothing is changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import timedelta

import pyarrow.compute as pc
from pyarrow.dataset import dataset
from pyspark.sql import SparkSession

from bench.meter import give_back
from bench.record import Scans
from bench.rivals import RivalFailed
from bench.warehouse import Warehouse, path_in_store
from bench.worlds import SHAPE, SLOT
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.calendar import window_of
from icekeeper.sandbox.table_shapes import NAMESPACE

_LIMIT = timedelta(minutes=5)
# The better of so many counts: the first also finds code that is not compiled yet.
_TIMES = 2
# Batches and files that Arrow reads ahead: by default it would hold some gigabytes of a day.
_BATCHES, _FILES = 4, 2


class Scanner:
    """Reads through the proxy before the store, as who uses the tables would."""

    def __init__(self, engine: SparkEngine) -> None:
        self._engine = engine

    async def scans(self, warehouse: Warehouse, table: str, rows: int) -> Scans:
        """RivalFailed where the day has another number of rows."""
        day = window_of(SLOT)
        columns = ", ".join(SHAPE.offloaded_columns)
        low, high = (f"TIMESTAMP '{instant:%Y-%m-%d %H:%M:%S}'" for instant in (day.start, day.end))
        query = (
            f"SELECT count(*), bit_xor(xxhash64({columns})) FROM {warehouse.name}.{NAMESPACE}.{table} "
            f"WHERE {SHAPE.timestamp} >= {low} AND {SHAPE.timestamp} < {high}"
        )

        def by_spark(spark: SparkSession) -> int:
            return int(spark.sql(query).collect()[0][0])

        files = [task.file.file_path for task in warehouse.table(table).scan().plan_files()]
        return Scans(
            spark_s=await _best(lambda: self._engine.run(by_spark, timeout=_LIMIT), rows, "Spark"),
            arrow_s=await _best(lambda: asyncio.to_thread(rows_by_arrow, warehouse, files), rows, "pyarrow"),
        )


def rows_by_arrow(warehouse: Warehouse, files: Sequence[str]) -> int:
    """Reads all columns of the day; how many rows they have."""
    day, time_ = window_of(SLOT), pc.field(SHAPE.timestamp)
    found = dataset([path_in_store(file) for file in files], filesystem=warehouse.arrow(), format="parquet")
    batches = found.to_batches(
        filter=(time_ >= day.start) & (time_ < day.end), batch_readahead=_BATCHES, fragment_readahead=_FILES
    )
    return sum(batch.num_rows for batch in batches)


async def _best(scan: Callable[[], Awaitable[int]], rows: int, reader: str) -> float:
    """The seconds of the fastest."""
    taken = []
    for _ in range(_TIMES):
        give_back()
        begun = time.perf_counter()
        found = await scan()
        taken.append(time.perf_counter() - begun)
        if found != rows:
            raise RivalFailed(f"{reader} reads {found} rows of the day, it has {rows}")
    return min(taken)
