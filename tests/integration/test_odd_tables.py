"""Tables that are not as the platform makes them: a whole night leaves every row, and the next has nothing to do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from icekeeper.adapters.host import Host, wall_clock
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.calendar import window_of
from icekeeper.core.enums import AuditStatus, Stage, TaskOutcome
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport, StageResult
from icekeeper.core.tables import planning
from icekeeper.execution.wiring import build
from icekeeper.sandbox import Sandbox, WorldSpec
from icekeeper.settings import load, systems
from tests.conftest import COINBASE, SLOT, Night, no_waiting, tell_session, write_settings
from tests.integration.odd import (
    ALTER,
    MERGE_ON_READ,
    MINUTE,
    ODD,
    Odd,
    contents,
    create,
    equality_deletes,
    insert,
    make,
    shape_slices,
    spark_jobs,
    table_of,
)

# All snapshots but the last are old by then.
LATER = SLOT + timedelta(days=400)

# Column names that SQL, Avro and a path each have a say about.
COLUMNS = "`order` BIGINT, `Ev-Tś$x` TIMESTAMP, `a b` STRING, `c.d` STRING, `Über/%` STRING, `1` INT"
NAMED = Odd(
    (insert("id, timestamp'2026-02-17 23:59:59', concat('x ', id % 3), 'd', '%', 1"),),
    schema=COLUMNS,
    partitions="PARTITIONED BY (days(`Ev-Tś$x`), `a b`, truncate(1, `Über/%`), bucket(1, `c.d`))",
    pruned="`a b` = 'x 1'",
    sliced=True,
)
NAMES = ("order.files", "Kält-e.eu.branch_1$'\"%+表")
CONFLICT = "conflict"
MEDIUM = "medium"
UNSORTED = "neither an order nor such a column"
# What the other strategies might stumble over: the rest is the same work for all.
SORTED = (
    "deletion vectors beside position deletes of before",
    "days became hours and an identity",
    "a sort order, statistics, object storage paths, sizes and metadata of its own",
)
SPREAD = (
    *SORTED,
    "position deletes, of whole files too",
    "equality deletes by partition, all of one",
    "format version 3, a variant and a default",
    "partitions by what lies in a struct, by decimals and wider numbers",
    "evolved columns",
    "orc and avro files with deletes",
)
NOTHING: dict[str, tuple[str, ...]] = {
    "no snapshot": (),
    "an empty snapshot": ("INSERT INTO {t} SELECT * FROM {t}",),
    "emptied": (insert(), "TRUNCATE TABLE {t}"),
    "made anew and empty": (insert(), "CREATE OR REPLACE TABLE {t} (other STRING) USING iceberg"),
}


@pytest.fixture(scope="module")
async def night(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Night]:
    """One world whose settings name every odd table; each test makes its own."""
    spec = WorldSpec(
        name=f"odd{uuid4().hex[:8]}", now=SLOT, days=0.25, commits_per_day=4, files_per_commit=1, rows_per_file=5,
        symbols=2, old_snapshots=0, tables=(COINBASE,),
    )  # fmt: skip
    world = await asyncio.to_thread(box.world, spec)

    def only_odd_ones(document: dict[str, Any]) -> None:
        def table(name: str, **more: Any) -> dict[str, Any]:
            # The last snapshot alone stays, so that a night drops every file that compaction has replaced.
            return {"name": name, "expire": {"retain_last": 1}, **more}

        plain = [table_of(shape) for shape in (*ODD, *NOTHING, "gc")]
        document["tables"] = [table(name) for name in plain]
        document["tables"] += [table(name, source=_source(name), timestamp="Ev-Tś$x") for name in NAMES]
        document["tables"] += [table(table_of(MEDIUM), compact={"target_file_size": "1MiB"})]
        document["tables"] += [table(table_of(CONFLICT), compact={"retries": 1})]
        document["tables"] += [
            table(table_of(f"{shape} {strategy}"), timestamp="id", compact={"strategy": strategy})
            for shape in (*ODD, UNSORTED)
            for strategy in ("auto", "sort")
        ]

    folder = tmp_path_factory.mktemp("odd")
    config = write_settings(world, folder / "icekeeper.yaml", folder / "state", only_odd_ones)
    settings = load(config)
    await tell_session(engine, settings)
    # The clock is a year ahead of the servers', so they are not compared.
    host = Host(wall_clock, {}, (settings.state_dir,))
    services = build(settings, engine, clock=lambda: LATER, sleep=no_waiting, surroundings=host)
    services.ports.proofs.saved = timedelta(days=1)  # so that the content of every rewrite is compared
    await migrate(world.postgres.dsn(world.postgres_database), world.postgres.password)
    yield Night(box, world, config, settings, services, catalog=settings.catalog.name)
    await services.close()


def _source(table: str) -> str:
    return table.rpartition(".")[2]


async def maintain(night: Night, table: str) -> tuple[StageResult, StageResult]:
    """A night over one table: how its compaction and its expiry ended. What the report and the ledger say agrees."""
    report = await night.run(Stage.COMPACT, Stage.EXPIRE, tables=(table,), slot=LATER)
    assert recorded(night, report) == [
        (task.stage, task.outcome, task.reason, task.note, task.error) for task in report.tasks
    ]
    compacted, expired = report.tasks
    return compacted, expired


def recorded(night: Night, report: RunReport) -> list[tuple[Any, ...]]:
    return night.ledger(
        "SELECT stage, outcome, reason, note, error FROM maintenance_tasks WHERE run_id = $1 ORDER BY position",
        report.run_id,
    )


async def assert_nothing_to_do(night: Night, table: str) -> None:
    state, jobs = await night.state(table), await spark_jobs(night)
    compacted, expired = await maintain(night, table)
    assert compacted.outcome is TaskOutcome.SKIPPED, compacted
    assert compacted.reason in (Reason.TOO_FEW_FILES, Reason.NOTHING_SMALL)
    assert (expired.outcome, expired.reason) == (TaskOutcome.SKIPPED, Reason.NOTHING_EXPIRED)
    assert await spark_jobs(night) == jobs
    assert await night.state(table) == state
    (compact,) = [policy.compact for policy in night.services.settings.policies() if policy.name == table]
    groups = await night.services.ports.lakehouse.file_groups(table, compact)
    assert planning.may_interest_planner(state, compact) or not groups, "it would have found what it was not asked for"


async def assert_a_night_keeps_the_rows(night: Night, table: str, odd: Odd) -> StageResult:
    rows, before = await contents(night, table, odd.columns, odd.pruned), await night.state(table)

    compacted, expired = await maintain(night, table)

    after = await night.state(table)
    assert [(task.outcome, task.error) for task in (compacted, expired)] == [(TaskOutcome.DONE, None)] * 2
    assert "is the same" in compacted.note, "its content was compared"
    assert await contents(night, table, odd.columns, odd.pruned) == rows
    assert (compacted.before, expired.before, expired.after) == (before.health, compacted.after, after.health)
    assert after.health.data_files < before.health.data_files
    assert len(after.history) == 1
    await assert_nothing_to_do(night, table)
    return compacted


@pytest.mark.parametrize("shape", ODD)
async def test_a_night_leaves_every_row_of(night: Night, shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = ODD[shape]
    shape_slices(odd, monkeypatch)
    await create(night, table_of(shape), odd)

    compacted = await assert_a_night_keeps_the_rows(night, table_of(shape), odd)

    assert ("slices" in compacted.note) == odd.sliced
    # Iceberg leaves delete files that apply to nothing any more; that costs no second compaction.
    assert bool(compacted.after and compacted.after.delete_files) == odd.dangling


@pytest.mark.long
@pytest.mark.parametrize(
    ("strategy", "shape"), [*(("auto", shape) for shape in SPREAD), *(("sort", shape) for shape in SORTED)]
)
async def test_every_strategy_leaves_every_row_of(
    night: Night, strategy: str, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd, table = ODD[shape], table_of(f"{shape} {strategy}")
    shape_slices(odd, monkeypatch)
    monkeypatch.setattr(planning, "SPREAD_MIN_FILES", 2)
    await create(night, table, odd)
    await assert_a_night_keeps_the_rows(night, table, odd)


async def test_a_sort_by_nothing_that_is_there_says_what_to_do(night: Night) -> None:
    table = table_of(f"{UNSORTED} sort")
    await create(night, table, Odd((insert("cast(id AS STRING)"),), schema="s STRING"))
    (task,) = (await night.run(Stage.COMPACT, tables=(table,), slot=LATER)).tasks
    assert (task.outcome, task.attempts) == (TaskOutcome.FAILED, 1)
    assert task.error is not None
    assert "WRITE ORDERED BY" in task.error
    assert "'id'" in task.error


@pytest.mark.parametrize("table", NAMES)
async def test_names_that_need_quoting_are_quoted_in_all_stages(
    night: Night, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape_slices(NAMED, monkeypatch)
    spaces = table.split(".")[:-1]
    for depth in range(len(spaces)):
        quoted = ".".join(f"`{part}`" for part in spaces[: depth + 1])
        await night.sql(f"CREATE NAMESPACE IF NOT EXISTS {{c}}.{quoted}")
    await create(night, table, NAMED)
    execute = partial(night.world.clickhouse.execute, database=night.world.clickhouse_database)
    source = _source(table)
    execute(f"CREATE TABLE `{source}` (`Ev-Tś$x` DateTime64(3)) ENGINE = ReplacingMergeTree ORDER BY `Ev-Tś$x`")
    execute(f"INSERT INTO `{source}` SELECT toDateTime64('2026-02-17 23:00:00', 3, 'UTC') + number FROM numbers(60)")

    await assert_a_night_keeps_the_rows(night, table, NAMED)
    (audit,) = (await night.run(Stage.AUDIT, tables=(table,), slot=SLOT)).audits

    assert (audit.status, audit.ch_row_count, audit.iceberg_row_count) == (AuditStatus.MISSING_DATA, 60, 45)
    assert [(hour.start.hour, hour.clickhouse, hour.iceberg) for hour in audit.missing_hours] == [(23, 60, 45)]


@pytest.mark.parametrize("shape", NOTHING)
async def test_a_table_without_data_has_nothing_to_compact(night: Night, shape: str) -> None:
    await create(night, table_of(shape), Odd(NOTHING[shape]))
    compacted, _ = await maintain(night, table_of(shape))
    assert (compacted.outcome, compacted.reason) == (TaskOutcome.SKIPPED, Reason.NOTHING_SMALL)
    assert await contents(night, table_of(shape)) == ([], None)
    await assert_nothing_to_do(night, table_of(shape))


async def test_files_that_no_packing_makes_fewer_are_left_alone(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five files of more than half the target: Iceberg would rewrite them into five, every night."""
    # With this heap four files are written at once: the partition would be cut, and one file more be left.
    monkeypatch.setattr(systems, "writers", lambda heap: heap)
    table, row = table_of(MEDIUM), "id, sha2(string(rand()), 256)"
    await create(night, table, Odd((insert(row, rows=80_000),), schema="id BIGINT, s STRING"))
    await assert_nothing_to_do(night, table)
    # With something to add to them they are worth it, once.
    await make(night, table, insert("id, 'x'"))
    total = f"SELECT count(*), sum(CAST(xxhash64(s) AS DECIMAL(38, 0))) FROM {{c}}.{table}"
    rows = await night.sql(total)
    compacted, _ = await maintain(night, table)
    assert compacted.after is not None
    assert (compacted.outcome, compacted.after.data_files) == (TaskOutcome.DONE, 5)
    assert await night.sql(total) == rows
    await assert_nothing_to_do(night, table)


