"""Records on their way from the spool to a real PostgreSQL, past all that can happen: exactly once, whatever it is."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from icekeeper.adapters.ledger.store import PostgresLedger
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.adapters.spool.outbox import OutboxRecord
from icekeeper.adapters.spool.shipper import Shipped, Shipper
from icekeeper.adapters.spool.spool import OpenSlot, Spool
from icekeeper.core.enums import RunOutcome, Stage, Trigger
from icekeeper.core.errors import PermanentError, TransientError
from icekeeper.core.history import ConfigLoad
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport
from icekeeper.sandbox.servers.postgres import Postgres as Server
from icekeeper.sandbox.servers.process import Janitor
from tests.disks import small_disk
from tests.integration import spool_writer
from tests.integration.installations import sole
from tests.integration.spool_writer import night_of
from tests.integration.test_postgres import DATABASE, LOGS, PASSWORD, SLOT, Database, audit, opening, report, task

DAY = timedelta(days=1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    janitor = Janitor()
    with ExitStack() as stack:
        stack.callback(janitor.dismiss)
        server = Server(tmp_path_factory.mktemp("pg"), janitor, password=PASSWORD)
        server.start()
        stack.callback(server.stop)
        server.create_database(DATABASE)
        yield server


@pytest.fixture
async def database(server: Server) -> AsyncIterator[Database]:
    schema = f"spool{uuid4().hex[:8]}"
    server.execute(DATABASE, f"CREATE SCHEMA {schema}")
    database = Database(server, schema)
    await database.migrate()
    yield database
    await database.postgres.close()


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    opened = await Spool.open(tmp_path)
    yield opened
    await opened.close()


def shipper(spool: Spool, ledger: Any, **options: Any) -> Shipper:
    return Shipper(spool, lambda: ledger, lambda run_id: LOGS, **options)


def nights(count: int) -> list[RunReport]:
    """Runs with three tasks and an audit each."""
    return [report(audit(slot=slot), slot=slot) for slot in (SLOT + n * DAY for n in range(count))]


def whole(runs: int) -> dict[str, int]:
    """The rows of so many such runs."""
    return {"runs": runs, "tasks": 3 * runs, "logs": len(LOGS) * runs, "audit_log": runs}


def without_lines(runs: int) -> dict[str, int]:
    """The rows of so many such runs before their log lines, which follow when all records are shipped."""
    return {**whole(runs), "logs": 0}


async def stopped(server: Server) -> None:
    await asyncio.to_thread(server.stop)


async def started(server: Server) -> None:
    await asyncio.to_thread(server.start)


# --- what arrives


async def test_a_run_arrives_as_it_is_under_way_and_as_it_ended_with_all_that_belongs_to_it(
    database: Database, spool: Spool
) -> None:
    (night,) = nights(1)
    begun = replace(opening(night), host="host-1")
    await spool.open_run(begun)
    assert await shipper(spool, database.ledger).ship() == Shipped(records=1)
    (row,) = await database.history.runs(5)
    assert (row["outcome"], row["host"], row["tables"]) == (None, "host-1", ["cold.a"])
    await spool.close_run(night)
    assert await shipper(spool, database.ledger).ship() == Shipped(records=1)
    assert database.rows() == whole(1)
    (row,) = await database.history.runs(5)
    assert (row["outcome"], row["host"], row["tables"]) == ("failed", "host-1", ["cold.a"])


async def test_a_run_that_ended_before_its_opening_was_shipped_lacks_nothing(database: Database, spool: Spool) -> None:
    (night,) = nights(1)
    await spool.open_run(replace(opening(night), host="host-1"))
    await spool.close_run(night)
    assert await shipper(spool, database.ledger).ship() == Shipped(records=1)
    (row,) = await database.history.runs(5)
    assert (row["host"], row["stages"], row["tables"]) == ("host-1", ["audit"], ["cold.a"])
    assert database.rows() == whole(1)


async def test_a_configuration_load_arrives_once(database: Database, spool: Spool) -> None:
    load = ConfigLoad(uuid4(), SLOT, "host-1", "sighup", "9f86d081", ("a: 1 -> 2", "b\0"), ("3: \udcff",))
    await spool.record_load(load)
    assert await shipper(spool, database.ledger).ship() == Shipped(records=1)
    await database.ledger.record_load(load)
    columns = "load_id, loaded_at, host, loaded_by, settings_hash, changes, problems"
    assert database.sql(f"SELECT {columns} FROM maintenance_config_loads") == [
        (str(load.load_id), SLOT, "host-1", "sighup", "9f86d081", ["a: 1 -> 2", "b\N{REPLACEMENT CHARACTER}"], ["3: ?"])
    ]


# --- PostgreSQL is away


async def test_postgresql_is_away_at_boot_and_for_hours(database: Database, spool: Spool) -> None:
    runs = nights(3)
    await stopped(database.server)
    waited = []

    async def hours(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 40:
            await started(database.server)
        await asyncio.sleep(0)

    for night in runs:
        await spool.open_run(opening(night))
        await spool.close_run(night)
    answers: list[bool] = []
    running = asyncio.create_task(shipper(spool, database.ledger, sleep=hours, on_answer=answers.append).run())
    async with asyncio.timeout(30):
        while await spool.outbox.unshipped_runs():  # noqa: ASYNC110  the event is PostgreSQL's
            await asyncio.sleep(0.01)
    running.cancel()
    assert database.rows() == whole(3)
    assert waited[:6] == [5, 10, 20, 40, 60, 60]
    assert sum(waited[:40]) > 35 * 60
    assert (answers[0], answers[-1]) == (False, True)


async def test_postgresql_goes_away_while_a_backlog_is_shipped(database: Database, spool: Spool) -> None:
    for night in nights(12):
        await spool.close_run(night)
    ledger = Interrupted(database, after=5)
    done = await shipper(spool, ledger).ship()
    assert isinstance(done.error, TransientError)
    assert (done.records, done.error.reason) == (5, Reason.LEDGER_DOWN)
    assert (await spool.outbox.waiting()).records == 7
    await started(database.server)
    assert database.rows() == without_lines(5)
    assert await shipper(spool, database.ledger).ship() == Shipped(records=7)
    assert database.rows() == whole(12)


class Interrupted(PostgresLedger):
    """A ledger whose server stops after so many runs, just before the next one is written."""

    def __init__(self, database: Database, after: int) -> None:
        super().__init__(database.postgres, sole(database.postgres))
        self._server = database.server
        self._left = after

    async def close_run(self, *record: Any) -> None:
        if not self._left:
            await stopped(self._server)
        self._left -= 1
        await super().close_run(*record)


async def test_a_role_that_is_locked_out_keeps_its_records_until_it_is_let_in(database: Database, spool: Spool) -> None:
    for night in nights(2):
        await spool.close_run(night)
    outsider = Postgres(database.dsn, "wrong")
    done = await shipper(spool, PostgresLedger(outsider, sole(outsider))).ship()
    await outsider.close()
    assert isinstance(done.error, PermanentError)
    assert (done.records, done.quarantined, done.error.reason) == (0, 0, Reason.ACCESS_DENIED)
    assert await shipper(spool, database.ledger).ship() == Shipped(records=2)


async def test_a_ledger_that_is_not_migrated_keeps_its_records_until_it_is(database: Database, spool: Spool) -> None:
    (night,) = nights(1)
    await spool.close_run(night)
    database.sql("ALTER TABLE maintenance_runs RENAME TO x")
    done = await shipper(spool, database.ledger).ship()
    assert (done.quarantined, done.error and done.error.reason) == (0, Reason.LEDGER_DOWN)
    database.sql("ALTER TABLE x RENAME TO maintenance_runs")
    assert await shipper(spool, database.ledger).ship() == Shipped(records=1)


# --- PostgreSQL refuses


async def test_a_refused_run_is_set_aside_the_others_flow_on_and_it_lands_when_the_reason_is_gone(
    database: Database, spool: Spool
) -> None:
    runs = nights(3)
    runs[1] = replace(runs[1], tasks=(*runs[1].tasks, task(Stage.EXPIRE, "cold.a", note="poison")))
    for night in runs:
        await spool.close_run(night)
    database.sql("ALTER TABLE maintenance_tasks ADD CONSTRAINT no_poison CHECK (note <> 'poison')")
    assert await shipper(spool, database.ledger).ship() == Shipped(records=2, quarantined=1)
    assert database.rows() == whole(2)
    (aside,) = await spool.outbox.quarantined()
    assert (aside.id, aside.kind) == (runs[1].run_id, "run")
    assert "no_poison" in aside.error
    assert (await spool.outbox.waiting()).quarantined == 1

    assert await spool.outbox.retry_quarantined() == 1
    assert await shipper(spool, database.ledger).ship() == Shipped(quarantined=1)
    database.sql("ALTER TABLE maintenance_tasks DROP CONSTRAINT no_poison")
    await spool.outbox.retry_quarantined()
    assert await shipper(spool, database.ledger).ship() == Shipped(records=1)
    assert database.rows() == {**whole(3), "tasks": 10}
    assert (await spool.outbox.waiting()).records == 0


# --- crashes


async def test_a_death_between_the_commit_and_its_mark_changes_nothing(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def die(record: OutboxRecord) -> None:
        raise KeyboardInterrupt

    dying = await Spool.open(tmp_path)
    monkeypatch.setattr(dying.outbox, "mark_shipped", die)
    for night in nights(2):
        await dying.open_run(opening(night))
        await dying.close_run(night)
    with pytest.raises(KeyboardInterrupt):
        await shipper(dying, database.ledger).ship()
    await dying.close()
    assert database.rows() == without_lines(1)
    spool = await Spool.open(tmp_path)
    assert (await spool.outbox.waiting()).records == 2
    assert await shipper(spool, database.ledger).ship() == Shipped(records=2)
    assert database.rows() == whole(2)
    await spool.close()


async def test_a_process_that_is_killed_again_and_again_loses_and_doubles_nothing(
    database: Database, tmp_path: Path
) -> None:
    noise = random.Random(7)
    reported: dict[str, set[int]] = {"slot": set(), "open": set(), "closed": set()}
    first = 0
    for _ in range(5):
        lines = await asyncio.to_thread(killed_writer, tmp_path, database.dsn, first, noise)
        for what, number in (line.split() for line in lines):
            reported[what].add(int(number))
        first = max(reported["slot"], default=-1) + 2  # the one in the middle is left as it is

    spool = await Spool.open(tmp_path)
    assert spool.corrupt_files() == ()
    shipped = shipper(spool, database.ledger)
    assert (await shipped.ship()).error is None
    in_ledger = {UUID(run_id).int - 1: outcome for run_id, outcome in database.sql(OUTCOMES)}
    unfinished = {run.run_id.int - 1 for run in await spool.unfinished()}
    owed = {(slot.slot - night_of(0)[1].slot).days for slot in await spool.open_slots()}
    assert len(reported["closed"]) > 5
    assert {number for number, outcome in in_ledger.items() if outcome} >= reported["closed"]
    assert in_ledger.keys() >= reported["open"]
    assert unfinished >= reported["open"] - reported["closed"] - {n for n, outcome in in_ledger.items() if outcome}
    assert owed >= reported["slot"] - {n for n, outcome in in_ledger.items() if outcome}
    ended = sum(outcome is not None for outcome in in_ledger.values())
    assert database.rows() == {**whole(ended), "runs": len(in_ledger)}

    for run in await spool.unfinished():  # what the next start does with them
        await spool.close_run(replace(night_of(run.run_id.int - 1)[1], outcome=RunOutcome.INTERRUPTED))
    assert (await shipped.ship()).error is None
    assert {outcome for _, outcome in database.sql(OUTCOMES)} <= {"success", "interrupted"}
    assert database.rows() == whole(len(in_ledger))
    await spool.close()


OUTCOMES = "SELECT run_id::text, outcome FROM maintenance_runs"


def killed_writer(state_dir: Path, dsn: str, first: int, noise: random.Random) -> list[str]:
    """What a process had acknowledged when it was killed."""
    arguments = [sys.executable, "-m", spool_writer.__name__, str(state_dir), dsn, PASSWORD, str(first)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        lines = [writer.stdout.readline() for _ in range(noise.randint(5, 25))]
        time.sleep(noise.uniform(0, 0.03))
        os.kill(writer.pid, signal.SIGKILL)
        # The last line may be half of one.
        return [*lines, *writer.stdout.read().split("\n")[:-1]]


async def test_two_that_ship_the_same_at_once_land_it_once(database: Database, spool: Spool, tmp_path: Path) -> None:
    for night in nights(10):
        await spool.open_run(opening(night))
        await spool.close_run(night)
    other = await Spool.open(tmp_path)
    both = await asyncio.gather(*(shipper(each, database.ledger).ship() for each in (spool, other)))
    assert [(done.error, done.quarantined) for done in both] == [(None, 0)] * 2
    assert database.rows() == whole(10)
    assert (await other.outbox.waiting()).records == 0
    await other.close()


# --- the disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "state", "2m") as directory:
        yield directory


def fill(directory: Path, leave: int = 0) -> Path:
    """Fills the file system but for so many bytes; the file that does it."""
    ballast = directory / "ballast"
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while shutil.disk_usage(directory).free > leave:
            file.write(bytes(4096))
    return ballast


async def close_all(spool: Spool, runs: list[RunReport], kept: list[RunReport]) -> None:
    """Notes in `kept` those that were acknowledged."""
    for night in runs:
        await spool.close_run(night)
        kept.append(night)


async def test_a_full_disk_has_a_name_and_the_spool_goes_on_when_there_is_room_again(
    database: Database, disk: Path
) -> None:
    runs, kept = nights(25), list[RunReport]()
    spool = await Spool.open(disk)
    await spool.put_slot(SLOT, Trigger.SCHEDULE)
    await asyncio.to_thread(fill, disk, 128 * 1024)
    with pytest.raises(PermanentError, match=r"state/spool\.db: can't be written .*bytes are free there") as full:
        await close_all(spool, runs, kept)
    assert full.value.reason is Reason.DISK_LOW
    assert 0 < len(kept) < len(runs)
    # What was acknowledged is there, and goes to PostgreSQL though nothing can be noted of it.
    ballast = await asyncio.to_thread(fill, disk)
    assert (await spool.outbox.waiting()).records == len(kept)
    for _ in range(2):
        stuck = await shipper(spool, database.ledger).ship()
        assert stuck.error is not None
        assert stuck.error.reason is Reason.DISK_LOW
    assert database.rows() == without_lines(1)
    await spool.close()

    ballast.unlink()
    spool = await Spool.open(disk)
    assert spool.corrupt_files() == ()
    assert not await spool.put_slot(kept[0].slot, Trigger.SCHEDULE)
    await close_all(spool, runs, kept)
    assert await shipper(spool, database.ledger).ship() == Shipped(records=25)
    await spool.close()
    assert database.rows() == whole(25)


async def test_the_same_connection_writes_again_once_there_is_room(disk: Path) -> None:
    spool = await Spool.open(disk)
    await spool.put_slot(SLOT, Trigger.SCHEDULE)
    for _ in range(3):
        ballast = await asyncio.to_thread(fill, disk)
        with pytest.raises(PermanentError) as full:
            await spool.close_run(replace(report(), tasks=report().tasks * 99))
        assert full.value.reason is Reason.DISK_LOW
        assert await spool.open_slots() == (OpenSlot(SLOT, Trigger.SCHEDULE),)
        ballast.unlink()
        await spool.account(SLOT)
    await spool.close()


@pytest.mark.parametrize("leave", [0, 4096, 40_000, 90_000])
async def test_a_disk_that_is_full_from_the_beginning_has_the_same_name(disk: Path, leave: int) -> None:
    ballast = await asyncio.to_thread(fill, disk, leave)
    with pytest.raises(PermanentError, match=r"state/spool\.db: can't be written") as full:
        await Spool.open(disk)
    assert full.value.reason is Reason.DISK_LOW
    ballast.unlink()
    spool = await Spool.open(disk)
    assert await spool.put_slot(SLOT, Trigger.SCHEDULE)
    await spool.close()


async def test_a_directory_that_is_read_only_is_named(disk: Path) -> None:
    await (await Spool.open(disk)).close()
    await asyncio.to_thread(subprocess.run, ["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(PermanentError, match=r"state/spool\.db: is not user root's to write .*Read-only") as closed:
        await Spool.open(disk)
    assert closed.value.reason is Reason.ACCESS_DENIED


async def test_what_root_makes_belongs_to_the_daemon(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root gives files away")
    os.chown(tmp_path, 65534, 65534)
    spool = await Spool.open(tmp_path)
    await spool.put_slot(SLOT, Trigger.SCHEDULE)
    assert {(tmp_path / name).stat().st_uid for name in os.listdir(tmp_path)} == {65534}
    await spool.close()
