"""Forty manifests of 8 MB fit a heap of 1 GB: read side by side, kept for the next step, replaced, expired."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.catalog import catalog_conf
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.lakehouse import IcebergLakehouse
from icekeeper.adapters.iceberg.proof.compiled import new_instance
from icekeeper.adapters.spark.engine import SparkEngine

pytestmark = pytest.mark.long

TABLE = "cold.wide"
# Just smaller than 8 MiB, so that Iceberg keeps them in memory, and more of them than are read side by side.
MANIFESTS, FILES, COLUMNS = 40, 870, 230
BYTES = 8 * 1024**2
# Iceberg keeps the manifests of so many FileIOs: as if as many tables of a REST catalog were looked at.
CATALOGS = 8
LIMIT = timedelta(minutes=30)


async def test_forty_manifests_of_8_mb_in_a_heap_of_1_gb(engine: SparkEngine, tmp_path: Path) -> None:
    heap = await engine.run(lambda spark: int(_runtime(spark).maxMemory()), timeout=LIMIT)
    assert heap <= 1024**3
    pid = engine.jvm_pid
    lakehouses = []
    for number in range(CATALOGS):
        name = f"{tmp_path.name}_{number}"
        # As a REST catalog's: a FileIO of its own for each table.
        cached = str(min(100 * 1024**2, heap // 24))
        properties = {"type": "hadoop", "warehouse": f"file://{tmp_path}", "io.manifest.cache.max-total-bytes": cached}
        conf = catalog_conf(name, properties, heap)
        await engine.run(_telling(conf), timeout=LIMIT)
        lakehouses.append(IcebergLakehouse(engine, name))
    catalog = f"{tmp_path.name}_0"

    def make(spark: SparkSession) -> list[int]:
        spark.sql(f"CREATE TABLE {catalog}.{TABLE} (id BIGINT) USING iceberg")
        jvm = IcebergJvm(spark)
        wide = new_instance(jvm, "WideManifests", jvm.load(f"{catalog}.{TABLE}"), folder=Path(__file__).parent)
        return [int(wide.append(FILES, COLUMNS)) for _ in range(MANIFESTS)]

    def replace_all(spark: SparkSession) -> None:
        jvm = IcebergJvm(spark)
        everything = jvm.iceberg.expressions.Expressions.alwaysTrue()
        jvm.load(f"{catalog}.{TABLE}").newDelete().deleteFromRowFilter(everything).commit()

    sizes = await engine.run(make, timeout=LIMIT)
    assert 0.98 * BYTES < min(sizes) <= max(sizes) < BYTES
    for lakehouse in lakehouses:
        state = await lakehouse.inspect(TABLE, BYTES)
        assert (state.health.data_files, state.health.manifests) == (MANIFESTS * FILES, MANIFESTS)
    await engine.run(replace_all, timeout=LIMIT)
    going = tuple(snapshot.id for snapshot in (await lakehouses[0].inspect(TABLE, BYTES)).history[:-1])
    deleted = await lakehouses[0].expire(TABLE, going, 1, LIMIT)
    assert (deleted.files, deleted.left) == (MANIFESTS * FILES + 2 * MANIFESTS, 0), "with a list and a manifest of each"
    assert engine.jvm_pid == pid, "it has not run out of memory"


def _runtime(spark: SparkSession) -> Any:
    jvm: Any = spark._jvm
    return jvm.java.lang.Runtime.getRuntime()


def _telling(conf: dict[str, str]) -> Callable[[SparkSession], None]:
    def tell(spark: SparkSession) -> None:
        for key, value in conf.items():
            spark.conf.set(key, value)

    return tell
