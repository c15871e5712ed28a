"""Where the scratch table of a warm-up is: a directory of this host, or an S3 server that is there for it alone."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import timedelta
from uuid import uuid4

from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.catalog import catalog_conf
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.scratch.store import BUCKET, ScratchStore
from icekeeper.adapters.spark.engine import SparkEngine

_S3_IO = "org.apache.iceberg.aws.s3.S3FileIO"


@asynccontextmanager
async def catalog_on_disk(engine: SparkEngine, timeout: timedelta) -> AsyncIterator[str]:
    """The name of a catalog in the session's scratch directory; it is gone afterwards."""
    directory, name = engine.options.scratch / "warm-up", _unique()
    conf = catalog_conf(name, {"type": "hadoop", "warehouse": directory.as_uri()})
    try:
        await engine.run(lambda spark: _tell(spark, conf), timeout=timeout)
        yield name
    finally:
        await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)


@asynccontextmanager
async def catalog_on_s3(engine: SparkEngine, timeout: timedelta) -> AsyncIterator[str]:
    """The name of a catalog in the JVM's memory, whose files go by S3FileIO to a server in ours."""
    name = _unique()
    conf = catalog_conf(
        name, {"catalog-impl": "org.apache.iceberg.inmemory.InMemoryCatalog", "warehouse": f"s3://{BUCKET}"}
    )
    prefix = f"spark.sql.catalog.{name}."
    store = await asyncio.to_thread(ScratchStore().__enter__)
    try:
        properties = {key.removeprefix(prefix): value for key, value in conf.items() if key.startswith(prefix)}

        def open_catalog(spark: SparkSession) -> None:
            _tell(spark, conf)
            jvm = IcebergJvm(spark)
            catalog = jvm.open_catalog(name).icebergCatalog()
            # It takes no other FileIO than its own, in memory.
            field = catalog.getClass().getDeclaredField("io")
            field.setAccessible(True)
            field.set(catalog, jvm.file_io(_S3_IO, {**properties, **store.properties}))

        await engine.run(open_catalog, timeout=timeout)
        # It is not closed: the session may be another one by then, or another's. What stays is one idle client.
        yield name
    finally:
        await asyncio.to_thread(store.__exit__, None, None, None)


def _unique() -> str:
    return f"warm_up_{uuid4().hex}"


def _tell(spark: SparkSession, conf: Mapping[str, str]) -> None:
    for key, value in conf.items():
        spark.conf.set(key, value)
