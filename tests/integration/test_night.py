"""A whole night on real parts: what it changes, what it must not change, and what it writes down."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from icekeeper.core.enums import NIGHT, AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from icekeeper.sandbox import Offload
from tests.conftest import BINANCE, COINBASE, GOLD, SILVER, SLOT, MakeNight, Night, outcomes


async def spark_jobs(night: Night) -> int:
    """How many jobs the session has ever started."""
    return await night.services.engine.run(
        lambda spark: int(spark.sparkContext._jsc.sc().dagScheduler().numTotalJobs()), timeout=timedelta(seconds=30)
    )


async def test_a_night_over_ten_tables_leaves_them_compact_expired_and_proven(make_night: MakeNight) -> None:
    night = await make_night(commits_per_day=24)
    tables = [policy.name for policy in night.settings.policies()]
    assert len(tables) == 10
    before = {table: await night.state(table) for table in tables}
    rows = {table: night.world.rows_iceberg(table) for table in tables}
    kept = before[BINANCE].history[1].id
    await night.sql(f"ALTER TABLE {{c}}.{BINANCE} CREATE TAG before_the_night AS OF VERSION {kept}")
    await night.sql(
        f"ALTER TABLE {{c}}.{BINANCE} CREATE BRANCH experiment AS OF VERSION {before[BINANCE].history[2].id}"
    )

    report = await night.run()

    assert report.outcome is RunOutcome.SUCCESS, [t.error for t in report.tasks if t.error]
    assert [task.stage for task in report.tasks] == [s for s in NIGHT for _ in tables]
    for table in tables:
        state = await night.state(table)
        assert night.world.rows_iceberg(table) == rows[table]
        assert state.health.records == before[table].health.records
        # What binpack allows: no partition is left with as many as five small files.
        assert not await night.services.ports.lakehouse.file_groups(table, night.settings.policies()[0].compact)
        assert state.health.small_files < before[table].health.small_files
        cutoff = SLOT - timedelta(days=7)
        refs = {ref.snapshot_id for ref in state.refs}
        old = [s for s in state.history if s.committed_at < cutoff and s.id not in refs]
        assert len(old) <= 3
        known = [s.id for s in before[table].history]
        assert [s.id for s in state.history if s.id in known][-2:] == known[-2:]
    refs_now = {ref.name: ref.snapshot_id for ref in (await night.state(BINANCE)).refs}
    assert refs_now["before_the_night"] == kept
    assert {"main", "experiment"} <= refs_now.keys()

    assert len(report.audits) == 10
    assert {audit.status for audit in report.audits} == {AuditStatus.OK}
    written = night.ledger("SELECT iceberg_table, status, ch_row_count, iceberg_row_count FROM maintenance_audit_log")
    assert sorted(row[0] for row in written) == sorted(tables)
    (run,) = await night.services.history.runs(10)
    assert (run["run_id"], run["outcome"]) == (report.run_id, "success")
    whole = await night.services.history.run(report.run_id, lines=True)
    assert whole is not None
    assert (len(whole["tasks"]), len(whole["audits"])) == (30, 10)
    assert any(line["event"] == "run_ended" for line in whole["logs"])


async def test_a_second_night_straight_after_does_nothing_and_says_why(make_night: MakeNight) -> None:
    night = await make_night(BINANCE, SILVER, GOLD)
    first = await night.run()
    assert first.outcome is RunOutcome.SUCCESS
    states = {table: await night.state(table) for table in (BINANCE, SILVER, GOLD)}
    files, jobs = night.store(), await spark_jobs(night)

    second = await night.run(Stage.COMPACT, Stage.EXPIRE)

    assert await spark_jobs(night) == jobs
    assert second.outcome is RunOutcome.SUCCESS
    assert {(task.outcome, task.reason) for task in second.tasks} == {
        (TaskOutcome.SKIPPED, Reason.TOO_FEW_FILES),
        (TaskOutcome.SKIPPED, Reason.NOTHING_EXPIRED),
    }
    assert night.store() == files
    assert {table: await night.state(table) for table in states} == states


async def test_replaced_files_leave_the_store_when_their_snapshots_do(make_night: MakeNight) -> None:
    night = await make_night(COINBASE)
    before = {path for path in night.store() if path.endswith(".parquet")}
    await night.run(Stage.COMPACT)
    groups = {_key(row[0]) for row in await night.sql(f"SELECT file_path FROM {{c}}.{COINBASE}.files")}
    replaced = before - groups
    # More appends, so that none of the last three snapshots refers to what was replaced.
    await asyncio.to_thread(Offload(night.world).advance, night.world.traded_until() + timedelta(hours=12))
    later = SLOT + timedelta(days=400)  # every snapshot but the last three is old by then
    night.travel(later)

    report = await night.run(Stage.EXPIRE, slot=later)

    assert outcomes(report, Stage.EXPIRE) == {COINBASE: TaskOutcome.DONE}
    state = await night.state(COINBASE)
    assert len(state.history) == 3
    live = await night.sql(f"SELECT DISTINCT file_path FROM {{c}}.{COINBASE}.all_data_files")
    left = {path for path in night.store() if path.endswith(".parquet")}
    assert left == {_key(row[0]) for row in live}
    assert len(replaced) > 20
    assert not replaced & left


def _key(path: str) -> str:
    return path.removeprefix("s3://").partition("/")[2]


async def test_a_plan_and_a_dry_audit_change_nothing_anywhere(make_night: MakeNight) -> None:
    night = await make_night(BINANCE, GOLD)

    async def everything() -> tuple[Any, ...]:
        metadata = [
            night.ledger("SELECT table_name, metadata_location FROM iceberg_tables ORDER BY 1"),
            *(night.ledger(f"SELECT * FROM {table} ORDER BY 1") for table in LEDGER_TABLES),
            [night.world.rows_clickhouse(table) for table in (BINANCE, GOLD)],
        ]
        return night.store(), metadata

    before = await everything()
    order = make_order(night.settings, SLOT, Trigger.MANUAL)
    plans, errors = await make_plans(order, night.services.ports)
    audit = await night.run(Stage.AUDIT, record=False)

    assert not errors
    assert {(plan.stage, plan.decision.value) for plan in plans} == {(stage, "act") for stage in NIGHT}
    assert {row.status for row in audit.audits} == {AuditStatus.OK}
    assert await everything() == before


LEDGER_TABLES = ("maintenance_runs", "maintenance_tasks", "maintenance_audit_log", "offload_watermarks")


async def test_a_writer_that_commits_meanwhile_loses_nothing_and_never_fails(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, commits_per_day=24)
    offload, stop, ticks = Offload(night.world), asyncio.Event(), 0
    at = night.world.traded_until()

    async def write() -> int:
        nonlocal at, ticks
        appended = 0
        while not stop.is_set():
            at += timedelta(hours=1)
            appended += await asyncio.to_thread(offload.advance, at)
            ticks += 1
        return appended

    before = night.world.rows_iceberg(COINBASE)
    writer = asyncio.create_task(write())
    try:
        reports = [await night.run(Stage.COMPACT) for _ in range(4)]
    finally:
        stop.set()
        appended = await writer

    assert {report.outcome for report in reports} == {RunOutcome.SUCCESS}
    assert ticks > 2, "the writer has to have written while the compactions ran"
    assert night.world.rows_iceberg(COINBASE) == before + appended
    # Not one row lost or doubled: what ClickHouse holds up to the watermark is what Iceberg holds.
    watermark = night.world.watermark(COINBASE)
    end = watermark + timedelta(milliseconds=1) if watermark else None
    # (From the day before on: what is older ClickHouse has dropped by its TTL.)
    start = SLOT - timedelta(days=1)
    there = night.world.rows_clickhouse(COINBASE, start, end)
    assert night.world.rows_iceberg(COINBASE, start, end) == there


async def test_a_failed_compaction_makes_the_run_partial_and_the_night_goes_on(make_night: MakeNight) -> None:
    def add_a_stranger(document: dict[str, Any]) -> None:
        document["tables"].insert(0, {"name": "cold.not_there", "source": None})

    night = await make_night(BINANCE, change=add_a_stranger)

    report = await night.run()

    assert report.outcome is RunOutcome.PARTIAL
    failed = [task for task in report.tasks if task.outcome is TaskOutcome.FAILED]
    assert {(task.table, task.reason, task.attempts) for task in failed} == {
        ("cold.not_there", Reason.TABLE_NOT_FOUND, 1)
    }
    assert outcomes(report, Stage.COMPACT)[BINANCE] is TaskOutcome.DONE
    assert outcomes(report, Stage.AUDIT) == {BINANCE: TaskOutcome.DONE}


async def test_missing_data_makes_the_run_failed_and_names_the_hours(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, GOLD, commits_per_day=48)
    day = SLOT - timedelta(hours=26)
    for hour in (13, 14):
        night.world.lose_hour(COINBASE, day, hour)

    report = await night.run(Stage.AUDIT)

    assert report.outcome is RunOutcome.FAILED
    statuses = {audit.iceberg_table: audit.status for audit in report.audits}
    assert statuses == {COINBASE: AuditStatus.MISSING_DATA, GOLD: AuditStatus.OK}
    found = next(audit for audit in report.audits if audit.iceberg_table == COINBASE)
    assert [hour.start.hour for hour in found.missing_hours] == [13, 14]
    assert found.delta == sum(hour.iceberg - hour.clickhouse for hour in found.missing_hours)
    (stored,) = night.ledger(
        "SELECT status, jsonb_array_length(missing_hours) FROM maintenance_audit_log WHERE iceberg_table = $1", COINBASE
    )
    assert stored == ("missing_data", 2)


async def test_a_source_that_is_not_there_is_an_error_with_empty_counts(make_night: MakeNight) -> None:
    def misspell(document: dict[str, Any]) -> None:
        document["tables"][0]["source"] = "no_such_table"

    night = await make_night(BINANCE, change=misspell)

    report = await night.run(Stage.AUDIT)

    (audit,) = report.audits
    assert report.outcome is RunOutcome.FAILED
    assert (audit.status, audit.reason) == (AuditStatus.ERROR, Reason.SOURCE_TABLE_NOT_FOUND)
    assert (audit.ch_row_count, audit.iceberg_row_count, audit.delta) == (None, None, None)
    assert night.ledger("SELECT ch_row_count, iceberg_row_count, delta FROM maintenance_audit_log") == [
        (None, None, None)
    ]


async def test_a_scheduled_slot_has_one_audit_row_a_table_however_often_it_is_run(make_night: MakeNight) -> None:
    night = await make_night(BINANCE)
    await night.run(Stage.AUDIT, trigger=Trigger.SCHEDULE)
    await night.run(Stage.AUDIT, trigger=Trigger.RESUME)
    await night.run(Stage.AUDIT)

    rows = night.ledger("SELECT trigger FROM maintenance_audit_log ORDER BY trigger")
    assert rows == [("manual",), ("resume",)]


@pytest.mark.parametrize("catalog", ["rest", "hadoop"])
async def test_other_catalogs_get_the_same_night(make_night: MakeNight, catalog: str) -> None:
    night = await make_night(COINBASE, SILVER, catalog=catalog, old_snapshots=0)
    rows = {table: night.world.rows_iceberg(table) for table in (COINBASE, SILVER)}
    before = {table: (await night.state(table)).health for table in rows}

    report = await night.run(slot=None if catalog == "hadoop" else night.world.spec.now)

    assert report.outcome is RunOutcome.SUCCESS, [t.error for t in report.tasks if t.error]
    for table in rows:
        health = (await night.state(table)).health
        assert health.records == rows[table]
        assert health.data_files < before[table].data_files
