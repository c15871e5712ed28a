"""The platform's own procedure: a Spark process for each table and stage, with default settings."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from bench.record import STORES, Output, Store
from bench.rivals import Job, RivalFailed
from bench.rivals.call import statement
from icekeeper.adapters.spark.options import SparkOptions, prepare_environment

# In a directory of its own, for that comes first on Python's module path: `platform` is one of its own.
_SCRIPT = Path(__file__).with_name("submitted") / "job.py"


class Platform:
    """`spark-submit` for each statement. Its jars are there already, as in the platform's image: none is resolved."""

    name = "platform"
    parts = frozenset({"compact", "expire", "idle", "night"})
    frees_late = False
    most_tables: Mapping[Store, int] = dict.fromkeys(STORES, 1)
    note = "on one table; the ratio is per table"

    def __init__(self, options: SparkOptions, catalogs: Mapping[str, Mapping[str, str]]) -> None:
        self._options = options
        self._catalogs = catalogs
        # The warm session's environment: the same Java and the same Spark.
        self._environ = dict(os.environ)
        prepare_environment(options, self._environ)
        self._environ["PYSPARK_PYTHON"] = sys.executable

    async def do(self, job: Job) -> Output | None:
        for stage in job.stages:
            for table in job.tables:
                await self._submit(job.warehouse.name, statement(stage, job.warehouse.name, table))
        return None

    async def _submit(self, catalog: str, sql: str) -> None:
        conf = {
            "spark.jars": ",".join(_jars(self._options)),
            "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
            "spark.sql.session.timeZone": "UTC",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.driver.host": "127.0.0.1",
            **_plain(catalog, self._catalogs[catalog]),
        }
        arguments = [part for key, value in conf.items() for part in ("--conf", f"{key}={value}")]
        process = await asyncio.create_subprocess_exec(
            str(Path(self._environ["SPARK_HOME"], "bin", "spark-submit")),
            *("--master", "local[2]", "--driver-memory", "2g", *arguments, str(_SCRIPT), sql),
            env=self._environ,
            cwd=self._options.state_dir,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await process.communicate()
        except asyncio.CancelledError:
            process.kill()
            await process.wait()
            raise
        if process.returncode:
            raise RivalFailed(f"spark-submit ended with code {process.returncode}: {output.decode()[-2000:]}")


def _plain(catalog: str, properties: Mapping[str, str]) -> dict[str, str]:
    """A catalog with Iceberg's defaults: what icekeeper sets for a session of its own is none of the platform's."""
    prefix = f"spark.sql.catalog.{catalog}"
    named = {f"{prefix}.{key}": value for key, value in properties.items()}
    return {prefix: "org.apache.iceberg.spark.SparkCatalog", **named}


def _jars(options: SparkOptions) -> tuple[str, ...]:
    """The warm session's own jars: those it was given, or what it has fetched."""
    if options.jars:
        return options.jars
    names = ["{}_{}-{}.jar".format(*coordinate.split(":")) for coordinate in options.packages]
    found = {path.name: str(path) for path in Path.home().glob(".ivy2*/jars/*.jar")}
    return tuple(found[name] for name in names)
