"""What keeps a night from changing tables: what clocks, disks and findings mean, and that they are asked in time."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from icekeeper.core.audit.records import MOST_BAD_FILES, BadFile, FileFault, OpenWindow
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Decision, Stage, TaskOutcome, Trigger
from icekeeper.core.offload import OffloadRhythm
from icekeeper.core.policy import ExpirePolicy, RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Plan, Slice
from icekeeper.core.tables.restraints import (
    Disk,
    Restraint,
    by_bad_files,
    by_clock,
    by_disk,
    by_findings,
    clock_error,
    commits_wait,
    restrained,
)
from icekeeper.core.tables.state import FileGroup
from icekeeper.execution.plans import make_plans
from icekeeper.night.run import Order, run_night
from tests.unit.builders import DAY, EXPIRE_LIMITS, HOUR, MIB, SLOT, WINDOW_START, table_policy
from tests.unit.fakes import RUN_ID, World, fails, transient

pytestmark = pytest.mark.usefixtures("logs")

MINUTE = timedelta(minutes=1)
LIMIT = 5 * MINUTE
NAME = "cold.bronze_trades_binance"
HOLDS = ExpirePolicy(EXPIRE_LIMITS, hold_on=frozenset({AuditStatus.MISSING_DATA}), hold_max=7 * DAY)


def finding(status: AuditStatus = AuditStatus.MISSING_DATA, age: timedelta = DAY) -> OpenWindow:
    return OpenWindow(NAME, Window(WINDOW_START, WINDOW_START + DAY), status, since=SLOT - age, delta=-100)


# --- what the answers mean


def test_a_plan_that_acts_is_held_and_says_what_it_would_have_done() -> None:
    plan = Plan(Stage.COMPACT, NAME, Decision.ACT, "would rewrite 9 files", slices=(Slice((), 9, MIB, 1),))
    held = restrained(plan, Restraint(Reason.DISK_LOW, "/state has 3 MiB free"))
    assert (held.decision, held.reason, held.slices) == (Decision.HOLD, Reason.DISK_LOW, ())
    assert held.note == "/state has 3 MiB free; it would rewrite 9 files"


@pytest.mark.parametrize("decision", [Decision.SKIP, Decision.HOLD])
def test_a_plan_that_does_not_act_keeps_its_own_reason(decision: Decision) -> None:
    plan = Plan(Stage.COMPACT, NAME, decision, "no", Reason.NOTHING_SMALL)
    assert restrained(plan, Restraint(Reason.DISK_LOW, "full")) is plan


@pytest.mark.parametrize(
    ("ahead", "note"),
    [
        ({}, None),
        ({"PostgreSQL": LIMIT}, None),
        ({"PostgreSQL": 10 * MINUTE}, "this host's clock is 600 s ahead of PostgreSQL"),
        ({"PostgreSQL": -10 * MINUTE}, "this host's clock is 600 s behind PostgreSQL"),
        (
            {"PostgreSQL": 10 * MINUTE, "ClickHouse": 9 * MINUTE},
            "this host's clock is 540 s ahead of ClickHouse, 600 s ahead of PostgreSQL",
        ),
        # One that agrees with this host clears it: the other server's clock is wrong.
        ({"PostgreSQL": 10 * MINUTE, "ClickHouse": MINUTE}, None),
    ],
)
def test_clocks_that_differ_hold_a_night_unless_one_server_agrees_with_this_host(
    ahead: dict[str, timedelta], note: str | None
) -> None:
    restraint = by_clock(ahead, LIMIT)
    assert (restraint.note if restraint else None) == note


def test_the_error_of_a_clock_is_the_smallest_that_the_servers_know() -> None:
    assert clock_error({"a": 10 * MINUTE, "b": 8 * MINUTE}, LIMIT) == 8 * MINUTE
    assert clock_error({"a": 10 * MINUTE, "b": MINUTE}, LIMIT) == timedelta(0)
    assert clock_error({}, LIMIT) == timedelta(0)


def test_a_disk_with_less_than_the_least_holds() -> None:
    assert by_disk([Disk("/a", 100 * MIB), Disk("/b", 100 * MIB)], 100 * MIB) is None
    restraint = by_disk([Disk("/a", 100 * MIB), Disk("/b", 99 * MIB)], 100 * MIB)
    assert restraint is not None
    assert restraint.note == "/b has 99 MiB free, run.min_free_disk is 100 MiB"


@pytest.mark.parametrize(
    ("found", "held"),
    [
        ((), False),
        ((finding(),), True),
        ((finding(AuditStatus.WARNING),), False),
        ((finding(age=7 * DAY),), False),
        ((finding(age=7 * DAY - MINUTE),), True),
        ((finding(age=30 * DAY), finding()), True),
    ],
)
def test_a_finding_holds_if_the_policy_says_so_and_for_no_longer_than_it_says(
    found: tuple[OpenWindow, ...], held: bool
) -> None:
    restraint = by_findings(found, HOLDS, SLOT)
    assert (restraint is not None) == held
    if restraint is not None:
        assert restraint.note.startswith("open: 2026-02-17 (missing_data)")


# --- in a night


@pytest.fixture
def world() -> World:
    world = World()
    world.add(table_policy(NAME))
    return world


async def night(world: World, policy: TablePolicy | None = None, run: RunPolicy | None = None) -> dict[Stage, object]:
    order = Order(RUN_ID, SLOT, Trigger.SCHEDULE, (policy or table_policy(NAME),), policy=run or RunPolicy())
    report = await run_night(order, world.ports, world.events.append)
    return {task.stage: (task.outcome, task.reason) for task in report.tasks}


HELD, DONE, FAILED = TaskOutcome.HELD, TaskOutcome.DONE, TaskOutcome.FAILED


async def test_in_observe_mode_nothing_is_changed_and_the_audit_runs(world: World) -> None:
    ended = await night(world, run=RunPolicy(observe=True))
    held = (HELD, Reason.OBSERVING)
    assert ended == {Stage.COMPACT: held, Stage.EXPIRE: held, Stage.AUDIT: (DONE, None)}
    assert not world.methods("compact", "expire")


async def test_a_clock_that_is_off_holds_the_tables_and_not_the_audit_of_a_day_that_is_over(world: World) -> None:
    world.surroundings.ahead = {"PostgreSQL": 10 * MINUTE}
    held = (HELD, Reason.CLOCK_SKEW)
    assert await night(world) == {Stage.COMPACT: held, Stage.EXPIRE: held, Stage.AUDIT: (DONE, None)}
    assert world.surroundings.asked == 1


async def test_an_audit_of_a_day_that_is_not_over_by_the_servers_clocks_is_an_error(world: World) -> None:
    world.surroundings.ahead = {"PostgreSQL": 3 * HOUR, "ClickHouse": 3 * HOUR}
    assert (await night(world))[Stage.AUDIT] == (FAILED, Reason.CLOCK_SKEW)
    assert not world.methods("source.count")


async def test_a_full_disk_holds_the_compaction_and_not_the_expiry_that_frees_space(world: World) -> None:
    world.surroundings.free = MIB
    ended = await night(world)
    assert (ended[Stage.COMPACT], ended[Stage.EXPIRE]) == ((HELD, Reason.DISK_LOW), (DONE, None))


async def test_a_disk_that_does_not_answer_fails_the_task_and_the_plan_of_its_table_with_its_reason(
    world: World,
) -> None:
    world.surroundings.disk_error = transient(Reason.STORAGE_DOWN)
    ended = await night(world)
    assert ended[Stage.COMPACT] == (FAILED, Reason.STORAGE_DOWN)
    order = Order(RUN_ID, SLOT, Trigger.MANUAL, (table_policy(NAME),), (Stage.COMPACT,))
    plans, errors = await make_plans(order, world.ports)
    assert plans == []
    assert Reason.STORAGE_DOWN.advice in errors[NAME]


async def test_an_open_finding_holds_the_expiry_only_where_that_is_asked_for(world: World) -> None:
    world.findings.found[NAME] = (finding(),)
    assert (await night(world, table_policy(NAME, expire=HOLDS)))[Stage.EXPIRE] == (HELD, Reason.AUDIT_HOLD)
    assert (await night(world))[Stage.EXPIRE] == (DONE, None)


async def test_an_expiry_that_may_be_held_waits_for_a_ledger_that_can_say_and_no_other_task_does(world: World) -> None:
    down = fails(transient(Reason.LEDGER_DOWN))
    world.findings.script("open_windows", NAME, down, down)
    ended = await night(world, table_policy(NAME, expire=HOLDS))
    assert (ended[Stage.COMPACT], ended[Stage.EXPIRE]) == ((DONE, None), (HELD, Reason.LEDGER_DOWN))
    world.lakehouse.tables[NAME].append(SLOT - MINUTE, files=10)
    world.findings.script("open_windows", NAME, down, down)
    ended = await night(world)
    assert (ended[Stage.COMPACT], ended[Stage.EXPIRE]) == ((DONE, None), (DONE, None))


# --- bad files


def bad_files(*partitions: str, age: timedelta = 30 * DAY) -> OpenWindow:
    """An open finding of a bad file in each of these partitions."""
    bad = tuple(BadFile(f"{day}/a.parquet", day, "data", FileFault.MISSING, 100, 1000) for day in partitions)
    found = finding(AuditStatus.ERROR, age)
    return replace(found, reason=Reason.FILE_MISSING, bad_files=bad, bad_file_rows=100 * len(bad))


def groups(*partitions: str, older_spec: bool = False) -> list[FileGroup]:
    return [FileGroup(partition, 10, 10 * MIB, 1, older_spec) for partition in partitions]


def test_bad_files_hold_an_expiry_whatever_the_policy_holds_on_and_for_as_long_as_they_are_open() -> None:
    restraint = by_findings([bad_files("day=17")], table_policy(NAME).expire, SLOT)
    assert restraint is not None
    assert restraint.reason is Reason.AUDIT_HOLD
    assert restraint.note.startswith("open: 2026-02-17 (file_missing); held until an audit finds its files whole")


@pytest.mark.parametrize(
    ("found", "work", "left_out"),
    [
        ((), groups("day=17"), ()),
        ((finding(),), groups("day=17"), ()),  # rows are missing: files are no worse for being rewritten
        ((bad_files("day=17"),), groups("day=16", "day=17"), ("day=17",)),
        ((bad_files("day=17"), bad_files("day=16")), groups("day=15", "day=16", "day=17"), ("day=16", "day=17")),
        ((bad_files("day=17"),), groups("day=16"), ()),
        ((bad_files("day=17"),), groups("day=17"), None),
        ((bad_files(""),), groups(""), None),
        # Which partitions: not said, more than are kept, not to be selected.
        ((bad_files(),), groups("day=16"), None),
        ((bad_files(*map(str, range(MOST_BAD_FILES))),), groups("day=16"), None),
        ((bad_files("day=17"),), groups("day=16", older_spec=True), None),
    ],
)
def test_a_compaction_leaves_out_the_partitions_of_bad_files_or_all_where_it_can_not_tell_them(
    found: tuple[OpenWindow, ...], work: list[FileGroup], left_out: tuple[str, ...] | None
) -> None:
    held = by_bad_files(found, work)
    if left_out is None:
        assert isinstance(held, Restraint)
        assert held.reason is Reason.AUDIT_HOLD
    else:
        assert held == frozenset(left_out)


async def test_bad_files_hold_the_compaction_of_their_partitions_and_the_expiry_of_their_table(world: World) -> None:
    table = world.lakehouse.tables[NAME]
    table.append(SLOT - HOUR, files=10, partition="day=2026-02-16")
    table.append(SLOT - HOUR, files=10, partition="day=2026-02-17")
    world.findings.found[NAME] = (bad_files("day=2026-02-17"),)
    ended = await night(world)
    assert (ended[Stage.COMPACT], ended[Stage.EXPIRE]) == ((DONE, None), (HELD, Reason.AUDIT_HOLD))
    small = [file.partition for file in table.files if file.size < MIB]
    assert small.count("day=2026-02-17") >= 10
    assert small.count("day=2026-02-16") <= 1


async def test_a_night_with_nothing_to_do_asks_for_no_disk_and_no_finding(world: World) -> None:
    quiet = replace(HOLDS, older_than=100 * DAY)
    world.lakehouse.tables[NAME].files.clear()
    world.surroundings.free = 0
    ended = await night(world, table_policy(NAME, expire=quiet))
    assert {ended[Stage.COMPACT], ended[Stage.EXPIRE]} == {
        (TaskOutcome.SKIPPED, Reason.NOTHING_SMALL), (TaskOutcome.SKIPPED, Reason.NOTHING_EXPIRED),
    }  # fmt: skip
    assert not world.called("open_windows")


SINGLE = replace(table_policy(), single_writer=True)
ITS_OFFLOAD = "except the offload: each commit waits for the end of its cycle, 30 min a stage at most."


@pytest.mark.parametrize(
    ("tables", "run", "expected"),
    [
        ((SINGLE, SINGLE), RunPolicy(), ITS_OFFLOAD),
        ((SINGLE, SINGLE), RunPolicy(offload=OffloadRhythm(wait=timedelta(hours=1))), ", 1 h a stage at most."),
        ((replace(SINGLE, source=None, audit=None), SINGLE), RunPolicy(), ITS_OFFLOAD),
        ((replace(SINGLE, source=None, audit=None),), RunPolicy(), "write into its tables during a run."),
        ((SINGLE,), RunPolicy(observe=True), ""),
        ((table_policy(),), RunPolicy(), ""),
        ((), RunPolicy(), ""),
    ],
    ids=["hadoop", "offload.wait", "one without a source", "no source", "observing", "another catalog", "no table"],
)
def test_a_plan_names_what_commits_wait_for_where_the_catalog_takes_one_writer(
    tables: tuple[TablePolicy, ...], run: RunPolicy, expected: str
) -> None:
    text = commits_wait(tables, run)
    assert text.endswith(expected) if expected else text == ""
    assert "\n" not in text
