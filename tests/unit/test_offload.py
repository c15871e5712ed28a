"""When the offload has to be taken to write, from what its table says: every boundary, to the second."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from icekeeper.core.offload import OffloadRhythm, OffloadState, left_over, names_of, together, writing

TWO = datetime(2026, 2, 18, 2, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
RHYTHM = OffloadRhythm()
# In the middle between two cycles: none is due.
QUIET = TWO + 7 * MINUTE
BEFORE = TWO - 15 * MINUTE


def state(
    status: str = "running",
    since: datetime | None = TWO,
    success: datetime | None = TWO - 14 * MINUTE,
    took: timedelta | None = 50 * SECOND,
) -> OffloadState:
    return OffloadState(TWO - 20 * MINUTE, status, since, success, took)


def what(state: OffloadState | None, now: datetime, rhythm: OffloadRhythm = RHYTHM) -> str | None:
    found = writing(state, now, rhythm)
    return None if found is None else found.what


@pytest.mark.parametrize(
    ("running", "longest"),
    [
        pytest.param(state(took=150 * SECOND), 450 * SECOND, id="three times the last"),
        pytest.param(state(took=100 * SECOND), 5 * MINUTE, id="three times the last is five minutes"),
        pytest.param(state(took=20 * SECOND), 5 * MINUTE, id="at least five minutes"),
        pytest.param(state(took=200 * SECOND), 10 * MINUTE, id="three times the last is cycle_max"),
        pytest.param(state(took=201 * SECOND), 10 * MINUTE, id="at most cycle_max"),
        pytest.param(state(took=None), 10 * MINUTE, id="no duration is known"),
        pytest.param(state(success=None), 10 * MINUTE, id="no success is known"),
        pytest.param(state(success=TWO - 24 * HOUR), 10 * MINUTE, id="a backlog"),
    ],
)
def test_a_cycle_is_taken_to_run_as_long_as_it_may(running: OffloadState, longest: timedelta) -> None:
    for now in (TWO, TWO + SECOND, TWO + longest - SECOND):
        found = writing(running, now, RHYTHM)
        assert found is not None
        assert found.until == TWO + longest
        assert left_over(running, now, RHYTHM) == ""
    assert writing(running, TWO + longest, RHYTHM) is None
    assert left_over(running, TWO + longest, RHYTHM) == (
        "the offload's status, running since 2026-02-18T02:00Z, is left over from a cycle without rows"
    )


@pytest.mark.parametrize(
    ("age", "longest"), [(HOUR - SECOND, 5 * MINUTE), (HOUR, 5 * MINUTE), (HOUR + SECOND, 10 * MINUTE)]
)
def test_a_success_older_than_an_hour_means_a_backlog(age: timedelta, longest: timedelta) -> None:
    assert RHYTHM.longest_cycle(state(success=QUIET - age, took=SECOND), QUIET) == longest


def test_the_longest_cycle_is_a_setting_and_above_the_least() -> None:
    assert RHYTHM.longest_cycle(state(took=SECOND), TWO) == 5 * MINUTE
    assert OffloadRhythm(cycle_max=MINUTE).longest_cycle(state(took=SECOND), TWO) == MINUTE
    assert OffloadRhythm(cycle_max=HOUR).longest_cycle(state(took=15 * MINUTE), TWO) == 45 * MINUTE


@pytest.mark.parametrize(
    ("status", "since", "now", "said"),
    [
        # A cycle that has marked itself is as far as it says.
        ("running", TWO, TWO + 40 * SECOND, "the offload's cycle, running for 40 s"),
        ("success", TWO, TWO + 40 * SECOND, None),
        ("success", TWO + SECOND, TWO + 40 * SECOND, None),
        ("failed", TWO + SECOND, TWO + 40 * SECOND, None),
        # One that has not may be starting, for a minute.
        ("success", TWO - SECOND, TWO - SECOND, None),
        ("success", TWO - SECOND, TWO, "the offload's cycle of 2026-02-18T02:00Z, which may be starting"),
        ("success", BEFORE, TWO + 59 * SECOND, "the offload's cycle of 2026-02-18T02:00Z, which may be starting"),
        ("success", BEFORE, TWO + MINUTE, None),
        ("failed", BEFORE, TWO + SECOND, "the offload's cycle of 2026-02-18T02:00Z, which may be starting"),
        # What is left over of the cycle before says nothing of the one that is due.
        ("running", BEFORE, TWO - SECOND, None),
        ("running", BEFORE, TWO, "the offload's cycle of 2026-02-18T02:00Z, which may be starting"),
        ("running", BEFORE, TWO + MINUTE, None),
        ("running", BEFORE, TWO + 15 * MINUTE, "the offload's cycle of 2026-02-18T02:15Z, which may be starting"),
        # PostgreSQL's clock may be ahead of ours.
        ("running", TWO + 3 * SECOND, TWO, "the offload's cycle, running for 0 ms"),
        ("running", TWO + 8 * MINUTE, QUIET, "the offload's cycle, running for 0 ms"),
        # Or the instant was written in another time zone.
        (
            "running",
            QUIET + HOUR,
            QUIET,
            "the offload's cycle, running since 2026-02-18T03:07Z by a clock that is ahead of this host's",
        ),
        ("success", QUIET + HOUR, QUIET, None),
        # Without the column a status is all that is known.
        ("running", None, QUIET, "the offload, whose status is running"),
        ("success", None, TWO + SECOND, None),
        ("", None, TWO, None),
    ],
)
def test_what_the_offload_is_taken_to_write(status: str, since: datetime | None, now: datetime, said: str) -> None:
    assert what(state(status, since), now) == said


def test_a_table_that_the_offload_does_not_know_is_not_written_by_it() -> None:
    assert writing(None, TWO, RHYTHM) is None
    assert left_over(None, TWO, RHYTHM) == ""


@pytest.mark.parametrize(
    ("every", "now", "due"),
    [
        (15 * MINUTE, TWO + 14 * MINUTE + 59 * SECOND, TWO),
        (15 * MINUTE, TWO + 15 * MINUTE, TWO + 15 * MINUTE),
        (HOUR, TWO + 59 * MINUTE, TWO),
        (6 * HOUR, TWO, TWO - 2 * HOUR),
        (24 * HOUR, TWO, TWO - 2 * HOUR),
    ],
)
def test_cycles_are_due_at_whole_multiples_of_the_period_in_the_utc_day(
    every: timedelta, now: datetime, due: datetime
) -> None:
    assert OffloadRhythm(every=every).due_before(now) == due


def test_a_starting_cycle_is_over_a_minute_after_it_was_due() -> None:
    found = writing(state("success", BEFORE), TWO + 20 * SECOND, RHYTHM)
    assert found is not None
    assert found.until == TWO + MINUTE


@pytest.mark.parametrize(
    ("table", "sources", "names"),
    [
        ("a", (), ("a", "k2.a")),
        ("k2.a", ("k2.a",), ("k2.a", "a")),
        ("k2.a", ("k2.a", "a"), ("k2.a", "a")),
        ("other.a", ("other.a", "b"), ("other.a", "a")),
        ("other.a", ("other.a", "a"), ("other.a",)),
        ("other.a", ("other.a", "k2.a"), ("other.a",)),
    ],
)
def test_the_names_of_a_table_in_the_offloads_own(table: str, sources: tuple[str, ...], names: tuple[str, ...]) -> None:
    assert names_of(table, "k2", sources) == names


def test_several_tables_are_as_far_as_the_least_of_them_and_written_while_one_is() -> None:
    idle, running = OffloadState(TWO - HOUR, "success", TWO), OffloadState(TWO, "running", TWO - MINUTE)
    assert together([idle]) == idle
    assert together([idle, running]) == OffloadState(TWO - HOUR, "running", TWO - MINUTE)
    assert together([running, None]) == OffloadState(None, "running", TWO - MINUTE), (
        "how far the other is, is not known"
    )
    assert together([OffloadState(None, "initialized"), idle]) == OffloadState(None, "success", TWO)
    assert together([None, None]) is None
    assert together([]) is None
