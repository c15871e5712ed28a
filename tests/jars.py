"""Fetches the jars of Spark's sessions before the tests start, which would otherwise do so several at a time.

python -m tests.jars
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from pathlib import Path

import structlog

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.jars import in_ivy_cache
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.settings.model import DEFAULT_PACKAGES


async def _fetch(directory: Path) -> None:
    engine = SparkEngine(
        SparkOptions(master="local[1]", driver_memory="1g", state_dir=directory, packages=DEFAULT_PACKAGES)
    )
    try:
        await engine.start()
    finally:
        await engine.stop()


def main() -> None:
    if in_ivy_cache(DEFAULT_PACKAGES, {}):
        return
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    began = time.monotonic()
    print("Downloading Spark's Iceberg jars (120 MB, once): this usually takes up to 2 minutes", flush=True)
    with tempfile.TemporaryDirectory(prefix="icekeeper-jars-") as directory:
        asyncio.run(_fetch(Path(directory)))
    print(f"Downloaded in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
