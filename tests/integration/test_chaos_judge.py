"""The judge of the chaos campaign convicts: each thing that must not be is found where somebody has done it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TypeAlias

import pytest

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import RunOutcome, Stage, Trigger
from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.offload import Offload
from icekeeper.sandbox.table_shapes import SHAPES
from icekeeper.sandbox.world_spec import OFFLOAD_LAG
from tests.chaos.judge import Before, Violation, Wrong, judge_ledger, judge_tables
from tests.conftest import COINBASE, GOLD, Night, nights

pytestmark = pytest.mark.long

NOTHING: frozenset[Stage] = frozenset()
SQL = "UPDATE maintenance_{} SET {} WHERE {}"


# A night that is over, and its tables before it.
Lived: TypeAlias = tuple[Night, Before]


@pytest.fixture(scope="module")
async def lived(box: Sandbox, engine: SparkEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Lived]:
    """One night for all tests; the last of them damages its tables."""
    async with nights(box, engine, tmp_path_factory.mktemp("judged")) as make:
        # Hourly ticks: the audited day is offloaded whole.
        night = await make(COINBASE, GOLD, commits_per_day=24, files_per_commit=1)
        before = Before.of(night.world)
        report = await night.run(trigger=Trigger.SCHEDULE)
        assert report.outcome is RunOutcome.SUCCESS
        yield night, before


async def judged(night: Night, before: Before) -> dict[Wrong, Violation]:
    found = await asyncio.to_thread(judge_tables, night.box, night.world, before)
    found += await asyncio.to_thread(judge_ledger, night.world, NOTHING)
    return {violation.wrong: violation for violation in found}


async def test_an_honest_night_is_acquitted_also_where_the_offload_commits_meanwhile(lived: Lived) -> None:
    night, before = lived
    assert await judged(night, before) == {}
    at = night.world.traded_until() + OFFLOAD_LAG + timedelta(hours=1)
    assert await asyncio.to_thread(Offload(night.world).run, at=at) > 0
    assert await judged(night, before) == {}


TAMPERED = (
    (SQL.format("runs", "outcome = NULL, finished_at = NULL", "true"), Wrong.LEDGER_UNTRUE),
    (SQL.format("runs", "outcome = 'interrupted'", "true"), Wrong.LEDGER_UNTRUE),
    (SQL.format("runs", "outcome = 'partial'", "true"), Wrong.LEDGER_UNTRUE),
    (SQL.format("runs", "trigger = 'resume'", "true"), Wrong.LEDGER_UNTRUE),
    (SQL.format("tasks", "outcome = 'failed'", "stage = 'expire'"), Wrong.FAILED),
    ("DELETE FROM maintenance_tasks WHERE stage = 'compact'", Wrong.LEDGER_UNTRUE),
    ("DELETE FROM maintenance_audit_log", Wrong.AUDITS_LOST),
    (SQL.format("audit_log", "ch_row_count = ch_row_count + 1", "true"), Wrong.AUDIT_UNTRUE),
    (SQL.format("audit_log", "run_id = gen_random_uuid()", "true"), Wrong.AUDIT_UNTRUE),
    (SQL.format("audit_log", "status = 'error'", "true"), Wrong.FAILED),
)


async def test_an_untrue_ledger_is_found(lived: Lived) -> None:
    night, _ = lived
    tables = ("runs", "tasks", "audit_log")
    for table in tables:
        night.ledger(f"CREATE TABLE true_{table} AS TABLE maintenance_{table}")

    def restore() -> None:
        for table in tables:
            night.ledger(f"DELETE FROM maintenance_{table}")
            night.ledger(f"INSERT INTO maintenance_{table} OVERRIDING SYSTEM VALUE TABLE true_{table}")

    for tamper, wrong in TAMPERED:
        night.ledger(tamper)
        assert wrong in {violation.wrong for violation in judge_ledger(night.world, NOTHING)}, tamper
        restore()
        assert judge_ledger(night.world, NOTHING) == []

    # What may have failed has to be told all the same.
    may_fail = frozenset({Stage.EXPIRE})
    night.ledger(SQL.format("tasks", "outcome = 'failed'", "stage = 'expire'"))
    assert {violation.wrong for violation in judge_ledger(night.world, may_fail)} == {Wrong.LEDGER_UNTRUE}
    night.ledger(SQL.format("runs", "outcome = 'partial'", "true"))
    assert judge_ledger(night.world, may_fail) == []
    restore()


async def test_what_is_lost_or_doubled_in_tables_and_ledger_is_found_and_counted(lived: Lived) -> None:
    night, before = lived
    table = night.world.pyiceberg_catalog().load_table(SHAPES[COINBASE].identifier)
    some = table.scan().to_arrow().slice(0, 5)

    table.append(some)
    assert (await judged(night, before))[Wrong.ROWS_DOUBLED].count == 5
    coin = some["symbol"][0].as_py()
    # With the rows that the offload has brought meanwhile, and without those that are there twice.
    there = table.refresh().scan(row_filter=f"symbol = '{coin}'").count()
    table.delete(f"symbol = '{coin}'")
    lost = there - some["symbol"].to_pylist().count(coin)
    assert (await judged(night, before))[Wrong.ROWS_LOST].count == lost > 0

    key = str(next(iter(table.refresh().scan().plan_files())).file.file_path).partition("://")[2]
    night.box.s3.filesystem().delete_file(key)
    assert (await judged(night, before))[Wrong.FILES_LOST].count == 1
