"""Warming a session up: it does what a night does, on a table of its own that is gone afterwards."""

from __future__ import annotations

import asyncio
import socket
from datetime import timedelta

import pytest
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.catalog import catalog_conf
from icekeeper.adapters.iceberg.scratch import catalogs
from icekeeper.adapters.iceberg.scratch.store import ScratchStore
from icekeeper.adapters.iceberg.warm_up import is_on_s3, warm_up
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.errors import DeadlineExceeded, PermanentError
from icekeeper.core.reasons import Reason
from tests.conftest import COINBASE, MakeNight
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
    assert len(seen) == 96 + 1, "what was written, and what it was compacted into"
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


async def test_on_s3_all_goes_to_a_server_that_is_there_for_it_alone(engine: SparkEngine) -> None:
    seen: set[str] = set()
    stores: list[ScratchStore] = []

    class Watched(ScratchStore):
        def __init__(self) -> None:
            super().__init__()
            stores.append(self)

    def may_continue() -> bool:
        seen.update(stores[0].objects)
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogs, "ScratchStore", Watched)
        assert await warm_up(engine, may_continue, rounds=1, on_s3=True)
    assert len([path for path in seen if path.endswith(".parquet")]) == 96 + 1
    assert [path for path in seen if "/metadata/snap-" in path]
    assert len([path for path in stores[0].objects if path.endswith(".parquet")]) == 1, "the others were expired"


@pytest.mark.parametrize("catalog", ["jdbc", "rest"])
async def test_the_configured_store_is_only_read(make_night: MakeNight, engine: SparkEngine, catalog: str) -> None:
    night = await make_night(COINBASE, catalog=catalog, days=0.25, old_snapshots=0)
    before = night.store()
    assert await is_on_s3(engine, night.catalog, COINBASE)
    assert night.store() == before
    with pytest.raises(PermanentError) as caught:
        await is_on_s3(engine, night.catalog, "cold.nowhere")
    assert caught.value.reason is Reason.TABLE_NOT_FOUND


async def test_a_catalog_that_takes_a_request_and_never_answers_costs_a_while_and_not_the_session(
    engine: SparkEngine,
) -> None:
    await engine.start()
    pid = engine.jvm_pid
    with socket.create_server(("127.0.0.1", 0)) as silent:
        conf = catalog_conf("silent", {"type": "rest", "uri": f"http://127.0.0.1:{silent.getsockname()[1]}"})

        def tell(spark: SparkSession) -> None:
            for key, value in conf.items():
                spark.conf.set(key, value)

        await engine.run(tell, timeout=MINUTE)
        with pytest.raises(DeadlineExceeded):
            await is_on_s3(engine, "silent", COINBASE, timedelta(seconds=5))
        assert await engine.run(jobs, timeout=MINUTE) >= 0, "who wants the session gets it"
    assert engine.jvm_pid == pid
