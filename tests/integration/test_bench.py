"""The benchmark's rivals on tables of twelve files: each does what it is timed for, and the tables are as before."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from bench import record
from bench.audits import AUDITS, AuditTurn
from bench.lab import Lab
from bench.plan import AUDIT
from bench.record import Case, Output, Sides
from bench.run import Run
from bench.store import Traffic
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.settings.systems import Spark
from icekeeper.settings.tables import Audit, Compact, Expire
from tests.conftest import tell_session

ROWS = 12 * 430
pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
async def lab(engine: SparkEngine) -> AsyncIterator[Lab]:
    async with Lab.open(engine=engine) as running:
        for services in running.services.values():
            await tell_session(engine, services.settings)
        yield running


async def done(run: Run | AuditTurn) -> tuple[Output | None, Traffic]:
    """Lets a rival do its job, and puts everything back."""
    try:
        await run.act()
        traffic = await run.traffic()
        return await run.output(), traffic
    finally:
        await run.close()


@pytest.mark.parametrize("rival", ["defaults", "binpack", "call", "zamboni", "floor"])
async def test_a_rival_makes_one_file_of_the_same_rows(lab: Lab, rival: str) -> None:
    case = Case("compact", "12", "s3")
    if not lab.can(case, rival):
        pytest.skip(f"{rival} is not installed here")
    run = await lab.prepare(case, rival)
    assert (run.input_files, run.tables) == (12, 1)
    output, traffic = await done(run)
    assert output is not None
    # By the table's properties one of ten columns, the symbol, is only counted; the floor knows nothing of them.
    bounds = 10 if rival == "floor" else 9
    assert (output.files, output.rows, output.row_groups, output.columns_with_bounds) == (1, ROWS, 1, bounds)
    assert traffic.requests["GET"] >= 12
    assert traffic.bytes_read > 12 * 10_000
    assert traffic.bytes_written > output.bytes


@pytest.mark.parametrize("store", ["local", "s3"])
async def test_what_an_expiry_deleted_is_there_again_for_the_next(lab: Lab, store: str) -> None:
    case = Case("expire", "12", store)  # type: ignore[arg-type]
    for _ in range(2):
        # That the twelve replaced files are gone is a part of looking at the output.
        output, traffic = await done(await lab.prepare(case, "defaults"))
        assert output is not None
        assert output.files == 3
        assert traffic.requests["POST"] == (store == "s3"), "one bulk delete"


async def test_a_plain_copy_writes_the_bytes_that_it_reads_and_the_table_is_as_before(lab: Lab) -> None:
    run = await lab.prepare(Case("compact", "12", "s3"), "copy")
    output, traffic = await done(run)
    assert output is not None
    assert (output.files, output.rows) == (12, ROWS)
    assert traffic.bytes_read > output.bytes
    assert traffic.bytes_written > output.bytes
    again, _ = await done(await lab.prepare(Case("compact", "12", "s3"), "defaults"))
    assert again is not None
    assert (again.files, again.rows) == (1, ROWS)


@pytest.mark.parametrize("store", ["local", "s3"])
async def test_a_bare_expiry_reads_and_deletes_what_icekeeper_does(lab: Lab, store: str) -> None:
    gone, traffic = {}, {}
    for rival in ("defaults", "bare"):
        run = await lab.prepare(Case("expire", "12", store), rival)  # type: ignore[arg-type]
        assert isinstance(run, Run)
        try:
            await run.act()
            traffic[rival] = (await run.traffic()).requests
            gone[rival] = run.deleted()
            await run.output()
        finally:
            await run.close()
    assert gone["bare"] == gone["defaults"]
    assert traffic["bare"]["POST"] == traffic["defaults"]["POST"]
    assert 0 <= traffic["defaults"]["GET"] - traffic["bare"]["GET"] <= 3


@pytest.mark.parametrize("store", ["local", "s3+10ms"])
async def test_what_was_written_is_read_by_spark_and_by_pyarrow(lab: Lab, store: str) -> None:
    run = await lab.prepare(Case("compact", "12", store), "defaults")  # type: ignore[arg-type]
    try:
        await run.act()
        scans = await run.scans()
    finally:
        await run.close()
    assert scans is not None
    assert min(scans.spark_s, scans.arrow_s) > 0


async def test_the_lab_has_the_settings_that_a_new_user_gets(lab: Lab) -> None:
    settings = lab.services["bench_s3"].settings
    assert (settings.spark, settings.compact, settings.expire, settings.audit) == (
        Spark(),
        Compact(),
        Expire(),
        Audit(),
    )


async def test_a_night_compacts_expires_and_audits_every_table(lab: Lab) -> None:
    run = await lab.prepare(Case("night", "12", "s3"), "defaults")
    assert run.tables == 2
    output, _ = await done(run)
    assert output is None, "there are several tables"


async def test_a_night_with_nothing_to_do_writes_nothing(lab: Lab) -> None:
    _, traffic = await done(await lab.prepare(Case("idle", "12", "s3"), "defaults"))
    assert traffic.requests["GET"] > 0
    assert traffic.requests["PUT"] + traffic.requests["POST"] + traffic.requests["DELETE"] == 0


async def test_audits_of_a_day_measure_both_sides_and_find_the_row_that_is_missing(lab: Lab) -> None:
    found: dict[str, tuple[Sides, Traffic]] = {}
    for way in sorted(AUDITS):
        run = await lab.prepare(Case(AUDIT, "20000", "s3"), way)
        _, traffic = await done(run)
        assert run.sides is not None
        found[way] = run.sides, traffic

    files = 20
    assert found[record.FILES][1].requests["GET"] - found[record.KNOWN][1].requests["GET"] == files
    assert found[record.KNOWN][1].requests["HEAD"] - found[record.MANIFESTS][1].requests["HEAD"] == files
    # Of files so small all columns come with one read.
    whole = found[record.ROWS][1].bytes_read, found[record.KEY][1].bytes_read
    assert min(whole) > found[record.KNOWN][1].bytes_read
    read = {way: sides.clickhouse_bytes for way, (sides, _) in found.items()}
    assert read[record.COMPARED] > read[record.KEY] > read[record.MANIFESTS]
    queries = {way: (sides.spark_queries, sides.clickhouse_queries) for way, (sides, _) in found.items()}
    assert (queries[record.READ_KEY], queries[record.KEY]) == ((1, 1), (2, 1))
    assert max(queries[record.LOST]) <= 12


async def test_a_third_compaction_comes_after_two_in_a_session_of_its_own(lab: Lab) -> None:
    before = lab.engine.jvm_pid
    run = await lab.prepare(Case("first", "12", "local"), "third")
    own = lab.engine.jvm_pid
    output, _ = await done(run)
    assert output is not None
    assert output.files == 1
    assert before != own
    assert lab.engine.jvm_pid == own
    for services in lab.services.values():
        await tell_session(lab.engine, services.settings)


async def test_a_session_that_is_to_be_started_is_not_there_before(lab: Lab) -> None:
    run = await lab.prepare(Case("session", "12", "local"), "defaults")
    before = lab.engine.up
    await done(run)
    assert (before, lab.engine.up) == (False, True)
    for services in lab.services.values():
        await tell_session(lab.engine, services.settings)
