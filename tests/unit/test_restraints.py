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
    by_files,
    by_findings,
    by_mismatch,
    clock_error,
    commits_wait,
    restrained,
)
from icekeeper.core.tables.state import MISMATCH_TAG, FileGroup, Ref
from icekeeper.execution.plans import make_plans
from icekeeper.night.order import Order
from icekeeper.night.run import run_night
from tests.unit.builders import DAY, EXPIRE_LIMITS, HOUR, MIB, SLOT, WINDOW_START, snapshot, state, table_policy
from tests.unit.fakes import RUN_ID, World, fails, transient

pytestmark = pytest.mark.usefixtures("logs")

MINUTE = timedelta(minutes=1)
LIMIT = 5 * MINUTE
NAME = "cold.bronze_trades_binance"
HOLDS = ExpirePolicy(EXPIRE_LIMITS, hold_on=frozenset({AuditStatus.MISSING_DATA}), hold_max=7 * DAY)

HOLDS_ON_NOTHING = replace(HOLDS, hold_on=frozenset())


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
    assert (await night(world))[Stage.EXPIRE] == (HELD, Reason.AUDIT_HOLD), "it is the default"
    assert (await night(world, table_policy(NAME, expire=HOLDS_ON_NOTHING)))[Stage.EXPIRE] == (DONE, None)


async def test_an_expiry_that_may_be_held_waits_for_a_ledger_that_can_say_and_no_other_task_does(world: World) -> None:
    down = fails(transient(Reason.LEDGER_DOWN))
    world.findings.script("open_windows", NAME, down, down)
    ended = await night(world, table_policy(NAME, expire=HOLDS))
    assert (ended[Stage.COMPACT], ended[Stage.EXPIRE]) == ((DONE, None), (HELD, Reason.LEDGER_DOWN))
    world.lakehouse.tables[NAME].append(SLOT - MINUTE, files=10)
    world.findings.script("open_windows", NAME, down, down)
    ended = await night(world, table_policy(NAME, expire=HOLDS_ON_NOTHING))
    assert (ended[Stage.COMPACT], ended[Stage.EXPIRE]) == ((DONE, None), (DONE, None))


# --- bad files


def bad_files(*partitions: str, age: timedelta = 30 * DAY) -> OpenWindow:
    """An open finding of a bad file in each of these partitions."""
    bad = tuple(BadFile(f"{day}/a.parquet", day, "data", FileFault.MISSING, 100, 1000) for day in partitions)
    found = finding(AuditStatus.ERROR, age)
    return replace(found, reason=Reason.FILE_MISSING, bad_files=bad, bad_file_rows=100 * len(bad))


def groups(*partitions: str, older_spec: bool = False) -> list[FileGroup]:
    return [FileGroup(partition, 10, 10 * MIB, 1, older_spec) for partition in partitions]


MISFITS = tuple(f"{number}.parquet (the required column v holds 1 null)" for number in range(4))


def unfit(*partitions: str) -> list[FileGroup]:
    return [replace(group, unfit=MISFITS) for group in groups(*partitions)]


def test_bad_files_hold_an_expiry_by_default_and_for_no_longer_than_the_policy_says() -> None:
    restraint = by_findings([bad_files("day=17", age=DAY)], table_policy(NAME).expire, SLOT)
    assert restraint is not None
    assert restraint.reason is Reason.AUDIT_HOLD
    assert restraint.note == "open: 2026-02-17 (file_missing); held until 2026-02-24T02:00Z at the latest"
    assert by_findings([bad_files("day=17", age=7 * DAY)], table_policy(NAME).expire, SLOT) is None


@pytest.mark.parametrize("hold_on", [(), (AuditStatus.MISSING_DATA,), (AuditStatus.MISSING_DATA, Reason.FILE_MISSING)])
def test_bad_files_hold_an_expiry_whatever_the_policy_holds_on(hold_on: tuple[AuditStatus | Reason, ...]) -> None:
    policy = replace(HOLDS, hold_on=frozenset(hold_on))
    assert by_findings([bad_files("day=17", age=DAY)], policy, SLOT) is not None
    assert by_findings([replace(bad_files("day=17", age=DAY), reason=None)], policy, SLOT) is not None


