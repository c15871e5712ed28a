"""Warming a session up: it does what a night does, on a table of its own that is gone afterwards."""

from __future__ import annotations

import asyncio
from datetime import timedelta

from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.warm_up import warm_up
from icekeeper.adapters.spark.engine import SparkEngine
from tests.integration.odd import MINUTE


def jobs(spark: SparkSession) -> int:
    """How many jobs the session has ever started."""
    return int(spark.sparkContext._jsc.sc().dagScheduler().numTotalJobs())


async def test_it_rewrites_and_expires_small_files_and_leaves_nothing_behind(engine: SparkEngine) -> None:
    await engine.start()
    scratch = engine.options.scratch
    seen: set[str] = set()

    def may_continue() -> bool:
        seen.update(path.name for path in scratch.glob("warm-up/scratch/warm_up/data/*/*.parquet"))
        return True

    began = await engine.run(jobs, timeout=MINUTE)
    assert await warm_up(engine, may_continue, rounds=1)
    assert len(seen) == 12 + 1, "what was written, and what it was compacted into"
    assert await engine.run(jobs, timeout=MINUTE) > began
    assert not (scratch / "warm-up").exists()


async def test_who_wants_the_session_meanwhile_waits_for_one_step_only(engine: SparkEngine) -> None:
    await engine.start()
    wanted = asyncio.Event()

    async def night() -> None:
        wanted.set()
        await engine.run(lambda spark: None, timeout=timedelta(minutes=2))

    warming = asyncio.create_task(warm_up(engine, lambda: not wanted.is_set()))
    await asyncio.sleep(0)
    await night()
    assert await warming is False
    assert not (engine.options.scratch / "warm-up").exists()
