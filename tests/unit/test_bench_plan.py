"""The plan of a benchmark fits its time: rounds go, rivals and contests don't."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench import plan
from bench.plan import Contest
from bench.record import CALL, DEFAULTS, STORES
from tests.unit.samples import case


def contest(shape: str, rounds: int, expected_s: float) -> Contest:
    return Contest(case(shape=shape), (DEFAULTS, CALL), rounds, expected_s)


def test_everything_fits_its_time_without_losing_a_contest_a_rival_or_a_round() -> None:
    planned = plan.contests(plan.PARTS, STORES, plan.SHAPES)
    warm_ups = sum(each.all_rounds_s for each in plan.warm_ups(planned))
    budget = plan.BUDGET_S - plan.START_S - warm_ups
    fitted = plan.fitted(planned, budget)
    assert sum(each.all_rounds_s for each in fitted) <= budget
    assert fitted == planned
    rounds = {(each.case.part, each.case.shape): each.rounds for each in fitted}
    asked = {("compact", "960"): 5, ("compact", "3800"): 3, ("compact", "big"): 3, ("night", "960"): 3}
    assert asked.items() <= rounds.items()


def test_who_plays_once_costs_time_in_the_first_round_only() -> None:
    once = Contest(case(), (DEFAULTS, CALL), 3, 10, once=frozenset((CALL,)), once_s=25)
    assert (once.all_rounds_s, replace(once, played=1).all_rounds_s) == (55, 20)


def test_the_longest_rounds_are_dropped_first() -> None:
    fitted = plan.fitted([contest("960", 5, 10), contest("3800", 2, 100)], 160)
    assert [each.rounds for each in fitted] == [5, 1]
    assert [each.rounds for each in plan.fitted(fitted, 130)] == [3, 1]


def test_one_round_of_each_stays_even_where_that_is_too_much() -> None:
    fitted = plan.fitted([contest("960", 2, 10), contest("3800", 2, 100)], 1)
    assert [each.rounds for each in fitted] == [1, 1]


def test_time_is_shared_in_proportion_up_to_the_whole() -> None:
    assert plan.ends([contest("960", 5, 10), contest("3800", 1, 150)], 400) == pytest.approx((100, 400))


def test_asked_rounds_and_parts_are_taken() -> None:
    planned = plan.contests(("compact",), ("s3",), ("960",), 1)
    assert [(each.case, each.rounds) for each in planned] == [(case(), 1)]


def test_a_warm_up_is_played_once_for_disk_and_once_for_s3() -> None:
    planned = plan.contests(("compact",), STORES, ("3800",))
    assert [(each.case.shape, each.case.store) for each in plan.warm_ups(planned)] == [("960", "local"), ("960", "s3")]
    large = plan.contests(("compact",), ("s3+10ms",), ("big",))
    assert [(each.case.shape, each.case.store) for each in plan.warm_ups(large)] == [("960", "s3"), ("big8", "s3")]


def test_rounds_that_are_there_are_not_played_again_and_take_what_they_took() -> None:
    planned = [contest("960", 5, 10), contest("3800", 2, 100), contest("big", 1, 90)]
    played = {(case(shape="960"), 0.0): 2, (case(shape="big"), 0.0): 1}
    left = plan.remaining(planned, played, {(case(shape="960"), 0.0): 7.5})
    assert [(each.case.shape, each.rounds, each.played, each.all_rounds_s) for each in left] == [
        ("960", 5, 2, 22.5),
        ("3800", 2, 0, 200),
    ]
    assert [each.rounds for each in plan.fitted(left, 110)] == [3, 1]
