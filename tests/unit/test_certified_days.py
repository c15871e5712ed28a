"""The certified days of a table in its properties: what they say, and when a night sets, changes or removes them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import date, timedelta
from typing import Any
from uuid import uuid4

import pytest

from icekeeper.core.audit.certificates import DAYS_PROPERTY, KEYS_PROPERTY, CertifiedBy, properties_of
from icekeeper.core.calendar import Window
from icekeeper.core.enums import Proof, RunOutcome, Stage, Trigger
from icekeeper.core.policy import RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.night.order import Order
from icekeeper.night.run import run_night
from tests.unit.builders import SLOT, WINDOW_START, table_policy
from tests.unit.fakes import Step, World, fails, transient

NAME = "cold.silver_trades"
DAY = WINDOW_START.date()
BACK = timedelta(days=1)
C, K = CertifiedBy.COUNTS, CertifiedBy.KEYS


@pytest.mark.parametrize(
    ("days", "all_of_them", "by_keys"),
    [
        ({}, None, None),
        ({10: C}, "2026-02-10", None),
        ({12: K, 10: K, 11: K}, "2026-02-10..2026-02-12", "2026-02-10..2026-02-12"),
        ({10: K, 11: C, 12: K, 14: C}, "2026-02-10..2026-02-12,2026-02-14", "2026-02-10,2026-02-12"),
    ],
)
def test_days_in_a_row_are_one_range(
    days: dict[int, CertifiedBy], all_of_them: str | None, by_keys: str | None
) -> None:
    of_month = {date(2026, 2, day): by for day, by in days.items()}
    assert properties_of(of_month) == {DAYS_PROPERTY: all_of_them, KEYS_PROPERTY: by_keys}


def policy(*, asks: bool = True) -> TablePolicy:
    plain = table_policy(NAME)
    assert plain.audit is not None
    return replace(plain, audit=replace(plain.audit, proof=Proof.FILES, certificate_property=asks))


def world_of(hours: int = 24) -> World:
    """A table whose rows both sides hold, so that its audit certifies the day; with fewer hours Iceberg lacks some."""
    world = World()
    world.add(policy())
    for hour in range(hours, 24):
        world.lakehouse.tables[NAME].hours.pop(WINDOW_START + timedelta(hours=hour), None)
    return world


async def night(
    world: World,
    *stages: Stage,
    recorded: bool = True,
    observe: bool = False,
    asks: bool = True,
    behind: bool = False,
    window: Window | None = None,
) -> RunOutcome:
    order = Order(
        uuid4(), SLOT, Trigger.SCHEDULE, (policy(asks=asks),), stages or (Stage.AUDIT,), recorded=recorded,
        policy=RunPolicy(observe=observe), window=window, ledger_behind=behind,
    )  # fmt: skip
    return (await run_night(order, world.ports, world.events.append)).outcome


async def test_what_a_night_certifies_it_notes_in_the_table() -> None:
    world = world_of()
    world.findings.certified[NAME] = {DAY - BACK: K}
    assert await night(world) is RunOutcome.SUCCESS
    assert world.lakehouse.tables[NAME].properties == {
        DAYS_PROPERTY: f"{DAY - BACK}..{DAY}", KEYS_PROPERTY: f"{DAY - BACK}",
    }  # fmt: skip


async def test_an_audit_of_a_day_long_ago_takes_no_newer_one_away() -> None:
    world = world_of()
    world.findings.certified[NAME] = {DAY: K, DAY - 40 * BACK: K}
    await night(world, window=Window(WINDOW_START - 40 * BACK, WINDOW_START - 39 * BACK))
    assert world.lakehouse.tables[NAME].properties[KEYS_PROPERTY] == f"{DAY}"


async def test_what_a_night_has_found_damaged_is_certified_no_longer() -> None:
    world = world_of(hours=12)
    world.lakehouse.tables[NAME].properties = {DAYS_PROPERTY: f"{DAY}", "owner": "ada"}
    world.findings.certified[NAME] = {DAY: K}
    assert await night(world) is RunOutcome.FAILED
    assert world.lakehouse.tables[NAME].properties == {"owner": "ada"}


@pytest.mark.parametrize(("hours", "stays"), [(24, True), (12, False)])
async def test_without_the_ledger_nothing_is_noted_and_what_is_damaged_takes_all_away(hours: int, stays: bool) -> None:
    world = world_of(hours)
    world.lakehouse.tables[NAME].properties = {DAYS_PROPERTY: "2026-02-01"}
    world.findings.script("certified_days", NAME, fails(transient(Reason.LEDGER_DOWN)))
    await night(world)
    assert (DAYS_PROPERTY in world.lakehouse.tables[NAME].properties) == stays


@pytest.mark.parametrize(("hours", "stays"), [(24, True), (12, False)])
async def test_what_waits_in_the_spool_may_have_revoked_a_day_so_that_none_is_added(hours: int, stays: bool) -> None:
    world = world_of(hours)
    world.lakehouse.tables[NAME].properties = {DAYS_PROPERTY: "2026-02-01"}
    world.findings.certified[NAME] = {DAY - BACK: K}
    await night(world, behind=True)
    assert world.lakehouse.tables[NAME].properties == ({DAYS_PROPERTY: "2026-02-01"} if stays else {})


async def test_a_commit_that_is_refused_is_tried_again_and_a_stop_or_a_bug_costs_the_night_nothing() -> None:
    world = world_of(hours=12)
    world.lakehouse.tables[NAME].properties = {DAYS_PROPERTY: f"{DAY}"}
    world.lakehouse.script("set_properties", NAME, fails(transient(Reason.CONFLICT)))
    assert await night(world) is RunOutcome.FAILED
    assert world.lakehouse.tables[NAME].properties == {}
    errors: tuple[Any, ...] = RuntimeError("a bug"), asyncio.CancelledError()
    for error in errors:
        world = world_of()
        world.lakehouse.script("set_properties", NAME, Step(error, acts=False))
        assert await night(world) is RunOutcome.SUCCESS


async def test_a_property_that_can_not_be_set_fails_no_night() -> None:
    world = world_of()
    world.lakehouse.script("set_properties", NAME, fails(transient(Reason.CATALOG_DOWN)))
    other = replace(policy(), name="cold.gold")
    world.add(other)
    order = Order(uuid4(), SLOT, Trigger.SCHEDULE, (policy(), other), (Stage.AUDIT,))
    assert (await run_night(order, world.ports, world.events.append)).outcome is RunOutcome.SUCCESS
    assert [call.table for call in world.called("set_properties")] == [NAME], "the other table's catalog is the same"


@pytest.mark.parametrize("how", [{"recorded": False}, {"observe": True}])
async def test_neither_a_dry_run_nor_observing_changes_a_table(how: dict[str, Any]) -> None:
    world = world_of()
    await night(world, **how)
    assert not world.called("set_properties")


async def test_without_an_audit_or_the_setting_no_property_is_set() -> None:
    world = world_of()
    await night(world, Stage.COMPACT)
    await night(world, asks=False)
    assert not world.called("set_properties")
