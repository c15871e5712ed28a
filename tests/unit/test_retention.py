"""What is deleted of old log lines and files, and what never is: on a real spool and disk, with time injected."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.enums import NIGHT, RunOutcome, Trigger
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunOpening, RunReport
from icekeeper.execution.log_files import run_log_path
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.retention import POLL_S, Retention
from icekeeper.settings import Settings
from tests.unit.builders import DAY, SLOT
from tests.unit.test_changes import BASE


class Ledger:
    """Lines by the day that their runs began, and the runs that it holds."""

    def __init__(self) -> None:
        self.lines: list[datetime] = []
        self.runs: set[UUID] = set()
        self.error: IcekeeperError | None = None
        self.asked = 0

    async def delete_lines(self, before: datetime, runs: int) -> int:
        self.asked += 1
        if self.error is not None:
            raise self.error
        old = [line for line in self.lines if line < before][:runs]
        self.lines = [line for line in self.lines if line not in old]
        return len(old)

    async def held(self, runs: Iterable[UUID]) -> frozenset[UUID]:
        return frozenset(self.runs & set(runs))


class Host:
    """A daemon's state directory, and its clock."""

    def __init__(self, state_dir: Path, spool: Spool) -> None:
        self.state_dir, self.spool = state_dir, spool
        self.now = SLOT
        self.ledger = Ledger()
        self.leading, self.busy, self.retention = True, False, "400d"
        self.slept: list[float] = []

    def tidier(self) -> Retention:
        @asynccontextmanager
        async def borrowed() -> AsyncIterator[Any]:
            blocks = {"logs": {"retention": self.retention}, "state_dir": self.state_dir}
            yield SimpleNamespace(settings=Settings.model_validate({**BASE, **blocks}), ledger=self.ledger)

        configuration = cast(Configuration, SimpleNamespace(borrowed=borrowed))
        return Retention(
            configuration,
            self.spool,
            lambda: self.leading,
            lambda: self.busy,
            lambda: self.now,
            self.sleep,
        )

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def file(self, age: timedelta, *, held: bool = True, run_id: UUID | None = None) -> Path:
        """The log file of a run that was last written to so long ago."""
        run_id = run_id or uuid4()
        path = run_log_path(self.state_dir, run_id)
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}\n")
        at = (self.now - age).timestamp()
        os.utime(path, (at, at))
        if held:
            self.ledger.runs.add(run_id)
        return path


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    spool = await Spool.open(tmp_path)
    yield Host(tmp_path, spool)
    await spool.close()


async def test_lines_older_than_the_setting_go_in_batches_with_a_pause(host: Host) -> None:
    host.ledger.lines = [SLOT - n * DAY for n in range(450)]
    await host.tidier().delete_old()
    assert len(host.ledger.lines) == 401
    assert host.ledger.asked == 4
    assert len(host.slept) == 3


async def test_a_standby_deletes_its_files_and_nothing_in_the_ledger(host: Host) -> None:
    host.leading, host.ledger.lines = False, [SLOT - 999 * DAY]
    old = host.file(31 * DAY)
    await host.tidier().delete_old()
    assert host.ledger.lines
    assert not old.exists()


async def test_files_go_that_are_old_and_that_the_ledger_has(host: Host) -> None:
    waiting = uuid4()
    opening = RunOpening(waiting, SLOT, Trigger.SCHEDULE, SLOT, "hash", NIGHT, (), "here")
    await host.spool.open_run(opening)
    closed = RunReport(waiting, SLOT, Trigger.SCHEDULE, RunOutcome.SUCCESS, SLOT, SLOT, "hash", (), ())
    await host.spool.close_run(closed)
    kept = [host.file(29 * DAY), host.file(31 * DAY, held=False), host.file(31 * DAY, run_id=waiting)]
    other = run_log_path(host.state_dir, "notes of an operator")
    other.write_text("x")
    os.utime(other, (0, 0))
    gone = host.file(31 * DAY)
    await host.tidier().delete_old()
    assert not gone.exists()
    assert all(path.exists() for path in (*kept, other))
    host.retention = "7d"
    await host.tidier().delete_old()
    assert not kept[0].exists(), "the shorter of the two"


async def test_files_that_0_1_left_of_runs_that_never_began_go_and_others_that_no_record_knows_stay(host: Host) -> None:
    ordered = '{"event": "run_ordered", "run_id": "..."}\n'
    dry, young = host.file(31 * DAY, held=False), host.file(29 * DAY, held=False)
    began, damaged = host.file(31 * DAY, held=False), host.file(31 * DAY, held=False)
    texts = {dry: ordered, young: ordered, began: ordered + '{"event": "run_started"}\n', damaged: "\x00{"}
    for path, text in texts.items():
        written = path.stat().st_mtime
        path.write_text(text)
        os.utime(path, (written, written))
    with capture_logs() as lines:
        await host.tidier().delete_old()
    assert not dry.exists()
    assert all(path.exists() for path in (young, began, damaged))
    assert [(line["event"], line["files"]) for line in lines] == [("run_files_deleted", 1)]


async def test_it_is_done_once_a_day_and_not_during_a_run(host: Host) -> None:
    tidier, looks = host.tidier(), 0

    class Enough(Exception):
        pass

    async def sleep(seconds: float) -> None:
        nonlocal looks
        if seconds != POLL_S:
            return
        looks, host.now, host.busy = looks + 1, host.now + timedelta(seconds=POLL_S), looks < 6
        if looks > 3 * 144:
            raise Enough

    tidier.sleep = sleep
    with pytest.raises(Enough):
        await tidier.run()
    assert host.ledger.asked == 3


async def test_a_role_that_may_not_is_one_warning_and_the_files_go_all_the_same(host: Host) -> None:
    host.ledger.error = PermanentError("role 'x' lacks a right", reason=Reason.ACCESS_DENIED)
    old, tidier = host.file(31 * DAY), host.tidier()
    with capture_logs() as lines:
        for _ in range(3):
            await tidier.delete_old()
    assert not old.exists()
    (warning,) = [line for line in lines if line["log_level"] != "info"]
    assert warning["event"] == "logs_not_pruned"
    assert "migrate --grants" in warning["error"]


async def test_a_ledger_that_is_away_is_asked_again_at_the_next_pass(host: Host) -> None:
    host.ledger.error = TransientError("away", reason=Reason.LEDGER_DOWN)
    tidier = host.tidier()
    await tidier.delete_old()
    assert tidier._done_at is None
    host.ledger.error = None
    await tidier.delete_old()
    assert tidier._done_at == host.now
