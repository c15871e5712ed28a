"""What the spool promises to whoever puts records there, on real files. PostgreSQL behind it: integration/."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from uuid import UUID, uuid4

import pytest
from structlog.typing import EventDict

from icekeeper.adapters.records import from_json
from icekeeper.adapters.spool import file as spool_file
from icekeeper.adapters.spool import opening as spool_opening
from icekeeper.adapters.spool.opening import corrupt_files
from icekeeper.adapters.spool.outbox import Waiting
from icekeeper.adapters.spool.spool import OpenSlot, Spool
from icekeeper.core.enums import RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import PermanentError, TransientError
from icekeeper.core.events import OlderDayAudited, RunStarted, TaskEnded, TaskStarted
from icekeeper.core.history import ConfigLoad, PastRun
from icekeeper.core.runs import RunOpening, RunReport
from icekeeper.execution.recording import Recording
from tests.unit.builders import DAY, HOUR, SLOT, result
from tests.unit.test_records import EXAMPLE

NOW = SLOT + 3 * HOUR


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    opened = await reopened(tmp_path)
    yield opened
    await opened.close()


async def reopened(state_dir: Path) -> Spool:
    return await Spool.open(state_dir, clock=lambda: NOW)


def opening(trigger: Trigger = Trigger.SCHEDULE, slot: datetime = SLOT, **changes: object) -> RunOpening:
    plain = RunOpening(uuid4(), slot, trigger, slot, "9f86d081", (Stage.COMPACT, Stage.AUDIT), ("cold.a",), "host-1")
    return replace(plain, **changes)  # type: ignore[arg-type]


def report(of: RunOpening, outcome: RunOutcome = RunOutcome.SUCCESS) -> RunReport:
    tasks = (result(TaskOutcome.DONE), result(TaskOutcome.DONE, Stage.AUDIT))
    audits = (replace(EXAMPLE, run_id=of.run_id),)
    return RunReport(
        of.run_id, of.slot, of.trigger, outcome, of.started_at, of.started_at + HOUR, of.settings_hash, tasks, audits
    )


def load() -> ConfigLoad:
    return ConfigLoad(uuid4(), SLOT, "host-1", "sighup", "9f86d081", ("run.max_duration: 4h -> 2h",), ())


async def shipped(spool: Spool) -> None:
    """Everything that waits is on its way and arrives."""
    while (record := await spool.outbox.next_record()) is not None:
        await spool.outbox.mark_shipped(record)


# --- runs


async def test_a_run_is_known_as_far_as_it_came(spool: Spool, tmp_path: Path) -> None:
    other = await reopened(tmp_path)  # another process sees the same
    begun = opening()
    audit = replace(EXAMPLE, run_id=begun.run_id)
    done, counted = result(TaskOutcome.DONE), result(TaskOutcome.DONE, Stage.AUDIT)
    known = PastRun(
        begun.run_id, SLOT, Trigger.SCHEDULE, SLOT, None, "host-1", "9f86d081", begun.stages, begun.tables
    )  # fmt: skip

    await spool.open_run(begun)
    assert await other.unfinished() == (known,)
    await spool.mark_in_flight(begun.run_id, Stage.COMPACT, "cold.a")
    assert await other.unfinished() == (replace(known, in_flight=(Stage.COMPACT, "cold.a")),)
    await spool.end_task(begun.run_id, done, None)
    assert await other.unfinished() == (replace(known, tasks=(done,)),)
    await spool.mark_in_flight(begun.run_id, Stage.AUDIT, "cold.a")
    await spool.end_task(begun.run_id, counted, audit)
    assert await other.slot_runs(SLOT) == (replace(known, tasks=(done, counted), audits=(audit,)),)
    await spool.close_run(report(begun))
    closed = replace(known, outcome=RunOutcome.SUCCESS, tasks=(done, counted), audits=(audit,))
    assert await other.slot_runs(SLOT) == (closed,)
    assert await other.unfinished() == ()
    await other.close()


async def test_a_run_whose_process_died_is_closed_by_the_next_one_and_its_task_in_flight_stays_known(
    spool: Spool, tmp_path: Path
) -> None:
    begun = opening()
    await spool.put_slot(SLOT, Trigger.SCHEDULE)
    await spool.open_run(begun)
    await spool.end_task(begun.run_id, result(TaskOutcome.DONE), None)
    await spool.mark_in_flight(begun.run_id, Stage.AUDIT, "cold.a")
    await spool.close()

    later = await reopened(tmp_path)
    (died,) = await later.unfinished()
    interrupted = replace(report(begun, RunOutcome.INTERRUPTED), tasks=died.tasks, audits=())
    await later.close_run(interrupted)

    assert await later.unfinished() == ()
    assert await later.slot_runs(SLOT) == (replace(died, outcome=RunOutcome.INTERRUPTED),)
    assert died.in_flight == (Stage.AUDIT, "cold.a")
    assert await later.open_slots() == (OpenSlot(SLOT, Trigger.SCHEDULE),)  # it is still owed
    await later.close()


async def test_older_days_that_a_run_has_audited_come_after_its_tasks_and_outlive_its_death(
    spool: Spool, tmp_path: Path
) -> None:
    begun, own = opening(), replace(EXAMPLE, worse=None)
    older = [
        replace(EXAMPLE, worse=False, window_start=EXAMPLE.window_start - back * DAY, notes=str(back))
        for back in (3, 2, 1)
    ]
    async with Recording(spool) as recording:
        recording.observe(RunStarted(begun, ()))
        recording.observe(TaskEnded(result(TaskOutcome.DONE, Stage.AUDIT), own))
        for audit in (*older, older[-1]):
            recording.observe(OlderDayAudited(audit))
    await spool.close()
    later = await reopened(tmp_path)
    (died,) = await later.unfinished()
    assert (died.audits, len(died.tasks)) == ((own, *older), 1)
    closed = replace(report(begun, RunOutcome.INTERRUPTED), tasks=died.tasks, audits=died.audits)
    await later.close_run(closed)
    (run,) = await later.slot_runs(SLOT)
    assert run.audits == (own, *older)
    with closing(sqlite3.connect(tmp_path / "spool.db")) as db:
        assert db.execute("SELECT count(*) FROM older_days").fetchone() == (0,)
    await later.close()


async def test_a_death_while_a_task_only_waits_counts_against_none(spool: Spool, tmp_path: Path) -> None:
    begun = opening()
    async with Recording(spool) as recording:
        recording.observe(RunStarted(begun, ()))
        recording.observe(TaskStarted(Stage.COMPACT, "cold.a", 1, 2))
    assert (await spool.unfinished())[0].in_flight == (Stage.COMPACT, "cold.a")
    async with Recording(spool) as recording:
        recording.observe(RunStarted(begun, ()))
        recording.observe(TaskStarted(Stage.COMPACT, "cold.a", 1, 2, waits=True))
    assert (await spool.unfinished())[0].in_flight is None


async def test_runs_come_oldest_first_and_operators_own_are_no_slots_runs(spool: Spool) -> None:
    second = opening(Trigger.RESUME, started_at=SLOT + HOUR)
    first, by_hand, other = opening(), opening(Trigger.MANUAL), opening(slot=SLOT + DAY)
    for begun in (second, other, first, by_hand):
        await spool.open_run(begun)
    await spool.close_run(report(first, RunOutcome.INTERRUPTED))
    assert [run.run_id for run in await spool.slot_runs(SLOT)] == [first.run_id, second.run_id]
    assert {run.run_id for run in await spool.unfinished()} == {second.run_id, other.run_id, by_hand.run_id}
    assert [run.started_at for run in await spool.unfinished()] == sorted([SLOT, SLOT + HOUR, SLOT + DAY])


async def test_a_run_that_can_not_be_understood_costs_no_other(
    spool: Spool, tmp_path: Path, logs: list[EventDict]
) -> None:
    odd, sound = opening(), opening(started_at=SLOT + HOUR)
    for each in (odd, sound):
        await spool.open_run(each)
    with closing(sqlite3.connect(tmp_path / "spool.db", isolation_level=None)) as db:
        db.execute("UPDATE runs SET opening = '{}' WHERE run_id = ?", (str(odd.run_id),))
    assert [run.run_id for run in await spool.slot_runs(SLOT)] == [sound.run_id]
    assert [run.run_id for run in await spool.unfinished()] == [sound.run_id]
    assert {(line["event"], line["about"]) for line in logs} == {("run_not_understood", str(odd.run_id))}


async def test_a_run_ends_once(spool: Spool) -> None:
    begun = opening()
    await spool.close_run(report(begun))  # a run that was never opened here, e.g. a missed slot
    await shipped(spool)
    await spool.close_run(report(begun, RunOutcome.INTERRUPTED))
    (run,) = await spool.slot_runs(SLOT)
    assert (run.outcome, run.settings_hash, run.stages) == (RunOutcome.SUCCESS, "9f86d081", ())
    assert (await spool.outbox.waiting()).records == 0
    await spool.mark_in_flight(begun.run_id, Stage.COMPACT, "cold.a")
    assert (await spool.slot_runs(SLOT))[0].in_flight is None


# --- slots


async def test_a_slot_waits_until_a_run_has_closed_it_and_does_not_come_back(spool: Spool, tmp_path: Path) -> None:
    tomorrow = SLOT + DAY
    assert await spool.put_slot(tomorrow, Trigger.SCHEDULE)
    assert await spool.put_slot(SLOT, Trigger.CATCH_UP)
    assert await spool.put_slot(SLOT, Trigger.SCHEDULE)  # known already, and still open
    await spool.close()
    spool = await reopened(tmp_path)
    assert await spool.open_slots() == (OpenSlot(SLOT, Trigger.CATCH_UP), OpenSlot(tomorrow, Trigger.SCHEDULE))

    await spool.close_run(report(opening(Trigger.MANUAL)))
    await spool.close_run(report(opening(), RunOutcome.INTERRUPTED))
    assert len(await spool.open_slots()) == 2
    await spool.close_run(report(opening(Trigger.RESUME), RunOutcome.PARTIAL))
    assert await spool.open_slots() == (OpenSlot(tomorrow, Trigger.SCHEDULE),)
    await spool.close_slot(tomorrow, RunOutcome.MISSED)
    assert await spool.open_slots() == ()
    for slot in (SLOT, tomorrow):
        assert not await spool.put_slot(slot, Trigger.SCHEDULE)
    await spool.close()


@pytest.mark.parametrize("outcome", [outcome for outcome in RunOutcome if outcome is not RunOutcome.INTERRUPTED])
async def test_a_run_closes_its_slot_though_it_was_never_put(spool: Spool, outcome: RunOutcome) -> None:
    await spool.close_run(report(opening(), outcome))
    assert not await spool.put_slot(SLOT, Trigger.CATCH_UP)


async def test_the_last_word_on_what_is_accounted_for_counts_and_a_closed_slot_stays_closed(spool: Spool) -> None:
    assert await spool.accounted_until() is None
    await spool.close_slot(SLOT, RunOutcome.SUCCESS)
    for until in (SLOT, SLOT + HOUR, SLOT - HOUR):  # the clock was ahead
        await spool.account(until)
    assert await spool.accounted_until() == SLOT - HOUR
    assert not await spool.put_slot(SLOT, Trigger.CATCH_UP)


# --- shipping


async def test_a_run_is_shipped_as_it_is_open_and_again_as_it_was_closed(spool: Spool) -> None:
    begun, read = opening(), load()
    woken: list[None] = []
    spool.outbox.on_put(lambda: woken.append(None))
    await spool.open_run(begun)
    await spool.record_load(read)
    for _ in range(2):  # put twice, waiting once
        await spool.open_run(begun)
        await spool.record_load(read)
    assert await spool.outbox.waiting() == Waiting(records=2, quarantined=0, oldest=SLOT)
    assert len(woken) == 6

    first = await spool.outbox.next_record()
    assert first is not None
    assert from_json(RunOpening, first.opening or "") == begun
    assert first.report is None
    await spool.close_run(report(begun))  # while it is under way
    await spool.outbox.mark_shipped(first)
    again = await spool.outbox.next_record()
    assert again is not None
    assert (again.number, from_json(RunReport, again.report or "")) == (first.number, report(begun))
    assert again.opening == first.opening
    await spool.outbox.mark_shipped(again)
    (last,) = [await spool.outbox.next_record()]
    assert last is not None
    assert from_json(ConfigLoad, last.load or "") == read
    await spool.outbox.mark_shipped(last)
    assert await spool.outbox.waiting() == Waiting(0, 0, None)


async def test_what_is_refused_is_set_aside_until_it_is_tried_again_or_changes(spool: Spool) -> None:
    refused, fine = opening(), opening(slot=SLOT + DAY)
    for begun in (refused, fine):
        await spool.open_run(begun)
    record = await spool.outbox.next_record()
    assert record is not None
    await spool.outbox.quarantine(record, "violates check \udcff constraint")
    (aside,) = await spool.outbox.quarantined()
    assert (aside.id, aside.kind, aside.since) == (refused.run_id, "run", NOW)
    assert aside.error == "violates check ? constraint"
    assert await spool.outbox.waiting() == Waiting(records=2, quarantined=1, oldest=SLOT)
    following = await spool.outbox.next_record()
    assert following is not None
    assert following.id == fine.run_id

    assert (await spool.outbox.retry_quarantined(), await spool.outbox.retry_quarantined()) == (1, 0)
    assert await spool.outbox.next_record() == record
    await spool.outbox.quarantine(record, "again")
    await spool.close_run(report(refused))
    assert await spool.outbox.quarantined() == ()
    await spool.outbox.quarantine(record, "of a state that is past")
    changed = await spool.outbox.next_record()
    assert changed is not None
    assert changed.id == refused.run_id


async def test_pruning_drops_what_postgresql_has_and_nothing_else(spool: Spool) -> None:
    old = SLOT - 60 * DAY
    gone, unshipped, under_way = (opening(slot=old + n * DAY) for n in range(3))
    recent, owed = opening(), opening(slot=old + 3 * DAY)
    for begun in (gone, under_way, recent, owed):
        await spool.open_run(begun)
    await spool.record_load(replace(load(), at=old))
    await spool.record_load(load())
    for begun in (gone, recent):
        await spool.close_run(report(begun))
    await spool.close_run(report(owed, RunOutcome.INTERRUPTED))
    await spool.put_slot(owed.slot, Trigger.SCHEDULE)
    await shipped(spool)
    await spool.close_run(report(unshipped))

    assert await spool.prune(SLOT - 30 * DAY) == 2
    assert await spool.prune(SLOT - 30 * DAY) == 0
    assert await spool.slot_runs(gone.slot) == ()
    for begun in (unshipped, under_way, recent, owed):
        assert len(await spool.slot_runs(begun.slot)) == 1
    assert await spool.open_slots() == (OpenSlot(owed.slot, Trigger.SCHEDULE),)
    assert not await spool.put_slot(SLOT, Trigger.SCHEDULE)
    assert await spool.outbox.waiting() == Waiting(1, 0, unshipped.started_at + HOUR)


# --- the file


async def test_the_files_are_for_their_user_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        spool = await reopened(tmp_path / "state")
        await spool.put_slot(SLOT, Trigger.SCHEDULE)
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    assert modes == dict.fromkeys(("spool.db", "spool.db-wal", "spool.db-shm", "spool.lock"), 0o600)
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    await spool.close()


async def test_many_may_open_it_for_the_first_time_at_once(tmp_path: Path) -> None:
    spools = await asyncio.gather(*(reopened(tmp_path) for _ in range(8)))
    await asyncio.gather(*(spool.open_run(opening()) for spool in spools for _ in range(3)))
    assert (await spools[0].outbox.waiting()).records == 24
    await asyncio.gather(*(spool.close() for spool in spools))


async def test_a_writer_that_is_cancelled_leaves_all_of_its_record_or_nothing(spool: Spool) -> None:
    runs = [opening(slot=SLOT + n * DAY) for n in range(20)]
    closings = [asyncio.create_task(spool.close_run(report(begun))) for begun in runs]
    for closing_one in closings:
        await asyncio.sleep(0)
        closing_one.cancel()
    await asyncio.gather(*closings, return_exceptions=True)
    await spool.put_slot(SLOT - DAY, Trigger.SCHEDULE)  # what came first is written by now
    written = [len(await spool.slot_runs(begun.slot)) for begun in runs]
    assert (await spool.outbox.waiting()).records == sum(written)
    assert [not await spool.put_slot(begun.slot, Trigger.SCHEDULE) for begun in runs] == list(map(bool, written))


async def test_closed_it_says_so(tmp_path: Path) -> None:
    spool = await reopened(tmp_path)
    writing = asyncio.create_task(spool.open_run(opening()))
    await asyncio.sleep(0)
    await spool.close()
    await spool.close()
    await writing  # begun before, written
    for ask in (spool.outbox.waiting(), spool.account(SLOT)):
        with pytest.raises(PermanentError, match=r"spool\.db: was closed before this was"):
            await ask


def test_a_process_that_fails_ends_though_the_spool_was_not_closed(tmp_path: Path) -> None:
    program = """
