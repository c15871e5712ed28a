"""When a session is renewed and warmed up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.core.errors import DeadlineExceeded, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.scheduling import session_keeper
from icekeeper.scheduling.session_keeper import LEAD, PAUSE, RETRY, SETTLED, SparkSessionKeeper, is_due
from tests.unit.builders import SLOT

DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)


@pytest.mark.parametrize(
    ("age", "before", "due"),
    [
        (DAY - 3 * MINUTE, 3 * MINUTE, True),  # started before the slot of yesterday: a day old at this one
        (DAY - 4 * MINUTE, 3 * MINUTE, False),
        (2 * DAY, LEAD, True),
        (2 * DAY, LEAD + MINUTE, False),  # not earlier than it has to be
        (2 * DAY, -MINUTE, False),  # the night has begun
    ],
)
def test_a_session_is_renewed_in_the_minutes_before_a_slot_at_which_it_would_be_too_old(
    age: timedelta, before: timedelta, due: bool
) -> None:
    assert is_due(age, SLOT - before, SLOT, recycle=DAY) is due


def test_without_a_next_slot_a_session_is_renewed_when_it_is_too_old() -> None:
    assert is_due(DAY, SLOT, None, recycle=DAY)
    assert not is_due(DAY - MINUTE, SLOT, None, recycle=DAY)


def test_every_day_one_session_is_renewed_once() -> None:
    """Minute by minute through three days of a nightly schedule."""
    now, started, renewed = SLOT - timedelta(hours=8), SLOT - timedelta(hours=8), []
    while now < SLOT + 3 * DAY:
        slot = next(SLOT + day * DAY for day in range(5) if SLOT + day * DAY > now)
        if is_due(now - started, now, slot, recycle=DAY):
            renewed.append(slot - now)
            started = now
        now += MINUTE
    assert renewed == [LEAD] * len(renewed)
    assert len(renewed) == 3


# --- warming up


class Session:
    """As much of an engine as the keeper uses."""

    def __init__(self, age: timedelta = DAY, master: str = "local[2]") -> None:
        self.options = SparkOptions(master, "1g", Path("/nowhere"))
        self.age = age
        self.jvm_pid = 1

    async def lose(self) -> None:
        """Its JVM is gone."""
        self.jvm_pid += 1

    async def use(self, options: SparkOptions) -> None:
        pass

    async def check(self, timeout: timedelta) -> None:
        pass


class Keeper:
    """SparkSessionKeeper over such a session, whose warm-ups are only counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, session: Session, error: Exception | None = None) -> None:
        self.loses_session = False
        # What each warm-up was told after so many minutes more.
        self.goes_on: list[bool] = []
        self.minutes: tuple[int, ...] = ()
        self.warmed: list[int] = []
        # The same with what each was told of the store, and the tables that were tried, of which each answers this.
        self.stores: list[bool] = []
        self.tried: list[str] = []
        self.answers: dict[str, bool | Exception] = {"cold.a": True}
        self.now = SLOT

        async def warm_up(engine: Session, go_on: Callable[[], bool], *, on_s3: bool) -> bool:
            self.warmed.append(engine.jvm_pid)
            self.stores.append(on_s3)
            for minutes in self.minutes:
                self.now += minutes * MINUTE
                self.goes_on.append(go_on())
            if self.loses_session:
                await session.lose()
            if error is not None:
                raise error
            return True

        async def is_on_s3(engine: Session, catalog: str, table: str) -> bool:
            self.tried.append(table)
            answer = self.answers[table]
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(session_keeper, "warm_up", warm_up)
        monkeypatch.setattr(session_keeper, "is_on_s3", is_on_s3)
        monkeypatch.setattr(session_keeper, "spark_options", lambda settings: session.options)
        settings = SimpleNamespace(
            spark=SimpleNamespace(recycle=365 * DAY),
            catalog=SimpleNamespace(name="lake"),
            policies=lambda: tuple(SimpleNamespace(name=name) for name in self.answers),
        )
        configuration: Any = SimpleNamespace(settings=settings)
        scheduler: Any = SimpleNamespace(next_slot=None)
        worker: Any = SimpleNamespace(busy=False)
        self.scheduler, self.worker = scheduler, worker
        keeper = SparkSessionKeeper(cast(SparkEngine, session), configuration, scheduler, worker, lambda: self.now)
        self.check = keeper.check


