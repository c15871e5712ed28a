"""When a session is renewed, and how often one is looked at."""

from __future__ import annotations

from datetime import timedelta

import pytest

from daemon.service.warmth import LEAD, is_due
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