import asyncio, pathlib, sys
from icekeeper.adapters.spool.spool import Spool
async def main():
    global spool
    spool = await Spool.open(pathlib.Path(sys.argv[1]))
    raise SystemExit(7)
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program, tmp_path], timeout=60).returncode == 7


async def test_a_file_that_another_program_holds_for_long_is_a_passing_thing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_file, "WAIT_S", 0.05)
    spool = await reopened(tmp_path)
    with closing(sqlite3.connect(tmp_path / "spool.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(TransientError, match=r"spool\.db: another process has held it"):
            await spool.account(SLOT)
        assert await spool.accounted_until() is None  # reading goes on
    await spool.account(SLOT)
    await spool.close()


async def test_a_file_that_is_removed_while_it_is_open_takes_no_more_records(spool: Spool, tmp_path: Path) -> None:
    (tmp_path / "spool.db").rename(tmp_path / "elsewhere")
    for ask in (spool.open_run(opening()), spool.unfinished()):
        with pytest.raises(PermanentError, match=r"spool\.db: was removed or replaced"):
            await ask


async def test_a_newer_icekeepers_file_is_left_alone(tmp_path: Path) -> None:
    await (await reopened(tmp_path)).close()
    with closing(sqlite3.connect(tmp_path / "spool.db")) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(PermanentError, match=r"spool\.db: was made by a newer icekeeper"):
        await reopened(tmp_path)
    assert corrupt_files(tmp_path) == ()


# --- corruption


async def filled(state_dir: Path, nights: int = 40) -> list[UUID]:
    """A spool of many pages; its runs."""
    spool = await reopened(state_dir)
    runs = []
    for n in range(nights):
        begun = opening(slot=SLOT + n * DAY)
        await spool.open_run(begun)
        if n != nights - 1:
            await spool.close_run(report(begun))
        else:
            await spool.end_task(begun.run_id, result(TaskOutcome.DONE), None)
        runs.append(begun.run_id)
    await spool.record_load(load())
    await spool.account(SLOT)
    await spool.put_slot(SLOT + (nights - 1) * DAY, Trigger.SCHEDULE)
    await spool.close()
    return runs


async def known(spool: Spool, nights: int = 40) -> set[UUID]:
    slots = [SLOT + n * DAY for n in range(nights)]
    return {run.run_id for slot in slots for run in await spool.slot_runs(slot)}


PAGE = 4096


async def test_whichever_page_is_overwritten_the_spool_goes_on_with_what_can_be_read(tmp_path: Path) -> None:
    runs = set(await filled(tmp_path / "whole", nights=16))
    whole = (tmp_path / "whole" / "spool.db").read_bytes()
    noise = random.Random(1)
    survived = []
    for page in range(len(whole) // PAGE):
        state_dir = tmp_path / str(page)
        state_dir.mkdir()
        (state_dir / "spool.db").write_bytes(whole[: page * PAGE] + noise.randbytes(PAGE) + whole[(page + 1) * PAGE :])
        spool = await reopened(state_dir)
        (kept,) = spool.corrupt_files()
        assert kept.name == "spool.db.corrupt-20260218T050000Z"
        found = await known(spool, nights=16)
        survived.append(len(found))
        # Whatever is known waits to be shipped, though the row that said so may be lost.
        assert (await spool.outbox.waiting()).records >= len(found)
        await spool.close_run(report(opening(slot=SLOT + 99 * DAY)))
        await shipped(spool)
        await spool.close()
        assert found <= runs
    # The three pages that say where everything is, and the one that says where the runs are, take them with them;
    # another one at most those that lie on it.
    assert [n for n in survived if n < len(runs) - 4] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"not a database, but longer than a header of one hundred bytes" * 99),
        lambda file: file.write_bytes(file.read_bytes()[:PAGE]),
        lambda file: file.write_bytes(file.read_bytes()[: 5 * PAGE]),
        lambda file: file.write_bytes(bytes(file.stat().st_size)),
        lambda file: file.write_bytes(file.read_bytes()[:40] + b"\xff" * 30 + file.read_bytes()[70:]),
        lambda file: (file.with_name("spool.db-wal").write_bytes(b"x" * 99), file.unlink()),
    ],
    ids=["empty", "text", "first_page", "short", "zeros", "header", "only_its_log"],
)
async def test_a_spoiled_file_is_put_aside_and_reported(tmp_path: Path, spoil: object, logs: list[EventDict]) -> None:
    await filled(tmp_path)
    assert callable(spoil)
    spoil(tmp_path / "spool.db")
    spool = await reopened(tmp_path)
    (kept,) = spool.corrupt_files()
    (line,) = logs
    assert (line["event"], line["log_level"], line["kept_as"]) == ("spool_corrupt", "error", str(kept))
    assert line["problem"]
    await spool.open_run(opening())
    await spool.close()
    again = await reopened(tmp_path)  # once is enough
    assert (again.corrupt_files(), len(logs)) == ((kept,), 1)
    await again.close()


