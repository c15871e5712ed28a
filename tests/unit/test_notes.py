"""What the note of a task says, by its outcome: what was done, what would be done, or what it waits for; no orders."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest

from icekeeper.core.enums import Decision, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import DeadlineExceeded
from icekeeper.core.events import TaskProgressed
from icekeeper.core.offload import OffloadState
from icekeeper.core.policy import ExpirePolicy, RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables import planning
from icekeeper.execution.plans import make_plans
from icekeeper.night.order import Order
from icekeeper.night.run import run_night
from tests.unit.builders import EXPIRE_LIMITS, SLOT, table_policy
from tests.unit.fakes import RUN_ID, FakeTable, Step, World, does_nothing, fails, lands_but_fails, permanent, transient

pytestmark = pytest.mark.usefixtures("logs")

POLICY = table_policy()
NAME = POLICY.name
SOURCE = NAME.partition(".")[2]
ONE_WRITER = replace(POLICY, single_writer=True)
MINUTE = timedelta(minutes=1)
DONE, SKIPPED, HELD, FAILED = TaskOutcome.DONE, TaskOutcome.SKIPPED, TaskOutcome.HELD, TaskOutcome.FAILED
COMPACT, EXPIRE, AUDIT = Stage.COMPACT, Stage.EXPIRE, Stage.AUDIT
FILES = "20 files (1.0 MiB) of 1 partition into 1"
REWROTE = f"rewrote {FILES}; proven by metrics"
SNAPSHOTS = "4 of 11 snapshots, committed before 2026-02-11T02:00Z"
LEFT_OVER = "the offload's status, running since 2026-02-18T01:45Z, is left over from a cycle without rows"
TWO_DAYS = "40 files (2.0 MiB) of 2 partitions into 2, in 2 slices"
WAITS = "waits for the offload's cycle, running for 40 s; it would"
WAITED = "waited 30 min for the offload's cycle, running for 40 s; it would"
FULL = "/state has 1 MiB free, run.min_free_disk is 1024 MiB"
AHEAD = "this host's clock is 600 s ahead of ClickHouse, 600 s ahead of PostgreSQL"
LANDED = "it landed though its attempt was lost: remove_orphan_files frees what was left"
SWITCH = "s3.delete-enabled is false and there are no delete tags"
ORDERS = re.compile(r"(^|; )(rewrite|expire|count|wait)\b|nobody|somebody")

Arrange = Callable[[World, FakeTable], None]


@dataclass(frozen=True)
class Case:
    """A table with work for every stage, what else is so, and how the task's note has to read."""

    name: str
    stage: Stage
    outcome: TaskOutcome
    note: str
    arrange: Arrange = lambda world, table: None
    policy: TablePolicy = POLICY
    run: RunPolicy = RunPolicy()  # noqa: RUF009 - frozen, so it may be shared

    def __str__(self) -> str:
        return f"{self.stage} {self.name}"


def compacted(world: World, table: FakeTable) -> None:
    table.files = table.files[:10]


def disk_is_full(world: World, table: FakeTable) -> None:
    world.surroundings.free = 1024**2


def clocks_differ(world: World, table: FakeTable) -> None:
    world.surroundings.ahead = dict.fromkeys(world.surroundings.ahead, 10 * MINUTE)


def scripted(method: str, *steps: Step) -> Arrange:
    return lambda world, table: world.lakehouse.script(method, NAME, *steps)


def two_partitions(then: Step) -> Arrange:
    def arrange(world: World, table: FakeTable) -> None:
        table.append(SLOT, files=20, partition="day=2026-02-16")
        world.lakehouse.script("compact", NAME, Step(), then)

    return arrange


def always_running(now: datetime) -> OffloadState:
    return OffloadState(now, "running", now - 40 * timedelta(seconds=1), now - 14 * MINUTE, timedelta(seconds=50))


def offload_runs(world: World, table: FakeTable) -> None:
    world.offload.cycles[SOURCE] = always_running


def status_left_over(world: World, table: FakeTable) -> None:
    world.clock.now = SLOT + 7 * MINUTE
    world.offload.states[SOURCE] = OffloadState(SLOT, "running", SLOT - 15 * MINUTE, SLOT - 30 * MINUTE)


