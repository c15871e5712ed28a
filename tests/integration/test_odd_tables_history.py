"""Tables with odd histories: references with ages, any history against Iceberg's own rules, a second writer."""

from __future__ import annotations

import json
import random
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.metadata import parse_metadata
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import Decision, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.expiry import expired_snapshots
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from tests.conftest import COINBASE, SLOT, MakeNight, Night
from tests.integration.odd import MINUTE, Odd, contents, create, insert, make, spark_jobs

NAME = "cold.odd"
HOUR_MS = 3_600_000
HISTORIES = 30


@pytest.fixture
async def night(make_night: MakeNight) -> Night:
    """A night over one table, `cold.odd`, that each test makes for itself."""

    def only_the_odd_one(document: dict[str, Any]) -> None:
        document["tables"] = [{"name": NAME, "compact": {"retries": 0}}]

    return await make_night(COINBASE, old_snapshots=0, days=0.5, change=only_the_odd_one)


async def test_an_expiry_respects_references_and_their_ages_before_the_tables_own(night: Night) -> None:
    # The table's own ages would drop all but one; icekeeper's settings are what counts.
    ages = "'history.expire.max-snapshot-age-ms' = '1', 'history.expire.min-snapshots-to-keep' = '1'"
    few = insert(rows=5, files=1)
    await create(night, NAME, Odd((few,) * 4, properties=ages))
    ids = [snapshot.id for snapshot in (await night.state(NAME)).history]
    own = "RETAIN 900 DAYS WITH SNAPSHOT RETENTION 2 SNAPSHOTS 1 DAYS"
    await make(
        night,
        NAME,
        f"ALTER TABLE {{t}} CREATE TAG kept AS OF VERSION {ids[0]}",
        f"ALTER TABLE {{t}} CREATE BRANCH short AS OF VERSION {ids[1]} {own}",
        f"INSERT INTO {{c}}.{NAME}.branch_short SELECT 1000, 's1', null",
        *(few,) * 3,
    )

    def tag_for_a_moment(spark: SparkSession) -> None:
        table = IcebergJvm(spark).load(f"{night.world.catalog_name}.{NAME}")
        table.manageSnapshots().createTag("brief", ids[2]).setMaxRefAgeMs("brief", 1).commit()

    await night.services.engine.run(tag_for_a_moment, timeout=MINUTE)
    before, rows = await night.state(NAME), await contents(night, NAME)
    later = SLOT + timedelta(days=400)
    night.travel(later)

    (task,) = (await night.run(Stage.EXPIRE, slot=later)).tasks

    assert (task.outcome, task.error) == (TaskOutcome.DONE, None)
    after = await night.state(NAME)
    branch = next(ref for ref in after.refs if ref.name == "short")
    # The tag's; two of the branch by its own rule, though both are old; the last three of main.
    kept = {ids[0], ids[1], branch.snapshot_id, *(snapshot.id for snapshot in before.history[-3:])}
    assert {snapshot.id for snapshot in after.history} == kept
    assert set(after.refs) == {ref for ref in before.refs if ref.name != "brief"}
    assert await contents(night, NAME) == rows
    assert len(await night.sql(f"SELECT * FROM {{c}}.{NAME} VERSION AS OF 'kept'")) == 5
    assert len(await night.sql(f"SELECT * FROM {{c}}.{NAME} VERSION AS OF 'short'")) == 11
    (again,) = (await night.run(Stage.EXPIRE, slot=later)).tasks
    assert (again.outcome, again.reason) == (TaskOutcome.SKIPPED, Reason.NOTHING_EXPIRED)


