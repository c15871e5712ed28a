"""Warming up a fresh session: a scratch table is written, compacted, proven, expired and audited as by a night.

The first rewrite of a JVM takes three times as long as the fifth: classes are loaded and code is compiled as it runs.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from uuid import uuid4

from pyspark.sql import SparkSession
from structlog.contextvars import bound_contextvars

from icekeeper.adapters.iceberg.catalog import catalog_conf
from icekeeper.adapters.iceberg.lakehouse import IcebergLakehouse
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.calendar import Window
from icekeeper.core.policy import CompactPolicy, StageLimits
from icekeeper.core.tables.plan import Slice

Step = Callable[[], Awaitable[object]]

# Far more than a step takes: the session of one that does not stop is lost.
STEP_TIMEOUT = timedelta(minutes=2)
# After two rounds a rewrite is hardly slower than ever after; more rounds would only cost CPU time.
ROUNDS = 2

_TABLE = "scratch.warm_up"
_FILES = 12
_DAY = datetime(2026, 1, 1, tzinfo=UTC)
_POLICY = CompactPolicy(StageLimits(STEP_TIMEOUT, 0, timedelta(0)))
_WINDOW = Window(_DAY, _DAY + timedelta(days=1))
# As in a market-data table: the types that cost most to read and to write.
_COLUMNS = "id BIGINT, symbol STRING, price DECIMAL(18, 8), amount DOUBLE, ts TIMESTAMP"
_ROWS = (
    "SELECT id, concat('s', id % 30), CAST(id / 7 AS DECIMAL(18, 8)), id / 3.0D, "
    f"timestamp'{_DAY:%Y-%m-%d}' + make_dt_interval(0, 0, 0, id) FROM range(0, {_FILES * 500}, 1, {_FILES})"
)


async def warm_up(engine: SparkEngine, may_continue: Callable[[], bool], rounds: int = ROUNDS) -> bool:
    """Writes, compacts, proves, expires and audits a few small files, `rounds` times. Raises like `SparkEngine.run`.

    `may_continue` is called between two steps, each of which takes a moment, so that other work gets the session. False
    where it returned False.
    """
    directory = engine.options.scratch / "warm-up"
    # A catalog with a unique name, on the local disk: the configured one is not touched.
    catalog = f"warm_up_{uuid4().hex}"
    conf = catalog_conf(catalog, {"type": "hadoop", "warehouse": directory.as_uri()})
    lakehouse = IcebergLakehouse(engine, catalog)

    def create(spark: SparkSession) -> None:
        for key, value in conf.items():
            spark.conf.set(key, value)
        # Not distributed by partition: each task of an insert writes a file.
        spark.sql(
            f"CREATE TABLE {catalog}.{_TABLE} ({_COLUMNS}) USING iceberg PARTITIONED BY (days(ts)) "
            "TBLPROPERTIES ('write.distribution-mode' = 'none')"
        )

    def write(spark: SparkSession) -> None:
        spark.sql(f"INSERT INTO {catalog}.{_TABLE} {_ROWS}")

    async def compact() -> None:
        await lakehouse.compact(_TABLE, _POLICY, Slice((), _FILES, 0, 1), uuid4(), STEP_TIMEOUT)

    async def prove() -> None:
        state = await lakehouse.inspect(_TABLE, _POLICY.target_file_size)
        rewrite = state.history[-1].id
        await lakehouse.rewritten(_TABLE, rewrite, STEP_TIMEOUT)
        await lakehouse.content(_TABLE, rewrite, (), False, STEP_TIMEOUT)

    async def expire() -> None:
        state = await lakehouse.inspect(_TABLE, _POLICY.target_file_size)
        await lakehouse.expire(_TABLE, tuple(snapshot.id for snapshot in state.history[:-1]), 1, STEP_TIMEOUT)

    steps: list[Step] = [partial(engine.run, create, timeout=STEP_TIMEOUT)]
    for _ in range(rounds):
        steps += [
            partial(engine.run, write, timeout=STEP_TIMEOUT),
            partial(lakehouse.file_groups, _TABLE, _POLICY),
            compact,
            prove,
            expire,
            partial(lakehouse.prove_files, _TABLE, "ts", _WINDOW, STEP_TIMEOUT),
            partial(lakehouse.count, _TABLE, "ts", _WINDOW, STEP_TIMEOUT),
        ]
    try:
        with bound_contextvars(why="warm_up"):
            for step in steps:
                if not may_continue():
                    return False
                await step()
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
    return True
