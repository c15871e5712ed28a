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
from icekeeper.core.errors import IcekeeperError, TransientError
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

        async def warm_up(engine: Session, go_on: Callable[[], bool]) -> bool:
            self.warmed.append(engine.jvm_pid)
            if error is not None:
                raise error
            return True

        monkeypatch.setattr(session_keeper, "warm_up", warm_up)
        monkeypatch.setattr(session_keeper, "spark_options", lambda settings: session.options)
        configuration: Any = SimpleNamespace(settings=SimpleNamespace(spark=SimpleNamespace(recycle=365 * DAY)))
        scheduler: Any = SimpleNamespace(next_slot=None)
        worker: Any = SimpleNamespace(busy=False)
        keeper = SparkSessionKeeper(cast(SparkEngine, session), configuration, scheduler, worker, lambda: SLOT)
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


async def test_a_warm_up_that_fails_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    keeper = Keeper(monkeypatch, Session(), TransientError("the disk is full", reason=Reason.DISK_LOW))
    await keeper.check()
    await keeper.check()
    assert keeper.warmed == [1]
