"""After which nights the daemon orders repairs by itself, of what, and what it does where one can't begin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from icekeeper.adapters.ledger.findings import AuditFindings
from icekeeper.core.audit.records import Explanation, Finding, FindingKind
from icekeeper.core.calendar import Window
from icekeeper.core.enums import RunOutcome, Stage, Trigger
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.events import RunEnded
from icekeeper.core.history import PastRun
from icekeeper.core.policy import KeyPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.execution.lock import RunLockHeld
from icekeeper.scheduling.orders import RunRequest
from icekeeper.scheduling.repairs.automatic import AutomaticRepairs
from tests.unit.builders import table_policy
from tests.unit.reports import AUDIT, REPORT, TABLE

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
START = AUDIT.window_start
LOST = Finding(FindingKind.MISSING, START, START + HOUR, 100, 100, 0, Explanation.CYCLE_LOST, id="lost")
AHEAD = replace(LOST, explanation=Explanation.NOT_OFFLOADED, id="ahead")
WINDOW = Window(START, START + DAY)
FOUND = AuditFindings(TABLE, REPORT.run_id, REPORT.finished_at, "missing_data", WINDOW, True, (LOST,))
NIGHT = RunEnded(REPORT)


def keyed(name: str = TABLE) -> TablePolicy:
    policy = table_policy(name)
    assert policy.audit is not None
    return replace(policy, audit=replace(policy.audit, keys=KeyPolicy(("id",))))


class Daemon:
    """What the component is given: orders that are taken or refused, and a ledger that has records or not."""

    def __init__(self, place: Path, *found: AuditFindings, automatic: bool = True, mode: str = "maintain") -> None:
        self.settings = SimpleNamespace(
            repair=SimpleNamespace(automatic=automatic),
            mode=mode,
            state_dir=place,
            policies=lambda: (keyed(), keyed("cold.b"), table_policy("cold.unkeyed")),
        )
        self.in_ledger = found or (FOUND,)
        # Those of the night, each by a run of its own.
        self.audited = [AUDIT, replace(AUDIT, iceberg_table="cold.b"), replace(AUDIT, iceberg_table="cold.unkeyed")]
        self.ordered: list[RunRequest] = []
        self.refusals: list[IcekeeperError] = []
        self.unshipped: list[IcekeeperError] = []
        self.failure: Exception | None = None
        self.slept: list[float] = []
        orders = configuration = cast("Any", self)
        self.component = AutomaticRepairs(
            configuration, orders, self._idle, self._shipped, self._slot_runs, self._clock, self._sleep
        )

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[object]:
        yield SimpleNamespace(settings=self.settings, findings=self)

    async def found(self, tables: Iterable[str], since: datetime, limit: int) -> tuple[AuditFindings, ...]:
        return tuple(audit for audit in self.in_ledger if audit.table in tables)

    async def begin(self, request: RunRequest) -> object:
        if self.refusals:
            raise self.refusals.pop(0)
        self.ordered.append(request)
        return SimpleNamespace(run_id=uuid4(), end=asyncio.ensure_future(self._end()))

    async def _end(self) -> None:
        if self.failure is not None:
            raise self.failure

    def _clock(self) -> datetime:
        return REPORT.finished_at

    async def _slot_runs(self, slot: datetime) -> tuple[PastRun, ...]:
        return tuple(PastRun(uuid4(), slot, Trigger.SCHEDULE, slot, None, audits=(audit,)) for audit in self.audited)

    async def _idle(self) -> None:
        return

    async def _shipped(self) -> IcekeeperError | None:
        return self.unshipped.pop(0) if self.unshipped else None

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if len(self.slept) == 3:
            (self.settings.state_dir / "pause.json").unlink(missing_ok=True)

    async def after(self, *nights: RunEnded) -> list[RunRequest]:
        """What was ordered after these nights."""
        for night in nights:
            self.component.observe(night)
        running = asyncio.create_task(self.component.run())
        for _ in range(300):
            await asyncio.sleep(0.001)
        assert not running.done()
        running.cancel()
        return self.ordered


@pytest.mark.parametrize(
    ("found", "ordered"),
    [
        pytest.param([FOUND], [((TABLE,), ("lost",))], id="missing rows"),
        pytest.param([replace(FOUND, status="ok", open=False)], [((TABLE,), ("lost",))], id="so few that it is ok"),
        pytest.param([replace(FOUND, open=False)], [], id="an acknowledged day"),
        pytest.param([replace(FOUND, findings=(AHEAD,))], [], id="what the offload brings by itself"),
        pytest.param([replace(FOUND, findings=(AHEAD, LOST))], [((TABLE,), ("lost",))], id="some of it"),
        pytest.param([replace(FOUND, findings=(replace(LOST, kind=FindingKind.EXTRA),))], [], id="a surplus"),
        pytest.param([replace(FOUND, table="cold.unkeyed")], [], id="a table without a key"),
        pytest.param([replace(FOUND, table="cold.gone")], [], id="a table that is not configured any more"),
        pytest.param([replace(FOUND, window=Window(START - DAY, START))], [], id="a window of another night"),
        pytest.param(
            [FOUND, replace(FOUND, table="cold.b", findings=(replace(LOST, id="other"),))],
            [((TABLE, "cold.b"), ("lost", "other"))],
            id="two tables in one run",
        ),
    ],
)
async def test_what_is_repaired_after_a_night(
    found: Sequence[AuditFindings], ordered: list[tuple[tuple[str, ...], tuple[str, ...]]], tmp_path: Path
) -> None:
    requests = await Daemon(tmp_path, *found).after(NIGHT)
    assert [(request.tables, request.findings) for request in requests] == ordered
    for request in requests:
        assert request.stages == (Stage.REPAIR, Stage.AUDIT)
        assert (request.window, request.slot) == (WINDOW, WINDOW.end)


async def test_a_night_is_followed_by_a_repair_and_an_order_is_not(tmp_path: Path) -> None:
    assert len(await Daemon(tmp_path).after(NIGHT, NIGHT)) == 2
    assert await Daemon(tmp_path).after(RunEnded(replace(REPORT, trigger=Trigger.MANUAL))) == []
    assert await Daemon(tmp_path).after(RunEnded(replace(REPORT, outcome=RunOutcome.SUCCESS))) == []
    # What an interrupted run had audited is repaired after the one that went on.
    assert len(await Daemon(tmp_path).after(RunEnded(replace(REPORT, trigger=Trigger.RESUME, audits=())))) == 1


@pytest.mark.parametrize(("worse", "runs"), [(None, 1), (True, 1), (False, 0)])
async def test_an_older_day_is_repaired_where_it_has_become_worse(
    worse: bool | None, runs: int, tmp_path: Path
) -> None:
    older = Window(START - 3 * DAY, START - 2 * DAY)
    daemon = Daemon(tmp_path, replace(FOUND, window=older))
    daemon.audited = [replace(AUDIT, window_start=older.start, window_end=older.end, worse=worse)]
    assert len(await daemon.after(NIGHT)) == runs


async def test_nothing_is_repaired_by_default_and_where_it_only_watches(tmp_path: Path) -> None:
    assert await Daemon(tmp_path, automatic=False).after(NIGHT) == []
    assert await Daemon(tmp_path, mode="observe").after(NIGHT) == []


async def test_it_waits_for_another_run_for_the_ledger_and_for_the_end_of_a_pause(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.refusals = [RunLockHeld("another run is under way")]
    daemon.unshipped = [TransientError("no answer", reason=Reason.LEDGER_DOWN)]
    (tmp_path / "pause.json").write_text("{}")
    assert len(await daemon.after(NIGHT)) == 1
    assert daemon.slept == [60.0] * 4


async def test_what_can_not_begin_is_left_and_the_next_night_is_repaired(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.refusals = [PermanentError("no"), *(RunLockHeld("another run is under way") for _ in range(121))]
    assert len(await daemon.after(NIGHT, NIGHT, NIGHT)) == 1
    assert len(daemon.slept) == 120


async def test_an_order_that_fails_is_logged(tmp_path: Path) -> None:
    daemon = Daemon(tmp_path)
    daemon.failure = RunLockHeld("another run is under way")
    with capture_logs() as logs:
        assert len(await daemon.after(NIGHT)) == 1
    assert [line["event"] for line in logs] == ["repair_ordered", "repair_failed"]