async def test_text_that_was_overwritten_within_a_record_is_found(tmp_path: Path) -> None:
    await filled(tmp_path)
    file = tmp_path / "spool.db"
    # Of one run only; the structure of the file is as it was.
    file.write_bytes(file.read_bytes().replace(b'"slot": "2026-02-25T', b'"slot\0: "2026-02-25T'))
    spool = await reopened(tmp_path)
    assert len(spool.corrupt_files()) == 1
    assert len(await known(spool)) == 39
    await spool.close()


async def test_what_was_shipped_and_closed_stays_so_after_a_corruption(tmp_path: Path) -> None:
    await filled(tmp_path)
    spool = await reopened(tmp_path)
    await shipped(spool)
    await spool.close()
    spoil_index(tmp_path / "spool.db", "runs_slot")
    spool = await reopened(tmp_path)
    assert len(spool.corrupt_files()) == 1
    assert len(await known(spool)) == 40
    assert (await spool.outbox.waiting()).records == 0
    assert await spool.open_slots() == (OpenSlot(SLOT + 39 * DAY, Trigger.SCHEDULE),)
    assert await spool.accounted_until() == SLOT
    assert len((await spool.unfinished())[0].tasks) == 1
    await spool.close()


async def test_a_slot_that_was_run_does_not_come_up_again_because_its_row_was_lost(tmp_path: Path) -> None:
    await filled(tmp_path)
    with closing(sqlite3.connect(tmp_path / "spool.db", isolation_level=None)) as db:
        db.execute("DELETE FROM slots")
        db.execute("DELETE FROM outbox")
    spoil_index(tmp_path / "spool.db", "runs_slot")
    spool = await reopened(tmp_path)
    assert not await spool.put_slot(SLOT, Trigger.SCHEDULE)
    assert await spool.open_slots() == (OpenSlot(SLOT + 39 * DAY, Trigger.SCHEDULE),)
    assert (await spool.outbox.waiting()).records == 41
    await spool.close()