# --- a rewrite that was found wrong


@pytest.mark.parametrize(
    ("ref", "held"),
    [
        (Ref(MISMATCH_TAG + "r", "tag", 1, max_ref_age=9 * DAY), True),
        (Ref(MISMATCH_TAG + "r", "tag", 1, max_ref_age=7 * DAY), False),
        (Ref(MISMATCH_TAG + "r", "tag", 1), True),
        (Ref("before-the-migration", "tag", 1), False),
    ],
)
def test_a_tag_of_before_a_wrong_rewrite_holds_the_table_until_its_own_age_ends_it(ref: Ref, held: bool) -> None:
    found = state([snapshot(1, age=8 * DAY), snapshot(2, age=DAY)], [ref])
    restraint = by_mismatch(found, SLOT)
    assert (restraint is not None) == held
    if restraint is not None and ref.max_ref_age:
        assert restraint.reason is Reason.REWRITE_MISMATCH
        assert restraint.note.endswith("keeps snapshot 1 of before; held until 2026-02-19T02:00Z at the latest")


async def test_a_wrong_rewrite_holds_the_compaction_and_the_expiry_of_its_table_and_not_its_audit(world: World) -> None:
    table = world.lakehouse.tables[NAME]
    table.refs["tag"] = Ref(MISMATCH_TAG + "r", "tag", table.history[-1].id, max_ref_age=7 * DAY)
    held = (HELD, Reason.REWRITE_MISMATCH)
    assert await night(world) == {Stage.COMPACT: held, Stage.EXPIRE: held, Stage.AUDIT: (DONE, None)}
    assert not world.methods("compact", "expire", "tag", "open_windows")


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


@pytest.mark.parametrize(
    ("work", "left_out"),
    [
        (groups("day=16", "day=17"), ()),
        ([*groups("day=16"), *unfit("day=17")], ("day=17",)),
        ([*unfit("day=17"), *groups("day=17"), *groups("day=16")], ("day=17",)),
        (unfit("day=16", "day=17"), None),
        (unfit(""), None),
        ([*groups("day=16", older_spec=True), *unfit("day=17")], None),
    ],
)
def test_a_compaction_leaves_out_the_partitions_of_files_that_do_not_fit_the_schema(
    work: list[FileGroup], left_out: tuple[str, ...] | None
) -> None:
    held = by_files(work)
    if isinstance(held, Restraint):
        assert left_out is None
        assert held.reason is Reason.SCHEMA_MISMATCH
        assert MISFITS[0] in held.note
    else:
        assert tuple(held) == left_out
        assert all("3.parquet" not in why and why.endswith("and 1 more") for why in held.values())


def test_files_that_are_listed_twice_hold_their_partition_for_a_reason_of_their_own() -> None:
    (group,) = [replace(each, twice=("a.parquet",)) for each in groups("day=17")]
    held = by_files([group])
    assert held == Restraint(Reason.COUNT_MISMATCH, "files are listed twice: a.parquet")
    assert by_files([group, *groups("day=16")]) == {"day=17": "files are listed twice: a.parquet"}
    both = by_files([replace(group, unfit=MISFITS[:1])])
    assert isinstance(both, Restraint)
    assert both.reason is Reason.SCHEMA_MISMATCH
    assert both.note.endswith(f"{MISFITS[0]} and files are listed twice: a.parquet")


async def test_bad_files_hold_the_compaction_of_their_partitions_and_the_expiry_of_their_table(world: World) -> None:
    table = world.lakehouse.tables[NAME]
    table.append(SLOT - HOUR, files=10, partition="day=2026-02-16")
    table.append(SLOT - HOUR, files=10, partition="day=2026-02-17")
    world.findings.found[NAME] = (bad_files("day=2026-02-17", age=DAY),)
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
