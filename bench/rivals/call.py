"""Spark's procedures in the same warm session, with their default settings."""

from __future__ import annotations

from datetime import timedelta

from pyspark.sql import SparkSession

from bench.record import Output
from bench.rivals import ALL_TABLES, Job
from bench.worlds import CUT_OFF, RETAIN_LAST, SHAPE, SLOT
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import Stage
from icekeeper.sandbox.table_shapes import NAMESPACE

# Spark's own default; icekeeper's session has it lower.
_SHUFFLE_PARTITIONS = "spark.sql.shuffle.partitions"
_LIMIT = timedelta(minutes=10)


def statement(stage: Stage, catalog: str, table: str) -> str:
    """The SQL that does a stage, as the platform has it."""
    name = f"{catalog}.{NAMESPACE}.{table}"
    if stage is Stage.COMPACT:
        options = "'target-file-size-bytes', '134217728', 'min-input-files', '5'"
        return (
            f"CALL {catalog}.system.rewrite_data_files(table => '{name}', strategy => 'binpack', "
            f"options => map({options}))"
        )
    if stage is Stage.EXPIRE:
        return (
            f"CALL {catalog}.system.expire_snapshots(table => '{name}', "
            f"older_than => TIMESTAMP '{CUT_OFF:%Y-%m-%d %H:%M:%S}', retain_last => {RETAIN_LAST})"
        )
    end = SLOT.replace(hour=0)
    begin = end - timedelta(days=1)
    return (
        f"SELECT count(*) FROM {name} WHERE {SHAPE.timestamp} >= TIMESTAMP '{begin:%Y-%m-%d %H:%M:%S}' "
        f"AND {SHAPE.timestamp} < TIMESTAMP '{end:%Y-%m-%d %H:%M:%S}'"
    )


class Call:
    """`CALL rewrite_data_files` and `CALL expire_snapshots`, and a count, one table after the other."""

    name = "call"
    parts = frozenset({"compact", "expire", "idle", "files", "snapshots"})
    frees_late = False
    most_tables = ALL_TABLES
    note = ""

    def __init__(self, engine: SparkEngine) -> None:
        self._engine = engine

    async def do(self, job: Job) -> Output | None:
        for stage in job.stages:
            for table in job.tables:
                await self.run(statement(stage, job.warehouse.name, table))
        return None

    async def run(self, sql: str) -> None:
        """Runs one statement as a session with Spark's defaults would."""

        def work(spark: SparkSession) -> None:
            ours = spark.conf.get(_SHUFFLE_PARTITIONS)
            spark.conf.set(_SHUFFLE_PARTITIONS, "200")
            try:
                spark.sql(sql).collect()
            finally:
                spark.conf.set(_SHUFFLE_PARTITIONS, str(ours))

        await self._engine.run(work, timeout=_LIMIT)