async def test_a_corruption_that_is_met_in_the_middle_has_a_name_and_the_next_opening_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spool_opening, "WAIT_S", 0.05)
    await filled(tmp_path)
    spool = await reopened(tmp_path)
    file = tmp_path / "spool.db"
    spoil_index(file, "runs_slot")
    with pytest.raises(PermanentError, match=r"spool\.db: is corrupt \(.*malformed\): restart icekeeper"):
        await spool.slot_runs(SLOT)
    # Nobody moves it away from under those who have it open.
    with pytest.raises(PermanentError, match=r"spool\.db: is corrupt .*another icekeeper has it open"):
        await reopened(tmp_path)
    assert spool.corrupt_files() == ()
    await spool.close()
    mended = await reopened(tmp_path)
    assert len(mended.corrupt_files()) == 1
    assert len(await known(mended)) == 40
    await mended.close()


@pytest.mark.parametrize("crash_after", range(6))
async def test_a_crash_while_a_corrupt_file_is_replaced_loses_nothing(
    tmp_path: Path, crash_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A file and a log with a record that is in the log alone, as a killed process leaves them.
    await filled(tmp_path / "before")
    spool = await reopened(tmp_path / "before")
    await spool.open_run(late := opening(slot=SLOT + 7 * DAY))
    for name in ("spool.db", "spool.db-wal"):
        shutil.copy(tmp_path / "before" / name, tmp_path / name)
    await spool.close()
    spoil_index(tmp_path / "spool.db", "sqlite_autoindex_slots_1")
    renames = 0
    rename = Path.rename

    def crash(self: Path, target: Path) -> Path:
        nonlocal renames
        renames += 1
        if renames > crash_after:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        await reopened(tmp_path)
    monkeypatch.undo()
    spool = await reopened(tmp_path)
    assert len(spool.corrupt_files()) == 1
    found = await known(spool)
    assert len(found) == 41
    assert late.run_id in found
    await spool.close()


def spoil_index(file: Path, index: str) -> None:
    """Overwrites the root page of an index in the file itself."""
    with closing(sqlite3.connect(f"file:{file}?immutable=1", uri=True)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (index,)).fetchone()
    with file.open("r+b") as raw:
        raw.seek((root - 1) * PAGE)
        raw.write(b"\xee" * PAGE)
