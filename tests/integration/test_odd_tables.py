"""Tables that are not as the platform makes them: compaction and expiry leave every row, whatever the table's past."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from daemon.core import planning
from daemon.core.model import Stage, TaskOutcome
from daemon.core.reasons import Reason
from tests.conftest import COINBASE, SLOT, MakeNight, Night, outcomes

NAME = "cold.odd"


@pytest.fixture
async def night(make_night: MakeNight) -> Night:
    """A night over one table, `cold.odd`, that each test makes for itself."""

    def only_the_odd_one(document: dict[str, Any]) -> None:
        document["tables"] = [{"name": NAME, "compact": {"retries": 0}}]

    return await make_night(COINBASE, old_snapshots=0, days=0.5, change=only_the_odd_one)


async def fill(night: Night, appends: int = 6) -> None:
    """Appends of rows of several days, with nulls among them, one small file a partition and append."""
    for number in range(appends):
        await night.sql(
            f"INSERT INTO {{c}}.{NAME} SELECT id + {number * 100}, if(id % 7 = 0, null, concat('s', id % 3)), "
            "timestamp'2026-02-10 00:00:00' + make_interval(0, 0, 0, cast(id % 3 AS int)) FROM range(30)"
        )


async def contents(night: Night) -> tuple[int, int]:
    rows = await night.sql(f"SELECT count(*), sum(hash(*)) FROM {{c}}.{NAME}")
    return int(rows[0][0]), int(rows[0][1])


TABLE = f"CREATE TABLE {{c}}.{NAME} (id BIGINT, s STRING, ts TIMESTAMP) USING iceberg"
SHAPES = {
    "unpartitioned": (TABLE, None),
    "days and a string with nulls": (f"{TABLE} PARTITIONED BY (days(ts), s)", None),
    "bucket and truncate": (f"{TABLE} PARTITIONED BY (bucket(2, id), truncate(1, s))", None),
    "format version 1": (f"{TABLE} PARTITIONED BY (s) TBLPROPERTIES ('format-version' = '1')", None),
    "merge-on-read deletes": (
        f"{TABLE} PARTITIONED BY (days(ts)) TBLPROPERTIES ('write.delete.mode' = 'merge-on-read')",
        f"DELETE FROM {{c}}.{NAME} WHERE id % 5 = 0",
    ),
    "deletion vectors": (
        f"{TABLE} PARTITIONED BY (days(ts)) "
        "TBLPROPERTIES ('format-version' = '3', 'write.delete.mode' = 'merge-on-read')",
        f"DELETE FROM {{c}}.{NAME} WHERE id % 5 = 0",
    ),
    "an evolved partition spec": (TABLE, f"ALTER TABLE {{c}}.{NAME} ADD PARTITION FIELD days(ts)"),
    "a dropped partition field": (
        f"{TABLE} PARTITIONED BY (s, days(ts)) TBLPROPERTIES ('format-version' = '1')",
        f"ALTER TABLE {{c}}.{NAME} DROP PARTITION FIELD s",
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
async def test_a_compaction_leaves_every_row_of(night: Night, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # A few files a slice, so that a partitioned table is done in several.
    monkeypatch.setattr(planning, "SLICE_MAX_FILES", 10)
    create, change = SHAPES[shape]
    await night.sql(create)
    await fill(night)
    if change is not None:
        await night.sql(change)
    rows, before = await contents(night), (await night.state(NAME)).health

    report = await night.run(Stage.COMPACT)

    (task,) = report.tasks
    assert (task.outcome, task.error) == (TaskOutcome.DONE, None)
    assert await contents(night) == rows
    assert (await night.state(NAME)).health.data_files < before.data_files


async def test_names_that_need_quoting_are_quoted(make_night: MakeNight) -> None:
    def only_the_odd_one(document: dict[str, Any]) -> None:
        document["tables"] = [{"name": "cold.we-ird", "timestamp": "ev-ts"}]

    night = await make_night(COINBASE, old_snapshots=0, days=0.5, change=only_the_odd_one)
    await night.sql("CREATE TABLE {c}.cold.`we-ird` (id BIGINT, `ev-ts` TIMESTAMP) USING iceberg")
    for _ in range(6):
        await night.sql("INSERT INTO {c}.cold.`we-ird` VALUES (1, timestamp'2026-02-17 10:00:00')")
    assert outcomes(await night.run(Stage.COMPACT), Stage.COMPACT) == {"cold.we-ird": TaskOutcome.DONE}


async def test_an_expiry_respects_branches_with_ages_of_their_own_and_tags(night: Night) -> None:
    await night.sql(f"{TABLE} PARTITIONED BY (days(ts))")
    await fill(night, appends=4)
    ids = [snapshot.id for snapshot in (await night.state(NAME)).history]
    await night.sql(f"ALTER TABLE {{c}}.{NAME} CREATE TAG kept AS OF VERSION {ids[0]}")
    own = "RETAIN 900 DAYS WITH SNAPSHOT RETENTION 2 SNAPSHOTS 1 DAYS"
    await night.sql(f"ALTER TABLE {{c}}.{NAME} CREATE BRANCH short AS OF VERSION {ids[1]} {own}")
    await night.sql(f"INSERT INTO {{c}}.{NAME}.branch_short SELECT 1000, 's1', timestamp'2026-02-10 00:00:00'")
    await fill(night, appends=3)
    before = await night.state(NAME)
    later = SLOT + timedelta(days=400)
    night.travel(later)

    (task,) = (await night.run(Stage.EXPIRE, slot=later)).tasks

    assert (task.outcome, task.error) == (TaskOutcome.DONE, None)
    after = await night.state(NAME)
    left = {snapshot.id for snapshot in after.history}
    branch = next(ref for ref in after.refs if ref.name == "short")
    assert (
        left
        == {
            ids[0],  # the tag's
            ids[1],  # the branch keeps two by its own rule, though both are old
            branch.snapshot_id,
            *(snapshot.id for snapshot in before.history[-3:]),
        }
    )
    assert after.refs == before.refs
    (again,) = (await night.run(Stage.EXPIRE, slot=later)).tasks
    assert (again.outcome, again.reason) == (TaskOutcome.SKIPPED, Reason.NOTHING_EXPIRED)


async def test_gc_disabled_holds_an_expiry(night: Night) -> None:
    await night.sql(f"{TABLE} TBLPROPERTIES ('gc.enabled' = 'false')")
    await fill(night, appends=5)
    later = SLOT + timedelta(days=400)
    night.travel(later)
    (task,) = (await night.run(Stage.EXPIRE, slot=later)).tasks
    assert (task.outcome, task.reason) == (TaskOutcome.HELD, Reason.GC_DISABLED)
    assert len((await night.state(NAME)).history) == 5


async def test_on_a_hadoop_catalog_a_running_offload_holds_the_compaction(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, catalog="hadoop", old_snapshots=0)
    night.ledger("UPDATE offload_watermarks SET status = 'running'")
    (task,) = (await night.run(Stage.COMPACT)).tasks
    assert (task.outcome, task.reason) == (TaskOutcome.HELD, Reason.OFFLOAD_RUNNING)
    night.ledger("UPDATE offload_watermarks SET status = 'success'")
    (task,) = (await night.run(Stage.COMPACT)).tasks
    assert task.outcome is TaskOutcome.DONE


async def test_a_data_file_that_is_gone_is_file_missing_and_not_a_store_that_is_down(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, old_snapshots=0)
    path = (await night.sql(f"SELECT file_path FROM {{c}}.{COINBASE}.files"))[0][0]
    night.box.s3.filesystem().delete_file(path.removeprefix("s3://"))
    (task,) = (await night.run(Stage.COMPACT)).tasks
    assert (task.outcome, task.reason, task.attempts) == (TaskOutcome.FAILED, Reason.FILE_MISSING, 1)