async def test_each_session_is_warmed_up_once(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session()
    keeper = Keeper(monkeypatch, session)
    for session.jvm_pid in (1, 1, 2, 2):
        await keeper.check()
    assert keeper.warmed == [1, 2]


async def test_one_that_has_just_come_up_is_left_to_what_waited_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(age=SETTLED - timedelta(seconds=1))
    keeper = Keeper(monkeypatch, session)
    await keeper.check()
    assert keeper.warmed == []
    session.age = SETTLED
    await keeper.check()
    assert keeper.warmed == [1]


async def test_a_cluster_does_not_see_this_hosts_disk_and_is_not_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(monkeypatch, Session(master="spark://somewhere:7077"))
    await keeper.check()
    assert keeper.warmed == []


async def test_a_warm_up_on_s3_that_fails_is_done_on_the_disk_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(monkeypatch, Session(), TransientError("a proxy", reason=Reason.STORAGE_DOWN))
    for _ in range(3):
        await keeper.check()
    assert keeper.stores == [True, False]


async def test_a_warm_up_that_fails_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(monkeypatch, Session(), TransientError("the disk is full", reason=Reason.DISK_LOW))
    keeper.answers = {"cold.a": False}
    await keeper.check()
    await keeper.check()
    assert keeper.warmed == [1]


DOWN = TransientError("the store is down", reason=Reason.STORAGE_DOWN)
MISSING = PermanentError("there is no such table", reason=Reason.TABLE_NOT_FOUND)


@pytest.mark.parametrize(
    ("answers", "tried", "on_s3"),
    [
        ({"cold.a": True, "cold.b": True}, ["cold.a"], True),
        ({"cold.a": False, "cold.b": True}, ["cold.a"], False),
        ({"cold.a": MISSING, "cold.b": True}, ["cold.a", "cold.b"], True),
        (dict.fromkeys(("cold.a", "cold.b", "cold.c", "cold.d"), MISSING), ["cold.a", "cold.b", "cold.c"], False),
        ({}, [], False),
    ],
)
async def test_the_configured_store_is_reached_first(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, bool | Exception], tried: list[str], on_s3: bool
) -> None:
    keeper = Keeper(monkeypatch, Session())
    keeper.answers = answers
    await keeper.check()
    assert (keeper.tried, keeper.stores) == (tried, [on_s3])


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (DOWN, RETRY),
        (OSError("too many open files"), RETRY),
        (RuntimeError("can't start new thread"), RETRY),
        (DeadlineExceeded("no answer"), PAUSE),
    ],
)
async def test_what_does_not_answer_is_tried_again_and_the_session_is_warmed_up_then(
    monkeypatch: pytest.MonkeyPatch, error: Exception, wait: timedelta
) -> None:
    keeper = Keeper(monkeypatch, Session())
    keeper.answers = {"cold.a": error, "cold.b": True}
    for later in (timedelta(0), wait - MINUTE):
        keeper.now = SLOT + later
        await keeper.check()
    assert (keeper.tried, keeper.warmed) == (["cold.a"], [])
    keeper.answers, keeper.now = {"cold.a": True}, SLOT + wait
    await keeper.check()
    assert (keeper.tried, keeper.stores) == (["cold.a", "cold.a"], [True])


@pytest.mark.parametrize("error", [OSError("too many open files"), RuntimeError("can't start new thread")])
async def test_a_host_without_sockets_or_threads_has_no_warm_up_and_the_keeper_lives(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    keeper = Keeper(monkeypatch, Session(), error)
    for _ in range(3):
        await keeper.check()
    assert keeper.stores == [True, False]


async def test_after_a_warm_up_that_cost_the_session_the_next_one_is_left_cold_for_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keeper = Keeper(monkeypatch, Session(), TransientError("the JVM is gone", reason=Reason.ENGINE_DOWN))
    keeper.loses_session = True
    for later in (timedelta(0), PAUSE - MINUTE, PAUSE):
        keeper.now = SLOT + later
        await keeper.check()
    assert (keeper.warmed, keeper.stores) == ([1, 2], [True, True])


async def test_a_new_session_is_warmed_up_on_s3_again_after_one_that_could_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Session()
    keeper = Keeper(monkeypatch, session, TransientError("a proxy", reason=Reason.STORAGE_DOWN))
    for session.jvm_pid in (1, 1, 2, 2):
        await keeper.check()
    assert keeper.stores == [True, False, True, False]


@pytest.mark.parametrize(
    ("before_slot", "goes_on"),
    [(None, [True, True, False]), (60 * MINUTE, [True, True, False]), (5 * MINUTE, [True, False, False])],
)
async def test_a_warm_up_ends_after_a_while_and_before_the_slot(
    monkeypatch: pytest.MonkeyPatch, before_slot: timedelta | None, goes_on: list[bool]
) -> None:
    keeper = Keeper(monkeypatch, Session())
    keeper.scheduler.next_slot = None if before_slot is None else SLOT + before_slot
    keeper.minutes = (2, 2, 1)  # 2, 4 and 5 after its begin
    await keeper.check()
    assert keeper.goes_on == goes_on


async def test_a_run_that_comes_while_the_store_is_reached_goes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(monkeypatch, Session())

    async def run_comes(*_: object) -> bool:
        keeper.worker.busy = True
        return True

    with monkeypatch.context() as patch:
        patch.setattr(session_keeper, "is_on_s3", run_comes)
        await keeper.check()
    assert keeper.warmed == []
    keeper.worker.busy = False
    await keeper.check()
    assert keeper.warmed == [1]
