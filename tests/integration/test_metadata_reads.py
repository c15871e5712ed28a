"""Reading the metadata of tables that have not changed costs next to nothing, and every change is seen."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from icekeeper.adapters.iceberg import tables
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.core.enums import Stage, TaskOutcome
from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Offload
from tests.conftest import BINANCE, COINBASE, SILVER, SLOT, MakeNight, Night

READS: dict[str, Any] = {"load": IcebergJvm, "metadata_json": IcebergJvm, "file_sizes": tables, "plan_groups": tables}


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was really read of tables, in order."""
    done: list[str] = []

    def noted(owner: Any, name: str) -> Any:
        original = getattr(owner, name)

        def read(jvm: IcebergJvm, *arguments: Any) -> Any:
            done.append(name)
            return original(jvm, *arguments)

        return read

    for name, owner in READS.items():
        monkeypatch.setattr(owner, name, noted(owner, name))
    return done


@pytest.fixture
async def night(make_night: MakeNight) -> Night:
    return await make_night(COINBASE, days=0.5)


async def test_a_night_after_which_nothing_changed_reads_nothing_again(night: Night, reads: list[str]) -> None:
    await night.run(Stage.COMPACT, Stage.EXPIRE)
    await night.run(Stage.COMPACT)
    reads.clear()
    report = await night.run(Stage.COMPACT, Stage.EXPIRE)
    assert {task.outcome for task in report.tasks} == {TaskOutcome.SKIPPED}
    assert reads == [], "all of it was known"


async def test_whatever_changes_a_table_is_seen_by_the_next_read(night: Night, reads: list[str]) -> None:
    name = f"{{c}}.{COINBASE}"
    before = await night.state(COINBASE)
    assert await night.state(COINBASE) is before

    await night.sql(f"ALTER TABLE {name} SET TBLPROPERTIES ('gc.enabled' = 'false')")
    assert (await night.state(COINBASE)).gc_enabled is False
    await night.sql(f"ALTER TABLE {name} CREATE TAG kept")
    assert {ref.name for ref in (await night.state(COINBASE)).refs} == {"main", "kept"}
    await asyncio.to_thread(Offload(night.world).run, COINBASE, at=SLOT + timedelta(hours=1))
    assert len((await night.state(COINBASE)).history) == len(before.history) + 1
    assert reads.count("load") == 1
    assert reads.count("file_sizes") == 2, "once for each current snapshot"


async def test_small_files_that_are_too_few_in_each_partition_ask_no_planner(night: Night, reads: list[str]) -> None:
    name = f"{{c}}.{COINBASE}"
    await night.sql(f"DROP TABLE {name}")
    await night.sql(f"CREATE TABLE {name} (id BIGINT, ts TIMESTAMP) USING iceberg PARTITIONED BY (days(ts))")
    days = ", ".join(f"(1, timestamp'2026-02-1{day} 12:00:00')" for day in range(3))
    for _ in range(2):
        await night.sql(f"INSERT INTO {name} VALUES {days}")
    state = await night.state(COINBASE)
    assert [part.files for part in state.small_files] == [2, 2, 2]
    assert sum(part.bytes for part in state.small_files) == state.health.bytes
    (task,) = (await night.run(Stage.COMPACT)).tasks
    assert (task.outcome, task.reason) == (TaskOutcome.SKIPPED, Reason.TOO_FEW_FILES)
    assert "plan_groups" not in reads


async def test_a_table_that_is_made_anew_under_its_name_is_another_one(night: Night) -> None:
    assert (await night.state(COINBASE)).history
    await night.sql(f"DROP TABLE {{c}}.{COINBASE}")
    await night.sql(f"CREATE TABLE {{c}}.{COINBASE} (id BIGINT) USING iceberg")
    assert (await night.state(COINBASE)).history == ()


async def test_a_new_session_loads_its_own(night: Night, reads: list[str]) -> None:
    before = await night.state(COINBASE)
    await night.services.engine.recycle()
    reads.clear()
    assert await night.state(COINBASE) == before
    assert reads == ["load"]


async def test_what_was_prefetched_is_not_read_again_by_its_task(make_night: MakeNight, reads: list[str]) -> None:
    names = (COINBASE, SILVER, BINANCE)
    night = await make_night(*names, days=0.5)
    lakehouse = night.services.ports.lakehouse
    policies = night.services.settings.policies()
    await night.sql(f"DROP TABLE {{c}}.{SILVER}")
    reads.clear()
    await lakehouse.prefetch(policies)
    assert Counter(reads) == {"load": 3, "metadata_json": 2, "file_sizes": 2, "plan_groups": 2}

    reads.clear()
    report = await night.run(Stage.COMPACT)
    assert [task.outcome for task in report.tasks] == [TaskOutcome.DONE, TaskOutcome.FAILED, TaskOutcome.DONE]
    assert report.tasks[1].reason is Reason.TABLE_NOT_FOUND
