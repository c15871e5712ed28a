"""Commits to a Hadoop catalog ask first, in the instant in which they land; what waits there can be ended."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from icekeeper.core.enums import Stage
from icekeeper.core.errors import DeadlineExceeded, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.expiry import expired_snapshots
from icekeeper.core.tables.planning import plan_compaction
from icekeeper.core.tables.state import TableState
from icekeeper.night.lakehouse import BeforeCommit
from icekeeper.sandbox import Offload
from tests.conftest import COINBASE, SLOT, MakeNight, Night

MINUTE = timedelta(minutes=1)


@dataclass
class Work:
    """One table of a Hadoop catalog, and a call that commits to it."""

    night: Night
    stage: Stage

    async def commit(self, before_commit: BeforeCommit | None, timeout: timedelta = MINUTE) -> None:
        lakehouse, (policy,) = self.night.services.ports.lakehouse, self.night.settings.policies()
        state = await self.state()
        if self.stage is Stage.COMPACT:
            groups = await lakehouse.file_groups(COINBASE, policy.compact)
            (part,) = plan_compaction(policy, state, groups).slices
            await lakehouse.compact(COINBASE, policy.compact, part, uuid4(), timeout, before_commit)
        else:
            ids = expired_snapshots(state, SLOT, 3, SLOT)
            await lakehouse.expire(COINBASE, ids, 3, timeout, before_commit)

    async def state(self) -> TableState:
        return await self.night.state(COINBASE)

    def files(self) -> set[Path]:
        """Everything below the warehouse but checksums and what a commit leaves that another one was ahead of."""
        warehouse = Path(self.night.settings.catalog.warehouse.removeprefix("file://"))  # type: ignore[union-attr]
        return {path for path in warehouse.rglob("*") if path.suffix in (".parquet", ".avro")}


@pytest.fixture(params=[Stage.COMPACT, Stage.EXPIRE])
async def work(request: pytest.FixtureRequest, make_night: MakeNight) -> Work:
    night = await make_night(COINBASE, catalog="hadoop", days=0.75, old_snapshots=2)
    return Work(night, request.param)


async def test_a_commit_lands_on_top_of_what_came_while_it_waited(work: Work) -> None:
    before = await work.state()
    asked: list[bool] = []

    async def offload_goes_first() -> None:
        asked.append((await asyncio.to_thread(Offload(work.night.world).advance, SLOT + timedelta(hours=4))) > 0)

    await work.commit(offload_goes_first)

    after = await work.state()
    assert asked == [True, False]  # the first try finds its version taken: it asks again before the second
    assert after.health.records == work.night.world.rows_iceberg(COINBASE) > before.health.records
    assert after.health.snapshot_id != before.health.snapshot_id


async def test_a_refused_commit_changes_nothing_and_says_why(work: Work) -> None:
    before, files = await work.state(), work.files()
    refusal = TransientError("the offload is writing", reason=Reason.OFFLOAD_RUNNING)

    async def refuse() -> None:
        raise refusal

    with pytest.raises(TransientError) as raised:
        await work.commit(refuse)

    assert raised.value is refusal
    assert (await work.state()).health == before.health
    assert work.files() == files


async def test_work_that_is_only_slow_is_no_wait_for_the_offload(work: Work) -> None:
    async def idle() -> None:
        """The other writer is at rest."""

    # It may have committed before it can be stopped: a deadline is never an offload's fault.
    with suppress(DeadlineExceeded):
        await work.commit(idle, timeout=timedelta(milliseconds=5))


async def test_a_commit_that_waits_gives_up_before_the_deadline_and_when_it_is_cancelled(work: Work) -> None:
    engine, before = work.night.services.engine, await work.state()
    jvm, waiting = engine.jvm_pid, asyncio.Event()

    async def wait() -> None:
        waiting.set()
        await asyncio.Event().wait()

    with pytest.raises(TransientError) as raised:
        await work.commit(wait, timeout=timedelta(seconds=12))
    assert raised.value.reason is Reason.OFFLOAD_RUNNING
    waiting.clear()
    call = asyncio.create_task(work.commit(wait))
    await waiting.wait()
    call.cancel()
    await asyncio.wait([call], timeout=20)

    assert call.cancelled()
    assert (await work.state()).health == before.health
    assert engine.jvm_pid == jvm
    await work.commit(None)
    assert (await work.state()).health != before.health
