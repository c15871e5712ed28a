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
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.scheduling import session_keeper
from icekeeper.scheduling.session_keeper import LEAD, SETTLED, SparkSessionKeeper, is_due
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

    async def use(self, options: SparkOptions) -> None:
        pass

    async def check(self, timeout: timedelta) -> None:
        pass


class Keeper:
    """SparkSessionKeeper over such a session, whose warm-ups are only counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, session: Session, error: IcekeeperError | None = None) -> None:
        self.warmed: list[int] = []
        # The same with what each was told of the store, and the tables that were tried, of which each answers this.
        self.stores: list[bool] = []
        self.tried: list[str] = []
        self.answers: dict[str, bool | IcekeeperError] = {"cold.a": True}
        self.now = SLOT

        async def warm_up(engine: Session, go_on: Callable[[], bool], *, on_s3: bool) -> bool:
            self.warmed.append(engine.jvm_pid)
            self.stores.append(on_s3)
            if error is not None:
                raise error
            return True

        async def is_on_s3(engine: Session, catalog: str, table: str) -> bool:
            self.tried.append(table)
            answer = self.answers[table]
            if isinstance(answer, IcekeeperError):
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
        ({"cold.a": DOWN, "cold.b": True}, ["cold.a"], False),
        ({}, [], False),
    ],
)
async def test_the_configured_store_is_reached_first_and_what_does_not_answer_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, bool | IcekeeperError], tried: list[str], on_s3: bool
) -> None:
    keeper = Keeper(monkeypatch, Session())
    keeper.answers = answers
    await keeper.check()
    assert (keeper.tried, keeper.stores) == (tried, [on_s3])


async def test_a_store_that_was_down_is_not_tried_again_by_the_next_sessions_within_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = Session()
    keeper = Keeper(monkeypatch, session)
    keeper.answers = {"cold.a": DOWN}
    for session.jvm_pid, minutes in ((1, 0), (2, 59), (3, 60)):
        keeper.now = SLOT + minutes * MINUTE
        await keeper.check()
    assert keeper.tried == ["cold.a", "cold.a"], "not by the second one"
    assert keeper.warmed == [1, 2, 3], "each of them without it"