async def test_a_main_with_ages_of_its_own_keeps_what_they_say(night: Night) -> None:
    await create(night, NAME, Odd((insert(rows=5, files=1),) * 5))
    later = SLOT + timedelta(days=400)
    night.travel(later)
    for own, outcome in (
        ("900 DAYS", TaskOutcome.SKIPPED),  # longer than the settings' 7 days
        ("1 DAYS", TaskOutcome.DONE),
    ):
        retention = f"WITH SNAPSHOT RETENTION 2 SNAPSHOTS {own}"
        current = (await night.state(NAME)).health.snapshot_id
        await make(night, NAME, f"ALTER TABLE {{t}} REPLACE BRANCH main AS OF VERSION {current} {retention}")
        (task,) = (await night.run(Stage.EXPIRE, slot=later)).tasks
        assert (task.outcome, task.error) == (outcome, None)
    assert len((await night.state(NAME)).history) == 2


async def test_the_plan_of_an_expiry_is_what_iceberg_itself_would_drop_of_any_history(engine: SparkEngine) -> None:
    def differences(spark: SparkSession) -> list[tuple[int, object, object]]:
        return [found for seed in range(HISTORIES) if (found := _difference(IcebergJvm(spark), seed))]

    assert await engine.run(differences, timeout=timedelta(minutes=3)) == []


def _difference(jvm: IcebergJvm, seed: int) -> tuple[int, object, object] | None:
    """What the core and Iceberg make of one made-up history, if they differ; no table is needed for it."""
    chance, now = random.Random(seed), datetime.now(UTC)
    iceberg: Any = jvm.iceberg
    text = json.dumps(_history(chance, int(now.timestamp() * 1000)))
    metadata = iceberg.TableMetadataParser.fromJson("s3://x/m.json", text)
    table = iceberg.BaseTable(iceberg.StaticTableOperations(metadata, None), "made.up")
    state = parse_metadata("made.up", str(iceberg.TableMetadataParser.toJson(metadata)), (), 0, 1)
    cutoff, least = now - timedelta(hours=chance.randint(1, 400)), chance.randint(1, 5)

    def dropped(expiry: Any) -> set[int]:
        return {snapshot.snapshotId() for snapshot in expiry.retainLast(least).apply()}

    planned = expired_snapshots(state, cutoff, least, now)
    by_age = dropped(table.expireSnapshots().expireOlderThan(int(cutoff.timestamp() * 1000)))
    named = table.expireSnapshots().expireOlderThan(0)
    for snapshot_id in planned:
        named = named.expireSnapshotId(snapshot_id)
    by_name = dropped(named)
    return None if set(planned) == by_age == by_name else (seed, planned, (by_age, by_name))