def gc_is_off(world: World, table: FakeTable) -> None:
    table.gc_enabled = False


def kept_files(world: World, table: FakeTable) -> None:
    world.lakehouse.kept[NAME] = 7


def deletes_nothing(world: World, table: FakeTable) -> None:
    world.lakehouse.switches[NAME] = "s3.delete-enabled"


def keeps_all(world: World, table: FakeTable) -> None:
    kept_files(world, table)
    deletes_nothing(world, table)


def lost_with_kept_files(world: World, table: FakeTable) -> None:
    kept_files(world, table)
    world.lakehouse.keeps_paths = True
    world.lakehouse.script("expire", NAME, LOST)


def budget(minutes: int) -> RunPolicy:
    return RunPolicy(max_duration=minutes * MINUTE)


ONE_TRY = replace(POLICY, compact=replace(POLICY.compact, limits=replace(POLICY.compact.limits, retries=0)))
KEEPS_ALL = replace(POLICY, expire=ExpirePolicy(EXPIRE_LIMITS, retain_last=50))
REFUSED, LOST = fails(permanent(Reason.ACCESS_DENIED)), lands_but_fails(transient(Reason.ENGINE_DOWN))
LATE = fails(DeadlineExceeded("late"), 3 * MINUTE)
CASES = [
    Case("of small files", COMPACT, DONE, REWROTE),
    Case("of packed files", COMPACT, SKIPPED, "0 small of 10 files", compacted),
    Case("in slices", COMPACT, DONE, f"rewrote {TWO_DAYS}; proven by metrics", two_partitions(Step()), ONE_TRY),
    Case("that failed", COMPACT, FAILED, f"would rewrite {FILES}", scripted("compact", REFUSED)),
    Case(
        "that failed halfway",
        COMPACT,
        FAILED,
        f"would rewrite {TWO_DAYS}; 20 files of them are rewritten",
        two_partitions(REFUSED),
        ONE_TRY,
    ),
    Case("that went on after a failure", COMPACT, DONE, REWROTE, scripted("compact", does_nothing())),
    Case("whose answer was lost", COMPACT, DONE, REWROTE, scripted("compact", LOST)),
    Case(
        "that only observes", COMPACT, HELD, f"mode is observe; it would rewrite {FILES}", run=RunPolicy(observe=True)
    ),
    Case("on a full disk", COMPACT, HELD, f"{FULL}; it would rewrite {FILES}", disk_is_full),
    Case(
        "past the budget",
        COMPACT,
        HELD,
        f"cut short by the run's max_duration; it would rewrite {FILES}",
        scripted("compact", LATE),
        run=budget(3),
    ),
    Case("with one writer", COMPACT, DONE, REWROTE, policy=ONE_WRITER),
    Case("beside the offload", COMPACT, HELD, f"{WAITED} rewrite {FILES}", offload_runs, ONE_WRITER),
    Case(
        "beside a status that is left over",
        COMPACT,
        DONE,
        f"{REWROTE}; {LEFT_OVER}",
        status_left_over,
        ONE_WRITER,
    ),
    Case("of old snapshots", EXPIRE, DONE, f"expired {SNAPSHOTS}; 40 files deleted"),
    Case("of no old snapshots", EXPIRE, SKIPPED, "none of 11 snapshots can go", policy=KEEPS_ALL),
    Case("that failed", EXPIRE, FAILED, f"would expire {SNAPSHOTS}", scripted("expire", REFUSED)),
    Case("whose answer was lost", EXPIRE, DONE, f"expired {SNAPSHOTS}; {LANDED}", scripted("expire", LOST)),
    Case(
        "whose answer was lost and whose files are kept",
        EXPIRE,
        DONE,
        f"tried again to delete 47 files of earlier expiries; 47 files deleted; before that expired {SNAPSHOTS}; "
        "7 files of earlier expiries tried again: it landed though its attempt was lost",
        lost_with_kept_files,
    ),
    Case("with wrong clocks", EXPIRE, HELD, f"{AHEAD}; it would expire {SNAPSHOTS}", clocks_differ),
    Case(
        "of files that could not be deleted before",
        EXPIRE,
        DONE,
        "tried again to delete 7 files of earlier expiries; 7 files deleted",
        kept_files,
        KEEPS_ALL,
    ),
    Case(
        "with files of before",
        EXPIRE,
        DONE,
        f"expired {SNAPSHOTS}; 7 files of earlier expiries tried again; 47 files deleted",
        kept_files,
    ),
    Case("of a store that keeps all", EXPIRE, HELD, f"{SWITCH}; it would expire {SNAPSHOTS}", deletes_nothing),
    Case(
        "of files of before in a store that keeps all",
        EXPIRE,
        HELD,
        f"{SWITCH}; it would try again to delete 7 files of earlier expiries",
        keeps_all,
        KEEPS_ALL,
    ),
    Case("without gc", EXPIRE, HELD, "4 snapshots are due, but gc.enabled is false", gc_is_off),
    Case("beside the offload", EXPIRE, HELD, f"{WAITED} expire {SNAPSHOTS}", offload_runs, ONE_WRITER),
    Case(
        "beside a status that is left over",
        EXPIRE,
        DONE,
        f"expired {SNAPSHOTS}; 40 files deleted; {LEFT_OVER}",
        status_left_over,
        ONE_WRITER,
    ),
    Case("of a day", AUDIT, DONE, "ok: equal"),
]
PLANS = [
    (COMPACT, POLICY, None, Decision.ACT, f"would rewrite {FILES}"),
    (COMPACT, POLICY, disk_is_full, Decision.HOLD, f"{FULL}; it would rewrite {FILES}"),
    (COMPACT, POLICY, compacted, Decision.SKIP, "0 small of 10 files"),
    (COMPACT, ONE_WRITER, None, Decision.ACT, f"would rewrite {FILES}"),
    (COMPACT, ONE_WRITER, offload_runs, Decision.HOLD, f"{WAITS} rewrite {FILES}"),
    (COMPACT, ONE_WRITER, status_left_over, Decision.ACT, f"would rewrite {FILES}; {LEFT_OVER}"),
    (EXPIRE, POLICY, None, Decision.ACT, f"would expire {SNAPSHOTS}"),
    (EXPIRE, ONE_WRITER, offload_runs, Decision.HOLD, f"{WAITS} expire {SNAPSHOTS}"),
    (AUDIT, POLICY, None, Decision.ACT, "would count both sides over [2026-02-17T00:00Z, 2026-02-18T00:00Z)"),
]


