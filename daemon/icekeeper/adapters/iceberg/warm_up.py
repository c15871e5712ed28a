"""Warming up a fresh session: a scratch table is written, compacted, proven, expired and audited as by a night.

The first rewrite of a JVM takes three times as long as the fifth: classes are loaded and code is compiled as it runs.
Of the configured catalog and store a table's metadata is read; nothing is written there.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from pyspark.sql import SparkSession
from structlog.contextvars import bound_contextvars

from icekeeper.adapters.iceberg.calls import METADATA_TIMEOUT
from icekeeper.adapters.iceberg.catalog import quoted_name
from icekeeper.adapters.iceberg.deleting.files import s3_io
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.lakehouse import IcebergLakehouse
from icekeeper.adapters.iceberg.scratch.catalogs import catalog_on_disk, catalog_on_s3
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.errors import translate
from icekeeper.adapters.waiting import retrieve
from icekeeper.core.calendar import Window
from icekeeper.core.errors import DeadlineExceeded
from icekeeper.core.policy import CompactPolicy, StageLimits
from icekeeper.core.tables.plan import Rewrite, Slice

Step = Callable[[], Awaitable[object]]

# Far more than a step takes: the session of one that does not stop is lost.
STEP_TIMEOUT = timedelta(minutes=2)
# The first compaction of 960 files in S3 took 27 s of CPU time after two rounds of 12 files, 19 s after these.
ROUNDS = 3

_NAMESPACE = "scratch"
_TABLE = f"{_NAMESPACE}.warm_up"
# Those that a night takes for small files.
_WAYS = (Rewrite.SPREAD, Rewrite.BINPACK)
# Code that is run once a file is compiled only after many of them; the rows are few for that.
_FILES, _ROWS_A_FILE = 96, 200
_DAY = datetime(2026, 1, 1, tzinfo=UTC)
_POLICY = CompactPolicy(StageLimits(STEP_TIMEOUT, 0, timedelta(0)))
_WINDOW = Window(_DAY, _DAY + timedelta(days=1))
# As in a market-data table: the types that cost most to read and to write.
_COLUMNS = "id BIGINT, symbol STRING, price DECIMAL(18, 8), amount DOUBLE, ts TIMESTAMP"
_ROWS = (
    "SELECT id, concat('s', id % 30), CAST(id / 7 AS DECIMAL(18, 8)), id / 3.0D, "
    f"timestamp'{_DAY:%Y-%m-%d}' + make_dt_interval(0, 0, 0, id) FROM range(0, {_FILES * _ROWS_A_FILE}, 1, {_FILES})"
)


async def is_on_s3(engine: SparkEngine, catalog: str, table: str, timeout: timedelta = METADATA_TIMEOUT) -> bool:
    """Reads a table's metadata and its newest manifest list, so that the clients of catalog and store are there.

    Whether its files are in S3. Raises like `SparkEngine.run`; DeadlineExceeded where nothing answers, and then the
    session is as it was: the read has a thread of its own, for it can't be interrupted. Nobody waits for that one.
    """
    spark = await engine.run(lambda spark: spark, timeout=STEP_TIMEOUT, jobs=False)
    answer: Future[bool] = Future()
    answer.set_running_or_notify_cancel()

    def read() -> None:
        try:
            # A catalog that is opened for the first time takes its settings from the thread's session.
            java: Any = spark._jvm
            java.org.apache.spark.sql.classic.SparkSession.setActiveSession(spark._jsparkSession)
            handle = IcebergJvm(spark).load(quoted_name(catalog, table))
            if (snapshot := handle.currentSnapshot()) is not None:
                snapshot.allManifests(handle.io()).size()
            found = s3_io(handle) is not None
        except Exception as exc:
            answer.set_exception(translate(exc, table))
        else:
            answer.set_result(found)

    threading.Thread(target=read, name="reach", daemon=True).start()
    reached = asyncio.wrap_future(answer)
    reached.add_done_callback(retrieve)
    await asyncio.wait([reached], timeout=timeout.total_seconds())
    if not reached.done():
        raise DeadlineExceeded(f"no answer within {timeout.total_seconds():.0f} s", where=table)
    return reached.result()


async def warm_up(
    engine: SparkEngine, may_continue: Callable[[], bool], rounds: int = ROUNDS, *, on_s3: bool = False
) -> bool:
    """Writes, compacts, proves, expires and audits a few small files, `rounds` times. Raises like `SparkEngine.run`.

    `may_continue` is called between two steps, each of which takes seconds, so that other work gets the session. False
    where it returned False. `on_s3`: the files go to an S3 server of our own, as a night's would to the configured one.
    """
    place = catalog_on_s3 if on_s3 else catalog_on_disk
    with bound_contextvars(why="warm_up"):
        async with place(engine, STEP_TIMEOUT) as catalog:
            for step in _steps(engine, catalog, rounds):
                if not may_continue():
                    return False
                await step()
    return True


def _steps(engine: SparkEngine, catalog: str, rounds: int) -> Iterator[Step]:
    lakehouse = IcebergLakehouse(engine, catalog)

    def create(spark: SparkSession) -> None:
        spark.sql(f"CREATE NAMESPACE IF NOT EXISTS {catalog}.{_NAMESPACE}")
        # Not distributed by partition: each task of an insert writes a file.
        spark.sql(
            f"CREATE TABLE {catalog}.{_TABLE} ({_COLUMNS}) USING iceberg PARTITIONED BY (days(ts)) "
            "TBLPROPERTIES ('write.distribution-mode' = 'none')"
        )

    def write(spark: SparkSession) -> None:
        spark.sql(f"INSERT INTO {catalog}.{_TABLE} {_ROWS}")

    async def compact(how: Rewrite) -> None:
        await lakehouse.compact(_TABLE, _POLICY, Slice((), _FILES, 0, 1, how=how), uuid4(), STEP_TIMEOUT)

    async def prove() -> None:
        state = await lakehouse.inspect(_TABLE, _POLICY.target_file_size)
        rewrite = state.history[-1].id
        await lakehouse.rewritten(_TABLE, rewrite, STEP_TIMEOUT)
        await lakehouse.content(_TABLE, rewrite, (), False, STEP_TIMEOUT)

    async def expire() -> None:
        state = await lakehouse.inspect(_TABLE, _POLICY.target_file_size)
        await lakehouse.expire(_TABLE, tuple(snapshot.id for snapshot in state.history[:-1]), 1, STEP_TIMEOUT)

    yield partial(engine.run, create, timeout=STEP_TIMEOUT)
    for number in range(rounds):
        yield partial(engine.run, write, timeout=STEP_TIMEOUT)
        yield partial(lakehouse.file_groups, _TABLE, _POLICY)
        yield partial(compact, _WAYS[number % len(_WAYS)])
        yield prove
        yield expire
        yield partial(lakehouse.prove_files, _TABLE, "ts", _WINDOW, STEP_TIMEOUT)
        yield partial(lakehouse.count, _TABLE, "ts", _WINDOW, STEP_TIMEOUT)