def _history(chance: random.Random, now_ms: int) -> dict[str, Any]:
    """A table's metadata: a dozen snapshots in a line or with forks, branches and tags with and without ages."""
    ids = list(range(1, chance.randint(1, 12) + 1))
    times = sorted(now_ms - chance.randint(1, 400) * HOUR_MS - HOUR_MS // 2 for _ in ids)
    snapshots = []
    for number, at in zip(ids, times, strict=True):
        parent = chance.choice([None, *ids[: number - 1]]) if chance.random() < 0.3 else (number - 1 or None)
        entry: dict[str, Any] = {"snapshot-id": number, "sequence-number": number, "timestamp-ms": at, "schema-id": 0}
        entry |= {"manifest-list": f"s3://x/{number}.avro", "summary": {"operation": "append"}}
        snapshots.append(entry | ({"parent-snapshot-id": parent} if parent else {}))
    current = chance.choice([ids[-1], ids[-1], chance.choice(ids), -1])

    def age(key: str, likely: float, most: int = 400 * HOUR_MS) -> dict[str, int]:
        step = HOUR_MS if most >= HOUR_MS else 1
        return {key: chance.randint(1, most // step) * step} if chance.random() < likely else {}

    def branch(snapshot_id: int) -> dict[str, Any]:
        own = age("min-snapshots-to-keep", 0.4, 4) | age("max-snapshot-age-ms", 0.4)
        return {"snapshot-id": snapshot_id, "type": "branch", **own}

    refs: dict[str, dict[str, Any]] = {"main": branch(current)} if current > 0 else {}
    for number in range(chance.randint(0, 3)):
        some = chance.choice(ids)
        ref = branch(some) if chance.random() < 0.5 else {"snapshot-id": some, "type": "tag"}
        refs[f"ref{number}"] = ref | age("max-ref-age-ms", 0.5)
    own = {
        **age("history.expire.max-ref-age-ms", 0.3),
        **age("history.expire.max-snapshot-age-ms", 0.3),
        **age("history.expire.min-snapshots-to-keep", 0.3, 5),
    }
    return {
        "format-version": 2,
        "table-uuid": "9c12d441-03fe-4693-9a96-a0705ddf69c1",
        "location": "s3://x",
        "last-sequence-number": ids[-1],
        "last-updated-ms": times[-1],
        "last-column-id": 1,
        "current-schema-id": 0,
        "schemas": [{"type": "struct", "schema-id": 0, "fields": []}],
        "default-spec-id": 0,
        "partition-specs": [{"spec-id": 0, "fields": []}],
        "last-partition-id": 999,
        "default-sort-order-id": 0,
        "sort-orders": [{"order-id": 0, "fields": []}],
        "properties": {key: str(value) for key, value in own.items()},
        "current-snapshot-id": current,
        "refs": refs,
        "snapshots": snapshots,
        "snapshot-log": [{"snapshot-id": current, "timestamp-ms": times[-1]}] if current > 0 else [],
    }


async def test_on_a_hadoop_catalog_a_running_offload_holds_the_compaction_and_says_why(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, catalog="hadoop", old_snapshots=0)
    before = await night.state(COINBASE)
    night.travel(SLOT + timedelta(seconds=40))
    night.ledger("UPDATE offload_watermarks SET status = 'running', updated_at = $1", SLOT)

    order = make_order(night.settings, SLOT, Trigger.MANUAL, stages=(Stage.COMPACT,))
    ((plan,), errors) = await make_plans(order, night.services.ports)
    (task,) = (await night.run(Stage.COMPACT)).tasks

    assert (plan.decision, plan.reason, errors) == (Decision.HOLD, Reason.OFFLOAD_RUNNING, {})
    would = r"the offload's cycle, running for 40 s; it would rewrite \d+ files .* into \d+"
    assert re.fullmatch(f"waits for {would}", plan.note)
    assert (task.outcome, task.reason) == (TaskOutcome.HELD, Reason.OFFLOAD_RUNNING)
    assert re.fullmatch(f"waited 30 min for {would}", task.note)
    assert night.ledger("SELECT outcome, reason, note FROM maintenance_tasks") == [
        ("held", "offload_running", task.note)
    ]
    assert await night.state(COINBASE) == before
    # A cycle without rows leaves its status behind: that holds nothing, and is said.
    night.travel(SLOT + timedelta(minutes=11))
    (task,) = (await night.run(Stage.COMPACT)).tasks
    assert task.outcome is TaskOutcome.DONE
    assert re.match(r"rewrote \d+ files .*; the offload's status, running since .* is left over", task.note)
    # There is nothing to hold any more, and nothing is started to find that out.
    night.ledger("UPDATE offload_watermarks SET updated_at = $1", SLOT + timedelta(minutes=11))
    jobs = await spark_jobs(night)
    (task,) = (await night.run(Stage.COMPACT)).tasks
    assert (task.outcome, task.reason) == (TaskOutcome.SKIPPED, Reason.TOO_FEW_FILES)
    assert await spark_jobs(night) == jobs


async def test_a_data_file_that_is_gone_is_file_missing_and_not_a_store_that_is_down(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, old_snapshots=0)
    path = (await night.sql(f"SELECT file_path FROM {{c}}.{COINBASE}.files"))[0][0]
    night.box.s3.filesystem().delete_file(path.removeprefix("s3://"))
    (task,) = (await night.run(Stage.COMPACT)).tasks
    assert (task.outcome, task.reason, task.attempts) == (TaskOutcome.FAILED, Reason.FILE_MISSING, 1)
