"""One task, on fakes of the ports: what it plans, what it does when a call fails or lies, and what it leaves behind."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from icekeeper.core.audit.records import (
    MOST_BAD_FILES,
    AuditResult,
    BadFile,
    FileFault,
    FindingKind,
    MissingHour,
    SourceTtl,
)
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import NIGHT, AuditStatus, Decision, Proof, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import CommitUnknown, DeadlineExceeded, IcekeeperError, PermanentError, SessionSpent
from icekeeper.core.events import TaskEnded, TaskProgressed
from icekeeper.core.offload import OffloadState
from icekeeper.core.policy import AuditPolicy, CompactPolicy, ExpirePolicy, SourceTtlSetting, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.planning import SHRINK, SLICE_MAX_FILES
from icekeeper.core.tables.state import COPIED, ROW_GROUPS_PROPERTY, RUN_ID_PROPERTY, Ref, TableHealth
from icekeeper.night.stages.context import TaskContext
from icekeeper.night.task import Task, make_plan
from tests.unit.builders import (
    AUDIT_LIMITS,
    COMPACT_LIMITS,
    DAY,
    EXPIRE_LIMITS,
    HOUR,
    MIB,
    SLOT,
    WINDOW_START,
    audit_policy,
    table_policy,
)
from tests.unit.fakes import (
    RUN_ID,
    FakeTable,
    Step,
    World,
    does_nothing,
    fails,
    lands_but_fails,
    permanent,
    transient,
)

pytestmark = pytest.mark.usefixtures("logs")

POLICY = table_policy()
NAME = POLICY.name
SOURCE = "bronze_trades_binance"
MINUTE = timedelta(minutes=1)

CONFLICT = transient(Reason.CONFLICT)
UNKNOWN = CommitUnknown("it went wrong")


async def run_task(stage: Stage, policy: TablePolicy, context: TaskContext) -> TaskEnded:
    return await Task(stage, policy, context).run()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def table(world: World) -> FakeTable:
    """A table with work for every stage: 20 small files, snapshots of ten days, both sides alike."""
    return world.add(POLICY)


def health(table: FakeTable) -> TableHealth:
    return table.health(POLICY.compact.target_file_size)


async def compacted(world: World, policy: TablePolicy = POLICY) -> TaskEnded:
    return await run_task(Stage.COMPACT, policy, world.context())


async def expired(world: World, policy: TablePolicy = POLICY) -> TaskEnded:
    return await run_task(Stage.EXPIRE, policy, world.context())


async def audited(world: World, policy: TablePolicy = POLICY) -> AuditResult:
    end = await run_task(Stage.AUDIT, policy, world.context())
    assert end.audit is not None
    assert (end.result.outcome is TaskOutcome.FAILED) == (end.audit.status is AuditStatus.ERROR)
    assert end.result.reason is end.audit.reason
    return end.audit


def ended(end: TaskEnded) -> tuple[TaskOutcome, Reason | None]:
    return end.result.outcome, end.result.reason


# --- compaction


async def test_a_compaction_merges_the_small_files_and_tells_before_and_after(world: World, table: FakeTable) -> None:
    before = health(table)
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert end.audit is None
    assert (end.result.stage, end.result.table, end.result.attempts) == (Stage.COMPACT, NAME, 1)
    assert (end.result.before, end.result.after) == (before, health(table))
    assert (before.small_files, health(table).small_files) == (20, 1)
    assert end.result.error is None
    assert table.history[-1].summary[RUN_ID_PROPERTY] == str(RUN_ID)


async def test_a_task_tells_when_it_began_and_how_long_it_took(world: World, table: FakeTable) -> None:
    world.lakehouse.script("compact", NAME, Step(takes=90 * timedelta(seconds=1)))
    result = (await compacted(world)).result
    assert (result.started_at, result.duration_s) == (SLOT, 90.0)


async def test_a_compacted_table_is_skipped_with_its_reason_and_the_same_health_twice(
    world: World, table: FakeTable
) -> None:
    await compacted(world)
    world.calls.clear()
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.SKIPPED, Reason.TOO_FEW_FILES)
    assert end.result.before == end.result.after == health(table)
    assert world.methods() == ["inspect"]


async def test_a_table_without_small_files_is_skipped_without_asking_the_planner(world: World) -> None:
    table = world.add(POLICY)
    table.files = [replace(table.files[0], size=120 * MIB)]
    assert ended(await compacted(world)) == (TaskOutcome.SKIPPED, Reason.NOTHING_SMALL)
    assert world.called("compact") == []


async def test_an_empty_table_is_skipped(world: World) -> None:
    world.lakehouse.tables[NAME] = FakeTable()
    assert ended(await compacted(world)) == (TaskOutcome.SKIPPED, Reason.NOTHING_SMALL)
    assert world.methods() == ["inspect"]


async def test_a_table_that_is_not_there_fails_at_once_with_no_health(world: World) -> None:
    result = (await compacted(world)).result
    assert (result.outcome, result.reason, result.attempts) == (TaskOutcome.FAILED, Reason.TABLE_NOT_FOUND, 1)
    assert (result.before, result.after) == (None, None)
    assert result.error is not None
    assert NAME in result.error
    assert world.clock.slept == []


async def test_what_a_writer_commits_meanwhile_does_not_disturb_a_compaction(world: World, table: FakeTable) -> None:
    def offload() -> None:
        table.append(world.clock(), files=30)

    world.lakehouse.script("compact", NAME, Step(first=offload))
    world.lakehouse.script("inspect", NAME, Step(), Step(first=offload))
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert end.result.attempts == 1


async def test_rows_that_delete_files_removed_are_counted_at_both_snapshots(world: World, table: FakeTable) -> None:
    table.delete_rows(world.clock(), 8)
    assert ended(await compacted(world)) == (TaskOutcome.DONE, None)
    assert len(world.called("count_at")) == 2


async def test_a_rewrite_that_loses_rows_is_not_verified_and_not_tried_again(world: World, table: FakeTable) -> None:
    table.rewrite_loses = 8
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.FAILED, Reason.NOT_VERIFIED)
    assert end.result.attempts == 1
    assert end.result.error is not None
    assert NAME in end.result.error
    assert world.clock.slept == []


@pytest.mark.parametrize(("lost", "reason"), [(8, Reason.COUNT_MISMATCH), (9, Reason.NOT_VERIFIED)])
async def test_a_rewrite_that_finds_other_rows_than_the_manifests_claimed_says_so_and_not_that_it_lost_them(
    world: World, table: FakeTable, lost: int, reason: Reason
) -> None:
    table.rewrite_loses = lost
    table.bad_files = (BadFile("s3://w/t/a.parquet", "day=17", "data", FileFault.COUNT, 100, 1000, rows_found=92),)
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.FAILED, reason)
    assert end.result.attempts == 1
    error = end.result.error or ""
    if reason is Reason.COUNT_MISMATCH:
        assert "the rewrite found 1992 rows where the manifests claimed 2000, and wrote all of them" in error
        assert "s3://w/t/a.parquet (holds 92 rows, its manifest claims 100)" in error


async def test_a_rewrite_that_loses_rows_says_so_though_the_files_that_it_replaced_can_not_be_read(
    world: World, table: FakeTable
) -> None:
    table.rewrite_loses = 8
    world.lakehouse.script("prove_replaced", NAME, fails(transient(Reason.STORAGE_DOWN)))
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.FAILED, Reason.NOT_VERIFIED)
    assert "live rows" in (end.result.error or "")


async def test_a_rewrite_that_makes_as_many_files_as_before_is_not_verified(world: World, table: FakeTable) -> None:
    table.rewrite_merges = False
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.FAILED, Reason.NOT_VERIFIED)
    assert end.result.attempts == 1


async def test_a_rewrite_that_reports_success_without_doing_anything_is_tried_again(
    world: World, table: FakeTable
) -> None:
    world.lakehouse.script("compact", NAME, does_nothing())
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert end.result.attempts == 2
    assert world.clock.slept == [120.0]


async def test_a_rewrite_that_never_does_anything_is_not_verified(world: World, table: FakeTable) -> None:
    world.lakehouse.script("compact", NAME, does_nothing(), does_nothing())
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.FAILED, Reason.NOT_VERIFIED)
    assert end.result.attempts == 2


# --- a reply that was lost


async def test_a_commit_of_unknown_state_that_landed_is_done_at_the_first_attempt(
    world: World, table: FakeTable
) -> None:
    world.lakehouse.script("compact", NAME, lands_but_fails(UNKNOWN))
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert end.result.attempts == 1
    assert end.result.after == health(table)
    assert len(world.called("compact")) == 1


async def test_a_commit_of_unknown_state_that_did_not_land_is_made_again(world: World, table: FakeTable) -> None:
    world.lakehouse.script("compact", NAME, fails(UNKNOWN))
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert end.result.attempts == 2
    assert health(table).small_files == 1


async def test_another_runs_rewrite_does_not_settle_a_commit_of_unknown_state(world: World, table: FakeTable) -> None:
    def another_run_compacts() -> None:
        groups = [file for file in table.files if file.size < MIB]
        merged = replace(groups[0], size=MIB, rows=sum(file.rows for file in groups))
        table.commit(world.clock(), "replace", added=[merged], removed=groups, properties={RUN_ID_PROPERTY: "other"})

    world.lakehouse.script("compact", NAME, replace(fails(UNKNOWN), first=another_run_compacts))
    end = await compacted(world)
    assert end.result.attempts == 2
    assert ended(end) == (TaskOutcome.SKIPPED, Reason.TOO_FEW_FILES)
    assert end.result.after == health(table)


@pytest.mark.parametrize(("left", "attempts"), [(0, 1), (3, 2)])
async def test_row_groups_copied_settle_a_commit_of_unknown_state_only_where_they_are_of_the_whole_slice(
    world: World, table: FakeTable, left: int, attempts: int
) -> None:
    """Otherwise it is the commit of the rest that is unknown."""

    def copies_a_part() -> None:
        groups = [file for file in table.files if file.size < MIB]
        copied = groups[: len(groups) - left]
        merged = replace(groups[0], size=MIB, rows=sum(file.rows for file in copied))
        properties = {RUN_ID_PROPERTY: str(RUN_ID), ROW_GROUPS_PROPERTY: COPIED}
        table.commit(world.clock(), "replace", added=[merged], removed=copied, properties=properties)

    world.lakehouse.script("compact", NAME, replace(fails(UNKNOWN), first=copies_a_part))
    end = await compacted(world)
    assert (*ended(end), end.result.attempts) == (TaskOutcome.DONE, None, attempts)
    assert "row groups copied" in end.result.note


async def test_a_commit_that_stays_unknown_and_never_lands_fails_for_that_reason(
    world: World, table: FakeTable
) -> None:
    world.lakehouse.script("compact", NAME, fails(UNKNOWN), fails(UNKNOWN))
    end = await compacted(world)
    assert end.result.attempts == 2
    assert ended(end) == (TaskOutcome.FAILED, Reason.COMMIT_UNKNOWN)
    assert "reported success" not in (end.result.error or "")


@pytest.mark.parametrize("error", [UNKNOWN, DeadlineExceeded("too late"), transient(Reason.ENGINE_DOWN)])
async def test_a_rewrite_that_landed_though_its_attempt_was_lost_is_done_and_not_skipped(
    world: World, table: FakeTable, error: IcekeeperError
) -> None:
    world.lakehouse.script("compact", NAME, lands_but_fails(error))
    if error is UNKNOWN:  # and the look at the table that would settle it fails too
        world.lakehouse.script("inspect", NAME, Step(), fails(transient(Reason.CATALOG_DOWN)))
    before = health(table)
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert (end.result.before, end.result.after) == (before, health(table))


async def test_a_rewrite_that_lost_rows_is_found_out_even_if_its_attempt_was_lost(
    world: World, table: FakeTable
) -> None:
    table.rewrite_loses = 8
    world.lakehouse.script("compact", NAME, lands_but_fails(DeadlineExceeded("too late")))
    assert ended(await compacted(world)) == (TaskOutcome.FAILED, Reason.NOT_VERIFIED)


# --- slices

BIG_DAYS = ("day=2026-01-01", "day=2026-01-02", "day=2026-01-03")
HALF_A_SLICE = SLICE_MAX_FILES // 2 + 1


@pytest.fixture
def backlog(world: World) -> FakeTable:
    """Three days whose files are too many for one slice together, or two of them."""
    table = world.add(POLICY)
    table.files.clear()
    for day in BIG_DAYS:
        table.append(world.clock() - HOUR, files=HALF_A_SLICE, partition=day)
    return table


def rewrites(table: FakeTable) -> int:
    return sum(snapshot.operation == "replace" for snapshot in table.history)


async def test_a_big_backlog_is_committed_and_verified_slice_by_slice(world: World, backlog: FakeTable) -> None:
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert world.methods() == ["inspect", "file_groups", "open_windows", *["compact", "inspect", "rewritten"] * 3]
    assert rewrites(backlog) == 3
    assert end.result.after == health(backlog)
    progress = [event.note for event in world.emitted(TaskProgressed)]
    whole = 3 * HALF_A_SLICE
    assert progress == [
        f"slice {number} of 3: {HALF_A_SLICE} files, {(number - 1) * HALF_A_SLICE} of {whole} done"
        for number in (1, 2, 3)
    ]


async def test_the_slices_of_an_attempt_share_its_timeout(world: World, backlog: FakeTable) -> None:
    world.lakehouse.script("compact", NAME, Step(takes=4 * MINUTE), Step(takes=2 * MINUTE))
    await compacted(world)
    assert [call.timeout for call in world.called("compact")] == [10 * MINUTE, 6 * MINUTE, 4 * MINUTE]


async def test_a_second_attempt_plans_only_the_slices_that_are_left(world: World, backlog: FakeTable) -> None:
    world.lakehouse.script("compact", NAME, Step(), fails(CONFLICT))
    before = health(backlog)
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert end.result.attempts == 2
    assert len(world.called("compact")) == 2 + 2
    assert rewrites(backlog) == 3
    assert (end.result.before, end.result.after) == (before, health(backlog))


async def test_a_deadline_keeps_the_finished_slices_and_says_so(world: World, backlog: FakeTable) -> None:
    policy = table_policy(compact=CompactPolicy(replace(COMPACT_LIMITS, retries=0)))
    world.lakehouse.script("compact", NAME, Step(), fails(DeadlineExceeded("stopped"), takes=10 * MINUTE))
    end = await compacted(world, policy)
    assert ended(end) == (TaskOutcome.FAILED, Reason.DEADLINE)
    assert rewrites(backlog) == 1
    assert end.result.after == health(backlog)
    assert end.result.before != end.result.after


async def test_a_slice_that_went_past_its_deadline_is_tried_again_in_pieces(world: World, backlog: FakeTable) -> None:
    world.lakehouse.script("compact", NAME, fails(DeadlineExceeded("stopped"), takes=10 * MINUTE))
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert rewrites(backlog) > 3
    first, second = (event.note for event in world.emitted(TaskProgressed) if event.note.startswith("slice 1"))
    assert first.startswith(f"slice 1 of 3: {HALF_A_SLICE} files")
    assert int(second.split()[4]) <= SLICE_MAX_FILES // SHRINK


async def test_no_slice_is_begun_after_the_timeout(world: World, backlog: FakeTable) -> None:
    policy = table_policy(compact=CompactPolicy(replace(COMPACT_LIMITS, retries=0)))
    world.lakehouse.script("compact", NAME, Step(), Step(takes=10 * MINUTE))
    end = await compacted(world, policy)
    assert ended(end) == (TaskOutcome.FAILED, Reason.DEADLINE)
    assert len(world.called("compact")) == 2


async def test_the_health_afterwards_counts_a_last_slice_that_landed_though_its_reply_was_lost(
    world: World, backlog: FakeTable
) -> None:
    world.lakehouse.script("compact", NAME, Step(), Step(), lands_but_fails(DeadlineExceeded("too late")))
    end = await compacted(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert rewrites(backlog) == 3
    assert end.result.after == health(backlog)


# --- retries, of every stage alike

FIRST_CALL = {Stage.COMPACT: "compact", Stage.EXPIRE: "expire", Stage.AUDIT: "count"}


def with_retries(stage: Stage, retries: int) -> TablePolicy:
    return {
        Stage.COMPACT: table_policy(compact=CompactPolicy(replace(COMPACT_LIMITS, retries=retries))),
        Stage.EXPIRE: table_policy(expire=ExpirePolicy(replace(EXPIRE_LIMITS, retries=retries))),
        Stage.AUDIT: table_policy(audit=AuditPolicy(replace(AUDIT_LIMITS, retries=retries))),
    }[stage]


@pytest.mark.parametrize(("stage", "delay"), [(Stage.COMPACT, 120.0), (Stage.EXPIRE, 60.0), (Stage.AUDIT, 120.0)])
async def test_a_failure_that_may_pass_is_tried_again_after_the_stages_delay(
    world: World, table: FakeTable, stage: Stage, delay: float
) -> None:
    world.lakehouse.script(FIRST_CALL[stage], NAME, fails(CONFLICT))
    end = await run_task(stage, POLICY, world.context())
    assert end.result.outcome is TaskOutcome.DONE
    assert end.result.attempts == 2
    assert end.result.error is None
    assert world.clock.slept == [delay]
    assert end.result.duration_s == delay
    assert any("attempt 1 failed" in event.note for event in world.emitted(TaskProgressed))


SPENT = SessionSpent("token expired", reason=Reason.ACCESS_DENIED)
REFUSED = CommitUnknown("whether it landed", refusal=permanent(Reason.ACCESS_DENIED, "not allowed"))


@pytest.mark.parametrize("stage", NIGHT)
@pytest.mark.parametrize("retries", [0, 1])
async def test_a_session_that_was_renewed_earns_another_attempt_at_once(
    world: World, table: FakeTable, stage: Stage, retries: int
) -> None:
    world.lakehouse.script(FIRST_CALL[stage], NAME, fails(SPENT))
    result = (await run_task(stage, with_retries(stage, retries), world.context())).result
    assert (result.outcome, result.attempts) == (TaskOutcome.DONE, 2)
    assert world.clock.slept == []


@pytest.mark.parametrize("stage", NIGHT)
async def test_only_one_attempt_is_earned_so_and_the_retries_come_after_it(
    world: World, table: FakeTable, stage: Stage
) -> None:
    world.lakehouse.script(FIRST_CALL[stage], NAME, *[fails(SPENT)] * 3)
    result = (await run_task(stage, with_retries(stage, 1), world.context())).result
    assert (result.outcome, result.reason) == (TaskOutcome.FAILED, Reason.ACCESS_DENIED)
    assert result.attempts == 3
    assert len(world.clock.slept) == 1


@pytest.mark.parametrize("stage", [Stage.COMPACT, Stage.EXPIRE])
async def test_a_commit_that_landed_before_its_session_was_renewed_is_found_and_not_made_again(
    world: World, table: FakeTable, stage: Stage
) -> None:
    world.lakehouse.script(FIRST_CALL[stage], NAME, lands_but_fails(SPENT))
    result = (await run_task(stage, with_retries(stage, 0), world.context())).result
    assert (result.outcome, result.reason, result.attempts) == (TaskOutcome.DONE, None, 2)
    assert len(world.called(stage.value)) == 1


@pytest.mark.parametrize("stage", [Stage.COMPACT, Stage.EXPIRE])
@pytest.mark.parametrize(
    ("step", "outcome", "reason"),
    [
        (lands_but_fails(REFUSED), TaskOutcome.DONE, None),
        (fails(REFUSED), TaskOutcome.FAILED, Reason.ACCESS_DENIED),
        (lands_but_fails(UNKNOWN), TaskOutcome.DONE, None),
        (fails(UNKNOWN), TaskOutcome.FAILED, Reason.COMMIT_UNKNOWN),
    ],
)
async def test_a_commit_that_was_refused_is_looked_for_in_the_table_before_that_is_believed(
    world: World, table: FakeTable, stage: Stage, step: Step, outcome: TaskOutcome, reason: Reason | None
) -> None:
    world.lakehouse.script(stage.value, NAME, step)
    result = (await run_task(stage, with_retries(stage, 0), world.context())).result
    assert (result.outcome, result.reason, result.attempts) == (outcome, reason, 1)


@pytest.mark.parametrize("stage", NIGHT)
@pytest.mark.parametrize("retries", [0, 1, 3])
async def test_after_its_last_retry_a_task_fails_with_the_last_error(
    world: World, table: FakeTable, stage: Stage, retries: int
) -> None:
    errors = [transient(Reason.CONFLICT, f"conflict {number}") for number in range(retries + 1)]
    world.lakehouse.script(FIRST_CALL[stage], NAME, *map(fails, errors))
    result = (await run_task(stage, with_retries(stage, retries), world.context())).result
    assert (result.outcome, result.reason) == (TaskOutcome.FAILED, Reason.CONFLICT)
    assert result.attempts == retries + 1
    assert result.error == f"conflict {retries}"
    assert len(world.clock.slept) == retries


@pytest.mark.parametrize("stage", NIGHT)
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (permanent(Reason.ACCESS_DENIED), Reason.ACCESS_DENIED),
        (PermanentError("odd"), Reason.UNEXPECTED),
        (ValueError("a bug"), Reason.UNEXPECTED),
    ],
)
async def test_what_no_retry_can_help_is_not_tried_again(
    world: World, table: FakeTable, stage: Stage, error: Exception, reason: Reason
) -> None:
    world.lakehouse.script(FIRST_CALL[stage], NAME, fails(error))
    result = (await run_task(stage, POLICY, world.context())).result
    assert (result.outcome, result.reason, result.attempts) == (TaskOutcome.FAILED, reason, 1)
    assert world.clock.slept == []


@pytest.mark.parametrize("stage", NIGHT)
async def test_with_retries_off_there_is_one_attempt(world: World, table: FakeTable, stage: Stage) -> None:
    world.lakehouse.script(FIRST_CALL[stage], NAME, fails(CONFLICT))
    result = (await run_task(stage, POLICY, world.context(retries_off=True))).result
    assert (result.outcome, result.attempts, world.clock.slept) == (TaskOutcome.FAILED, 1, [])


@pytest.mark.parametrize("stage", NIGHT)
async def test_a_crash_becomes_a_failure_that_names_the_exception(world: World, table: FakeTable, stage: Stage) -> None:
    world.lakehouse.script(FIRST_CALL[stage], NAME, fails(KeyError("total-records")))
    result = (await run_task(stage, POLICY, world.context())).result
    assert (result.outcome, result.reason) == (TaskOutcome.FAILED, Reason.UNEXPECTED)
    assert result.error == "KeyError: 'total-records'"


@pytest.mark.parametrize("stage", NIGHT)
async def test_every_attempt_has_the_stages_timeout_anew(world: World, table: FakeTable, stage: Stage) -> None:
    world.lakehouse.script(FIRST_CALL[stage], NAME, fails(CONFLICT, takes=3 * MINUTE))
    await run_task(stage, POLICY, world.context())
    timeouts = [call.timeout for call in world.called(FIRST_CALL[stage])]
    assert timeouts == [POLICY.limits(stage).timeout] * 2


@pytest.mark.parametrize("stage", NIGHT)
async def test_a_limit_shorter_than_the_timeout_counts(world: World, table: FakeTable, stage: Stage) -> None:
    await run_task(stage, POLICY, world.context(budget=2 * MINUTE))
    assert [call.timeout for call in world.called(FIRST_CALL[stage])] == [2 * MINUTE]


@pytest.mark.parametrize("stage", NIGHT)
async def test_a_limit_longer_than_the_timeout_does_not(world: World, table: FakeTable, stage: Stage) -> None:
    await run_task(stage, POLICY, world.context(budget=DAY))
    assert [call.timeout for call in world.called(FIRST_CALL[stage])] == [POLICY.limits(stage).timeout]


# --- expiry


async def test_an_expiry_drops_exactly_the_snapshots_that_its_plan_names(world: World, table: FakeTable) -> None:
    before = health(table)
    end = await expired(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert [snapshot.id for snapshot in table.history] == [5, 6, 7, 8, 9, 10, 11]
    assert (end.result.before, end.result.after) == (before, health(table))
    assert "40 files deleted" in end.result.note
    assert world.methods() == ["inspect", "open_windows", "expire", "inspect"]


async def test_a_table_without_old_snapshots_is_skipped_after_one_reading(world: World, table: FakeTable) -> None:
    await expired(world)
    world.calls.clear()
    end = await expired(world)
    assert ended(end) == (TaskOutcome.SKIPPED, Reason.NOTHING_EXPIRED)
    assert end.result.before == end.result.after == health(table)
    assert world.methods() == ["inspect"]


async def test_a_table_that_forbids_expiry_is_held(world: World, table: FakeTable) -> None:
    table.gc_enabled = False
    assert ended(await expired(world)) == (TaskOutcome.HELD, Reason.GC_DISABLED)
    assert world.called("expire") == []


async def test_tags_and_branches_are_respected(world: World, table: FakeTable) -> None:
    table.refs |= {"eoy": Ref("eoy", "tag", 2), "audit": Ref("audit", "branch", 1)}
    assert ended(await expired(world)) == (TaskOutcome.DONE, None)
    assert [snapshot.id for snapshot in table.history] == [1, 2, 5, 6, 7, 8, 9, 10, 11]
    assert set(table.refs) == {"main", "eoy", "audit"}


async def test_an_expiry_under_which_the_table_moved_is_planned_anew(world: World, table: FakeTable) -> None:
    def somebody_tags() -> None:
        table.refs["late"] = Ref("late", "tag", 2)

    world.lakehouse.script("expire", NAME, replace(fails(CONFLICT), first=somebody_tags))
    end = await expired(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert end.result.attempts == 2
    assert [snapshot.id for snapshot in table.history] == [2, 5, 6, 7, 8, 9, 10, 11]


async def test_an_expiry_that_leaves_a_named_snapshot_is_not_verified(world: World, table: FakeTable) -> None:
    world.lakehouse.script("expire", NAME, does_nothing())
    end = await expired(world)
    assert ended(end) == (TaskOutcome.FAILED, Reason.NOT_VERIFIED)
    assert "still there" in (end.result.error or "")
    assert end.result.attempts == 1


async def test_an_expiry_that_takes_more_than_was_named_is_not_verified(world: World, table: FakeTable) -> None:
    def somebody_expires_too() -> None:
        table.history.pop(6)

    world.lakehouse.script("expire", NAME, Step(first=somebody_expires_too))
    end = await expired(world)
    assert ended(end) == (TaskOutcome.FAILED, Reason.NOT_VERIFIED)
    assert "snapshot 7 was not named" in (end.result.error or "")


async def test_an_expiry_that_takes_a_reference_is_not_verified(world: World, table: FakeTable) -> None:
    table.refs["eoy"] = Ref("eoy", "tag", 9)
    world.lakehouse.script("expire", NAME, Step(first=table.refs.clear))
    assert ended(await expired(world)) == (TaskOutcome.FAILED, Reason.NOT_VERIFIED)


async def test_deleted_files_that_are_still_in_the_store_fail_the_expiry(world: World, table: FakeTable) -> None:
    world.lakehouse.script("expire", NAME, lands_but_fails(permanent(Reason.NOT_VERIFIED, "3 files are still there")))
    end = await expired(world)
    assert ended(end) == (TaskOutcome.FAILED, Reason.NOT_VERIFIED)
    assert end.result.attempts == 1


async def test_what_writers_commit_during_an_expiry_is_no_failure(world: World, table: FakeTable) -> None:
    def offload() -> None:
        table.append(world.clock())

    world.lakehouse.script("expire", NAME, Step(first=offload))
    assert ended(await expired(world)) == (TaskOutcome.DONE, None)


async def test_a_tag_whose_own_age_has_passed_may_go_though_main_keeps_its_snapshot(
    world: World, table: FakeTable
) -> None:
    # Iceberg drops a reference that is due with any expiry, whether or not its snapshot goes (RemoveSnapshots).
    table.refs["short"] = Ref("short", "tag", 9, max_ref_age=DAY)
    end = await expired(world)
    assert ended(end) == (TaskOutcome.DONE, None)
    assert "short" not in table.refs


@pytest.mark.parametrize("error", [UNKNOWN, DeadlineExceeded("too late")])
async def test_an_expiry_that_landed_though_its_reply_was_lost_is_done_with_the_health_it_left(
    world: World, table: FakeTable, error: IcekeeperError
) -> None:
    world.lakehouse.script("expire", NAME, lands_but_fails(error))
    before = health(table)
    end = await expired(world)
    assert len(table.history) == 7
    assert (end.result.before, end.result.after) == (before, health(table))
    assert ended(end) == (TaskOutcome.DONE, None)


async def test_an_expiry_caught_up_late_reaches_no_further_than_its_slot(world: World, table: FakeTable) -> None:
    world.clock.advance(3 * DAY)
    await expired(world)
    assert len(table.history) == 7


# --- audit


async def test_equal_counts_are_an_ok_row_with_all_that_is_needed_to_count_again(
    world: World, table: FakeTable
) -> None:
    row = await audited(world)
    assert row == AuditResult(
        run_id=RUN_ID,
        slot=SLOT,
        trigger=Trigger.SCHEDULE,
        run_timestamp=SLOT,
        iceberg_table=NAME,
        ch_source=SOURCE,
        layer="bronze",
        audit_window_hours=24,
        window_start=WINDOW_START,
        window_end=WINDOW_START + DAY,
        ch_row_count=2_400,
        iceberg_row_count=2_400,
        delta=0,
        delta_pct=Decimal(0),
        status=AuditStatus.OK,
        reason=None,
        notes=row.notes,
        snapshot_id=table.head,
        ch_query=f"SELECT count() FROM {SOURCE}",
        iceberg_query=f"SELECT count(*) FROM {NAME} VERSION AS OF {table.head}",
        ch_final=False,
        watermark=SLOT - 10 * MINUTE,
        proof=Proof.MANIFESTS,
        ch_merges=False,
        source_ttl_s=7 * 86_400,
        watermark_read=True,
        clock_right=True,
    )
    assert world.called("prove_files") == []


BY_FILES = table_policy(audit=audit_policy(proof=Proof.FILES))


async def test_files_are_proven_between_the_two_counts_and_at_the_snapshot_that_is_counted(
    world: World, table: FakeTable
) -> None:
    proven = table.head

    def offload() -> None:
        table.append(world.clock())

    world.lakehouse.script("count", NAME, Step(first=offload))
    row = await audited(world, BY_FILES)
    assert (row.status, row.proof, row.snapshot_id) == (AuditStatus.OK, Proof.FILES, proven)
    assert row.notes == "equal"
    methods = ["source.count", "prove_files", "count"]
    assert world.methods(*methods) == methods


async def test_a_bad_file_is_an_error_without_a_retry_that_keeps_clickhouses_count(
    world: World, table: FakeTable
) -> None:
    table.bad_files = (BadFile("s3://w/t/a.parquet", "day=17", "data", FileFault.MISSING, 100, 1000),)
    end = await run_task(Stage.AUDIT, BY_FILES, world.context())
    assert end.audit is not None
    assert (ended(end), end.result.attempts) == ((TaskOutcome.FAILED, Reason.FILE_MISSING), 1)
    assert (end.audit.status, end.audit.reason, end.audit.proof) == (
        AuditStatus.ERROR, Reason.FILE_MISSING, Proof.FILES,
    )  # fmt: skip
    assert (end.audit.ch_row_count, end.audit.iceberg_row_count, end.audit.delta) == (2_400, None, None)
    assert (end.audit.snapshot_id, end.audit.iceberg_query) == (table.head, None)
    assert "s3://w/t/a.parquet (missing, 100 rows)" in str(end.result.error)
    assert world.methods("count", "count_by_minute") == []
    (found,) = end.audit.findings
    assert (found.kind, found.rows, found.clickhouse) == (FindingKind.FILE, 100, 2_400)


async def test_files_that_are_proven_by_their_length_only_are_said_beside_the_verdict(
    world: World, table: FakeTable
) -> None:
    table.by_length = {"avro": 3}
    row = await audited(world, BY_FILES)
    assert (row.status, row.proof) == (AuditStatus.OK, Proof.LENGTHS)
    assert row.notes.startswith("equal; of 3 of ")


BY_ROWS = table_policy(audit=audit_policy(proof=Proof.ROWS))


async def test_rows_are_read_after_the_files_are_proven_and_are_the_proof_whatever_their_format(
    world: World, table: FakeTable
) -> None:
    table.by_length = {"avro": 3}
    row = await audited(world, BY_ROWS)
    assert (row.status, row.proof, row.notes) == (AuditStatus.OK, Proof.ROWS, "equal")
    assert row.iceberg_query == f"SELECT count(*), every value FROM {NAME} VERSION AS OF {table.head}"
    assert world.methods("prove_files", "count") == ["prove_files", "count"]


@pytest.mark.parametrize("reason", [Reason.FILE_MISSING, Reason.FILE_CORRUPT])
async def test_a_file_that_a_count_can_not_read_is_an_error_that_keeps_clickhouses_count(
    world: World, table: FakeTable, reason: Reason
) -> None:
    world.lakehouse.script("count", NAME, fails(permanent(reason, "a page of a.parquet")))
    row = await audited(world, BY_ROWS)
    assert (row.status, row.reason, row.proof) == (AuditStatus.ERROR, reason, Proof.ROWS)
    assert (row.ch_row_count, row.iceberg_row_count, row.bad_file_rows, row.bad_files) == (2_400, None, 0, ())
    assert "a page of a.parquet" in row.notes


async def test_an_audit_keeps_the_first_of_many_bad_files_and_the_rows_of_all(world: World, table: FakeTable) -> None:
    many = [BadFile(f"{n}.parquet", "day=17", "data", FileFault.MISSING, 100, 1000) for n in range(101)]
    table.bad_files = tuple(many)
    row = await audited(world, BY_FILES)
    assert (row.bad_files, row.bad_file_rows) == (tuple(many[:MOST_BAD_FILES]), 10_100)


async def test_files_that_can_not_be_looked_at_leave_no_count(world: World, table: FakeTable) -> None:
    world.lakehouse.script("prove_files", NAME, fails(permanent(Reason.ACCESS_DENIED)))
    row = await audited(world, BY_FILES)
    assert (row.status, row.reason, row.proof) == (AuditStatus.ERROR, Reason.ACCESS_DENIED, None)
    assert (row.ch_row_count, row.iceberg_row_count) == (None, None)


async def test_a_tables_first_snapshot_that_comes_after_the_proof_is_not_called_proven(
    world: World, table: FakeTable
) -> None:
    world.lakehouse.tables[NAME] = empty = FakeTable(hours=table.hours)

    def offload() -> None:
        empty.append(world.clock())

    world.lakehouse.script("count", NAME, Step(first=offload))
    row = await audited(world, BY_FILES)
    assert (row.status, row.proof, row.snapshot_id) == (AuditStatus.OK, Proof.MANIFESTS, empty.head)


async def test_clickhouse_is_counted_before_iceberg(world: World, table: FakeTable) -> None:
    await audited(world)
    assert world.methods("source.count", "count") == ["source.count", "count"]


async def test_an_audit_has_one_row_per_task_and_no_health(world: World, table: FakeTable) -> None:
    end = await run_task(Stage.AUDIT, POLICY, world.context())
    assert ended(end) == (TaskOutcome.DONE, None)
    assert (end.result.before, end.result.after) == (None, None)
    assert end.result.note.startswith("ok: ")


async def test_an_audit_of_some_hours_counts_those(world: World, table: FakeTable) -> None:
    end = await run_task(Stage.AUDIT, POLICY, world.context(window=window_of(SLOT, 6)))
    assert end.audit is not None
    assert (end.audit.audit_window_hours, end.audit.window_end) == (6, SLOT)
    assert end.audit.ch_row_count == 400  # of 20:00 to 02:00 the day has four hours


@pytest.mark.parametrize("final", [True, False])
async def test_final_can_be_set_and_is_in_the_row(world: World, table: FakeTable, final: bool) -> None:
    assert (await audited(world, table_policy(audit=audit_policy(final=final)))).ch_final is final


async def test_whether_final_is_used_is_else_left_to_the_engine(world: World, table: FakeTable) -> None:
    world.source.merging.add(SOURCE)
    assert (await audited(world)).ch_final is True


@pytest.mark.parametrize("merges", [False, True])
async def test_more_rows_in_iceberg_are_ok_and_found_where_the_source_does_not_merge_rows(
    world: World, table: FakeTable, merges: bool
) -> None:
    if merges:
        world.source.merging.add(SOURCE)
    table.hours[WINDOW_START] += 700
    row = await audited(world)
    assert (row.status, row.delta) == (AuditStatus.OK, 700)
    assert "700" in row.notes
    assert [(one.kind, one.rows) for one in row.findings] == ([] if merges else [(FindingKind.DUPLICATE, 700)])
    assert (world.called("count_by_minute") == []) == merges


async def test_a_table_that_has_no_snapshot_yet_holds_no_rows(world: World) -> None:
    world.add(POLICY)
    world.lakehouse.tables[NAME] = FakeTable()
    row = await audited(world)
    assert (row.status, row.iceberg_row_count, row.snapshot_id) == (AuditStatus.MISSING_DATA, 0, None)
    assert len(row.missing_hours) == 24


async def test_an_expired_source_is_an_error_with_both_counts_in_the_row(world: World, table: FakeTable) -> None:
    world.clock.advance(6 * DAY)
    end = await run_task(Stage.AUDIT, POLICY, world.context())
    assert end.audit is not None
    assert ended(end) == (TaskOutcome.FAILED, Reason.SOURCE_EXPIRED)
    assert (end.audit.status, end.audit.reason) == (AuditStatus.ERROR, Reason.SOURCE_EXPIRED)
    assert (end.audit.ch_row_count, end.audit.iceberg_row_count, end.audit.delta) == (2_400, 2_400, 0)
    assert end.result.error is not None
    assert end.result.attempts == 1


async def test_an_offload_that_is_behind_is_in_reason_and_row(world: World, table: FakeTable) -> None:
    behind = WINDOW_START + 23 * HOUR
    world.offload.states[SOURCE] = OffloadState(behind, "running")
    row = await audited(world)
    assert (row.status, row.reason, row.watermark) == (AuditStatus.OK, Reason.OFFLOAD_BEHIND, behind)


async def test_a_watermark_that_is_the_newest_row_is_not_behind_though_it_lies_before_the_windows_end(
    world: World, table: FakeTable
) -> None:
    world.source.newest_in_hour = timedelta(0)
    start_of_the_newest_candle = WINDOW_START + 23 * HOUR
    world.offload.states[SOURCE] = OffloadState(start_of_the_newest_candle, "success")
    row = await audited(world)
    assert (row.status, row.reason, row.watermark) == (AuditStatus.OK, None, start_of_the_newest_candle)
    assert len(world.called("source.newest")) == 1


async def test_without_the_newest_row_an_audit_goes_on(world: World, table: FakeTable) -> None:
    world.offload.states[SOURCE] = OffloadState(WINDOW_START + 23 * HOUR, "success")
    world.source.script("source.newest", SOURCE, fails(PermanentError("refused", reason=Reason.SOURCE_LIMITED)))
    row = await audited(world)
    assert (row.status, row.reason, row.ch_row_count) == (AuditStatus.OK, None, 2_400)


async def test_the_newest_row_is_asked_for_only_where_the_watermark_lies_before_the_windows_end(
    world: World, table: FakeTable
) -> None:
    await audited(world)
    world.offload.states[SOURCE] = OffloadState(WINDOW_START + 24 * HOUR, "success")
    await audited(world)
    assert world.called("source.newest") == []


@pytest.mark.parametrize(
    ("setting", "own", "reason"),
    [
        ("auto", SourceTtl(DAY, DAY, "ingestion_timestamp"), Reason.SOURCE_EXPIRED),
        ("auto", SourceTtl(7 * DAY, 7 * DAY), None),
        ("auto", None, None),
        ("none", SourceTtl(DAY, DAY), None),
        (7 * DAY, SourceTtl(DAY, DAY), None),
        (DAY, SourceTtl(7 * DAY, 7 * DAY), Reason.SOURCE_EXPIRED),
    ],
)
async def test_the_sources_own_ttl_counts_unless_the_settings_say_another(
    world: World, table: FakeTable, setting: SourceTtlSetting, own: SourceTtl | None, reason: Reason | None
) -> None:
    world.source.ttls[SOURCE] = own
    end = await run_task(Stage.AUDIT, replace(POLICY, source_ttl=setting), world.context())
    assert end.audit is not None
    assert end.audit.reason is reason


async def test_a_row_says_whether_its_source_merges_rows_and_for_how_long_it_keeps_them(
    world: World, table: FakeTable
) -> None:
    world.source.merging.add(SOURCE)
    world.source.ttls[SOURCE] = SourceTtl(30 * DAY, 31 * DAY)
    row = await audited(world, replace(POLICY, source_ttl="auto"))
    assert (row.ch_merges, row.source_ttl_s) == (True, 30 * 86_400)
    row = await audited(world, replace(POLICY, source_ttl=8 * DAY))
    assert row.source_ttl_s == 8 * 86_400
    row = await audited(world, replace(POLICY, source_ttl="none"))
    assert row.source_ttl_s is None


async def test_an_offload_that_does_not_know_the_source_is_fine(world: World, table: FakeTable) -> None:
    world.offload.states.clear()
    row = await audited(world)
    assert (row.status, row.reason, row.watermark) == (AuditStatus.OK, None, None)


async def test_an_offload_that_knows_the_source_and_has_no_watermark_yet_is_not_known_to_be_anywhere(
    world: World, table: FakeTable
) -> None:
    world.offload.states[SOURCE] = OffloadState(None, "initialized")
    row = await audited(world)
    assert (row.watermark, row.watermark_read) == (None, False)


async def test_a_row_says_where_the_clock_of_the_host_was_wrong(world: World, table: FakeTable) -> None:
    world.surroundings.ahead = {"PostgreSQL": -HOUR, "ClickHouse": -HOUR}
    row = await audited(world)
    assert (row.status, row.clock_right) == (AuditStatus.OK, False)


@pytest.mark.parametrize("error", [transient(Reason.LEDGER_DOWN), permanent(Reason.ACCESS_DENIED)])
async def test_an_offload_that_can_not_be_asked_does_not_keep_both_sides_from_being_counted(
    world: World, table: FakeTable, error: IcekeeperError
) -> None:
    world.offload.down = error
    row = await audited(world)
    assert (row.status, row.ch_row_count, row.iceberg_row_count) == (AuditStatus.OK, 2_400, 2_400)
    assert (row.watermark, row.watermark_read) == (None, False)


@pytest.mark.parametrize(("lost", "status"), [(30, AuditStatus.WARNING), (400, AuditStatus.MISSING_DATA)])
async def test_missing_rows_are_drilled_down_to_the_hours_that_lack_them(
    world: World, table: FakeTable, lost: int, status: AuditStatus
) -> None:
    at_three = WINDOW_START + 3 * HOUR
    for source in (world.source.hours[SOURCE], table.hours):
        source[at_three] = 500
    table.hours[at_three] -= lost
    row = await audited(world)
    assert row.status is status
    assert row.missing_hours == (MissingHour(at_three, clickhouse=500, iceberg=500 - lost),)
    assert f"missing 02-17 03:00-03:15: {lost} of 500 rows" in row.notes
    assert any(str(status) in event.note for event in world.emitted(TaskProgressed))


async def test_a_drill_down_counts_at_the_snapshot_and_in_the_way_of_the_verdict(
    world: World, table: FakeTable
) -> None:
    world.source.merging.add(SOURCE)
    del table.hours[WINDOW_START]
    counted = table.head

    def offload() -> None:
        table.append(world.clock())

    world.source.script("source.count_by_minute", SOURCE, Step(first=offload))
    row = await audited(world)
    assert row.snapshot_id == counted
    assert world.lakehouse.counted_at == [counted]
    assert world.source.finals == [True]


async def test_rows_that_are_missing_by_the_minute_are_judged_whatever_more_there_is_elsewhere(
    world: World, table: FakeTable
) -> None:
    table.hours[WINDOW_START] = 0
    table.hours[WINDOW_START + HOUR] += 900
    row = await audited(world)
    assert (row.status, row.delta) == (AuditStatus.WARNING, 800)
    assert "iceberg holds 800 rows more; by the minute it lacks 100 of 2400 rows; " in row.notes
    assert [(one.kind, one.rows) for one in row.findings] == [(FindingKind.MISSING, 100), (FindingKind.DUPLICATE, 900)]
    assert row.missing_hours == (MissingHour(WINDOW_START, 100, 0),)


async def test_rows_that_come_to_clickhouse_since_it_was_counted_are_none_that_are_missing(
    world: World, table: FakeTable
) -> None:
    table.hours[WINDOW_START] += 1

    def late() -> None:
        world.source.hours[SOURCE][WINDOW_START + HOUR] += 500

    world.source.script("source.count_by_minute", SOURCE, Step(first=late))
    row = await audited(world)
    assert (row.status, row.delta) == (AuditStatus.OK, 1)
    assert "written to since it was counted" in row.notes
    assert [(one.kind, one.rows, one.end - one.start) for one in row.findings] == [(FindingKind.EXTRA, 1, DAY)]


async def test_a_file_that_the_drill_down_cannot_read_is_an_error_as_if_it_had_been_counted(
    world: World, table: FakeTable
) -> None:
    table.hours[WINDOW_START] = 0
    world.lakehouse.script("count_by_minute", NAME, fails(permanent(Reason.FILE_CORRUPT)))
    end = await run_task(Stage.AUDIT, POLICY, world.context())
    assert end.audit is not None
    assert (end.audit.status, end.audit.reason, end.audit.bad_file_rows) == (AuditStatus.ERROR, Reason.FILE_CORRUPT, 0)
    assert (end.audit.ch_row_count, end.audit.iceberg_row_count) == (2_400, None)
    assert [one.kind for one in end.audit.findings] == [FindingKind.FILE]


@pytest.mark.parametrize("side", ["source.count_by_minute", "count_by_minute"])
@pytest.mark.parametrize("error", [transient(Reason.SOURCE_DOWN), permanent(Reason.ACCESS_DENIED)])
async def test_a_drill_down_that_fails_leaves_the_verdict_and_says_so(
    world: World, table: FakeTable, side: str, error: IcekeeperError
) -> None:
    table.hours[WINDOW_START] = 0
    world.lakehouse.script(side, NAME, fails(error))
    world.source.script(side, SOURCE, fails(error))
    end = await run_task(Stage.AUDIT, POLICY, world.context())
    assert end.audit is not None
    assert (end.result.outcome, end.result.attempts) == (TaskOutcome.DONE, 1)
    assert (end.audit.status, end.audit.delta, end.audit.missing_hours) == (AuditStatus.WARNING, -100, ())
    assert "could not be counted" in end.audit.notes
    assert world.clock.slept == []


@pytest.mark.parametrize("side", ["source.count_by_minute", "count_by_minute"])
async def test_of_an_event_time_that_is_a_date_the_whole_day_is_the_finding(
    world: World, table: FakeTable, side: str
) -> None:
    table.hours[WINDOW_START] = 0
    a_date = PermanentError("the event time day is Date, which knows no minutes", reason=Reason.SOURCE_TYPE)
    world.lakehouse.script(side, NAME, fails(a_date))
    world.source.script(side, SOURCE, fails(a_date))
    with capture_logs() as logged:
        row = await audited(world)
    assert [(one.kind, one.rows, one.start, one.end) for one in row.findings] == [
        (FindingKind.MISSING, 100, WINDOW_START, WINDOW_START + timedelta(days=1))
    ]
    assert row.missing_hours == ()
    assert "there are no hours to tell apart" in row.notes
    assert "could not be counted" not in row.notes
    assert "drill_down_failed" not in {line["event"] for line in logged}


@pytest.mark.parametrize("side", ["source.count_by_minute", "count_by_minute"])
@pytest.mark.parametrize("fails_again", [False, True])
async def test_of_an_event_time_that_is_a_date_each_day_of_a_longer_window_is_a_finding(
    world: World, table: FakeTable, side: str, fails_again: bool
) -> None:
    day, two_days = timedelta(days=1), Window(WINDOW_START - timedelta(days=1), WINDOW_START + timedelta(days=1))
    # As both sides count dates: all at midnight.
    table.hours = {two_days.start: 100, WINDOW_START: 90}
    world.source.hours[SOURCE] = {two_days.start: 100, WINDOW_START: 100}
    a_date = fails(PermanentError("the event time day is Date, which knows no minutes", reason=Reason.SOURCE_TYPE))
    down = fails(transient(Reason.SOURCE_DOWN))
    world.lakehouse.script(side, NAME, a_date, *([down] if fails_again else []))
    world.source.script(side, SOURCE, a_date, *([down] if fails_again else []))
    end = await run_task(Stage.AUDIT, POLICY, world.context(window=two_days))
    assert end.audit is not None
    lost = (two_days.start, 10, two_days.end) if fails_again else (WINDOW_START, 10, WINDOW_START + day)
    assert [(one.start, one.rows, one.end) for one in end.audit.findings] == [lost]
    assert end.audit.missing_hours == ()
    assert ("there are no hours to tell apart" in end.audit.notes) != fails_again
    # A side that was counted is not counted again.
    if side == "count_by_minute":
        assert len(world.called("source.count_by_minute")) == 1


async def test_a_drill_down_that_no_time_is_left_for_leaves_the_verdict(world: World, table: FakeTable) -> None:
    table.hours[WINDOW_START] = 0
    world.lakehouse.script("count", NAME, Step(takes=10 * MINUTE))
    row = await audited(world)
    assert (row.status, row.missing_hours) == (AuditStatus.WARNING, ())
    assert world.called("source.count_by_minute") == []


@pytest.mark.parametrize("side", ["clickhouse", "iceberg"])
@pytest.mark.parametrize(
    "error",
    [
        permanent(Reason.SOURCE_TABLE_NOT_FOUND, "no such column"),
        permanent(Reason.ACCESS_DENIED, "who are you?"),
        ValueError("a bug"),
    ],
)
async def test_a_side_that_can_not_be_counted_is_an_error_row_without_any_count(
    world: World, table: FakeTable, side: str, error: Exception
) -> None:
    if side == "clickhouse":
        world.source.script("source.count", SOURCE, fails(error))
    else:
        world.lakehouse.script("count", NAME, fails(error))
    row = await audited(world)
    assert row.status is AuditStatus.ERROR
    assert (row.ch_row_count, row.iceberg_row_count, row.delta, row.delta_pct) == (None, None, None, None)
    assert row.reason is not None
    assert row.reason in row.notes
    assert str(error) in row.notes
    assert (row.window_start, row.window_end) == (WINDOW_START, WINDOW_START + DAY)


async def test_an_audit_that_succeeds_at_its_second_attempt_has_the_second_ones_counts(
    world: World, table: FakeTable
) -> None:
    def a_late_row() -> None:
        world.source.hours[SOURCE][WINDOW_START] += 1
        table.hours[WINDOW_START] += 1

    world.source.script("source.count", SOURCE, replace(fails(transient(Reason.SOURCE_DOWN)), first=a_late_row))
    row = await audited(world)
    assert (row.status, row.ch_row_count, row.iceberg_row_count) == (AuditStatus.OK, 2_401, 2_401)
    assert row.run_timestamp == SLOT + 2 * MINUTE


# --- plans


async def test_a_plan_says_what_each_stage_would_do_and_changes_and_counts_nothing(
    world: World, table: FakeTable
) -> None:
    before = health(table)
    plans = [await make_plan(stage, POLICY, world.context()) for stage in NIGHT]
    assert [plan.stage for plan in plans] == list(NIGHT)
    assert [plan.decision for plan in plans] == [Decision.ACT] * 3
    assert plans[1].snapshot_ids == (1, 2, 3, 4)
    assert plans[2].window is not None
    assert health(table) == before
    assert set(world.methods()) == {"inspect", "file_groups", "open_windows"}


async def test_a_plan_of_a_table_that_is_not_there_says_so(world: World) -> None:
    with pytest.raises(PermanentError, match=NAME) as caught:
        await make_plan(Stage.COMPACT, POLICY, world.context())
    assert caught.value.reason is Reason.TABLE_NOT_FOUND