@pytest.mark.parametrize("meanwhile", ["an append", "a delete"])
async def test_what_commits_during_a_compaction_of_a_table_with_deletes_is_kept(
    night: Night, meanwhile: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(CONFLICT)
    await make(night, table, "DROP TABLE IF EXISTS {t} PURGE")
    await create(night, table, Odd((insert(), equality_deletes("s", "s1")), properties=MERGE_ON_READ))
    written = [insert(start=100, files=1), "DELETE FROM {t} WHERE id % 9 = 5"][meanwhile == "a delete"]
    name = f"{night.world.catalog_name}.{table}"
    actions = IcebergJvm.actions
    expected: list[int] = []

    def commit_first(jvm: IcebergJvm) -> Any:
        # The table to rewrite is loaded by now: what it is rewritten from is no longer what is there.
        if not expected:
            jvm.spark.sql(written.replace("{t}", name)).collect()
            expected.append(jvm.spark.table(name).count())
        return actions(jvm)

    monkeypatch.setattr(IcebergJvm, "actions", commit_first)
    compacted, expired = await maintain(night, table)

    assert [(task.outcome, task.error) for task in (compacted, expired)] == [(TaskOutcome.DONE, None)] * 2
    # A delete of rows that are being rewritten makes one of the two lose: the rewrite, which is planned again.
    assert compacted.attempts == (2 if meanwhile == "a delete" else 1)
    assert len((await contents(night, table))[0]) == expected[0]


async def test_gc_disabled_holds_an_expiry(night: Night) -> None:
    await create(night, table_of("gc"), Odd((insert(),) * 2, properties="'gc.enabled' = 'FALSE'"))
    compacted, expired = await maintain(night, table_of("gc"))
    assert compacted.outcome is TaskOutcome.DONE
    assert (expired.outcome, expired.reason) == (TaskOutcome.HELD, Reason.GC_DISABLED)
    assert len((await night.state(table_of("gc"))).history) == 3


async def test_a_renamed_event_time_is_counted_before_anything_is_committed_under_its_new_name(night: Night) -> None:
    table, window = table_of("renamed"), window_of(SLOT)
    row = "id, null, timestamp'2026-02-17 10:00:00'"
    await create(night, table, Odd((insert(row, files=1), ALTER + "RENAME COLUMN ts TO event_time")))
    lakehouse = night.services.ports.lakehouse
    counted = await lakehouse.count(table, "event_time", window, MINUTE)
    hours = await lakehouse.count_by_minute(table, "event_time", window, counted.snapshot_id, MINUTE)
    assert (counted.rows, list(hours.values())) == (45, [45])
    assert counted.snapshot_id == (await night.state(table)).health.snapshot_id