@pytest.fixture
def world() -> World:
    return World()


def order(policy: TablePolicy, stage: Stage, run: RunPolicy | None = None) -> Order:
    return Order(RUN_ID, SLOT, Trigger.SCHEDULE, (policy,), stages=(stage,), policy=run or RunPolicy())


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_a_note_says_what_became_of_the_task(world: World, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "SLICE_MAX_FILES", 30)
    case.arrange(world, world.add(case.policy))
    (task,) = (await run_night(order(case.policy, case.stage, case.run), world.ports, world.events.append)).tasks
    assert (task.outcome, task.note) == (case.outcome, case.note), task.error
    for note in (task.note, *(event.note for event in world.emitted(TaskProgressed))):
        assert not ORDERS.search(note)


@pytest.mark.parametrize(("stage", "policy", "arrange", "decision", "note"), PLANS)
async def test_a_plans_note_says_what_would_become_of_it(
    world: World, stage: Stage, policy: TablePolicy, arrange: Arrange | None, decision: Decision, note: str
) -> None:
    table = world.add(policy)
    if arrange is not None:
        arrange(world, table)
    ((plan,), errors) = await make_plans(order(policy, stage), world.ports)
    assert (plan.decision, plan.note, errors) == (decision, note, {})
    assert not ORDERS.search(plan.note)


@pytest.mark.parametrize("reason", Reason)
def test_no_advice_speaks_of_nobody_in_particular(reason: Reason) -> None:
    assert not re.search(r"nobody|somebody|whoever", reason.advice, re.IGNORECASE)
