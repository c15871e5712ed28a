"""The schedule of a world's ticks and commits."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from icekeeper.sandbox.table_shapes import TABLES
from icekeeper.sandbox.world_spec import WorldSpec, from_micros, to_micros

NOW = datetime(2026, 2, 18, 2, 0, tzinfo=UTC)


def test_the_last_commit_lies_before_now() -> None:
    for minutes in range(40):
        spec = WorldSpec(now=NOW + timedelta(minutes=minutes))
        last = spec.ticks()[-1]
        assert spec.committed_us(last) < to_micros(spec.now) <= spec.committed_us(last + spec.step_us)


def test_ticks_fall_on_whole_quarters_of_an_hour() -> None:
    ticks = [from_micros(tick) for tick in WorldSpec(now=NOW, days=1).ticks()]
    assert len(ticks) == 96
    assert ticks[-1] == NOW - timedelta(minutes=15)
    assert {tick.minute for tick in ticks} == {0, 15, 30, 45}


def test_consecutive_ticks_leave_no_gap_and_lag_five_minutes() -> None:
    spec = WorldSpec(now=NOW, days=1, commits_per_day=24)
    bounds = spec.bounds(spec.ticks())
    assert (bounds.high[:-1] == bounds.low[1:]).all()
    assert from_micros(int(bounds.high[-1])) == from_micros(spec.ticks()[-1]) - timedelta(minutes=5)


def test_old_commits_lie_eight_to_twelve_days_back() -> None:
    spec = WorldSpec(now=NOW, old_snapshots=5)
    ages = [(to_micros(NOW) - spec.committed_us(tick)) / 86_400_000_000 for tick in spec.old_ticks()]
    assert ages == [12, 11, 10, 9, 8]


def test_old_ticks_of_a_table_never_overlap() -> None:
    spec = WorldSpec(now=NOW, old_snapshots=12)
    for shape in TABLES:
        bounds = spec.old_bounds(shape)
        assert (bounds.low[1:] >= bounds.high[:-1]).all()


def test_a_spec_survives_json() -> None:
    spec = WorldSpec(
        now=NOW, name="a", catalog="hadoop", lost=(("cold.silver_trades", NOW),), tables=("cold.silver_trades",)
    )
    assert WorldSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tables": ("cold.unknown",)}, "no such table: cold.unknown"),
        ({"now": datetime(2026, 2, 18)}, "has no time zone"),  # noqa: DTZ001  (that is the point)
        ({"now": datetime(2999, 1, 1, tzinfo=UTC)}, "in the future"),
        ({"catalog": "rest"}, "old_snapshots must be 0"),
        ({"days": 9}, "no room for snapshots"),
        ({"rows_per_file": 0}, "at least 1"),
    ],
)
def test_a_world_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        WorldSpec(**{"now": NOW, **arguments})
