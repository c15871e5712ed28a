"""Plans: what would be compacted and in which slices, which snapshots would go, and why nothing would be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import chain as flatten
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icekeeper.core.calendar import window_of
from icekeeper.core.enums import Decision, Stage
from icekeeper.core.policy import ExpirePolicy, Strategy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.expiry import expired_snapshots, plan_expiry
from icekeeper.core.tables.plan import Plan, Rewrite, Slice
from icekeeper.core.tables.planning import (
    COPY_MIN_SIZE,
    SLICE_MAX_BYTES,
    SLICE_MAX_FILES,
    SPREAD_MAX_SIZE,
    SPREAD_MIN_FILES,
    large_file_limit,
    may_interest_planner,
    plan_audit,
    plan_compaction,
    small_file_limit,
    taken_groups,
)
from icekeeper.core.tables.state import FileGroup, Ref, SmallFiles, Snapshot, TableState
from icekeeper.settings.values.heap import ordered, writers
from tests.unit.builders import (
    DAY,
    EXPIRE_LIMITS,
    HOUR,
    MIB,
    SLOT,
    WINDOW_START,
    chain,
    health,
    main_at,
    snapshot,
    state,
    table_policy,
)

POLICY = table_policy()
CUTOFF = SLOT - 7 * DAY

# --- compaction: nothing to do


def table(data_files: int, small_files: int) -> TableState:
    return replace(state([], []), health=health(data_files, small_files))


@pytest.mark.parametrize(
    ("data_files", "small_files", "reason"),
    [
        (0, 0, Reason.NOTHING_SMALL),
        (12, 0, Reason.NOTHING_SMALL),
        (12, 1, Reason.TOO_FEW_FILES),
        (4, 4, Reason.TOO_FEW_FILES),
    ],
)
def test_a_table_in_which_the_planner_groups_nothing_is_skipped_with_its_reason(
    data_files: int, small_files: int, reason: Reason
) -> None:
    plan = plan_compaction(POLICY, table(data_files, small_files), [])
    assert (plan.stage, plan.table, plan.decision) == (Stage.COMPACT, POLICY.name, Decision.SKIP)
    assert plan.reason is reason
    assert plan.slices == ()
    assert plan.note
    assert plan.health == health(data_files, small_files)


def test_the_limits_of_size_are_icebergs_shares_of_the_target() -> None:
    assert small_file_limit(128 * MIB) == 96 * MIB
    assert large_file_limit(1_000) == 1_800


@pytest.mark.parametrize(
    ("partitions", "asked"),
    [
        ((), False),
        (((1, 90 * MIB),), False),
        (((4, 4 * MIB),) * 100, False),
        (((2, 128 * MIB),), False),
        (((1, 1), (2, 128 * MIB + 1)), True),
        (((1, 1), (5, 5 * MIB)), True),
    ],
)
def test_the_planner_is_asked_where_a_partition_has_enough_small_files_or_enough_in_them(
    partitions: tuple[tuple[int, int], ...], asked: bool
) -> None:
    seen = replace(table(500, 400), small_files=tuple(SmallFiles(*part) for part in partitions))
    assert may_interest_planner(seen, POLICY.compact) is asked


def test_one_small_file_is_never_grouped_however_few_are_enough() -> None:
    one = replace(table(1, 1), small_files=(SmallFiles(1, MIB),))
    assert not may_interest_planner(one, replace(POLICY.compact, min_input_files=1))


@pytest.mark.parametrize(
    "change", [{"large_files": 1}, {"deletes_unknown": True}, {"health": replace(health(), delete_files=1)}]
)
def test_the_planner_is_asked_for_large_files_and_for_deletes_alone(change: dict[str, Any]) -> None:
    assert may_interest_planner(replace(table(1, 0), **change), POLICY.compact)


# --- compaction: slices


def groups_of(*parts: tuple[str, int, int]) -> list[FileGroup]:
    return [FileGroup(partition, files, size, output_files=1) for partition, files, size in parts]


# All groups are rewritten in the same way, so that only the bounds of a slice part them.
ONE_WAY = replace(POLICY, compact=replace(POLICY.compact, strategy="binpack"))


def slices(groups: Sequence[FileGroup], policy: TablePolicy = ONE_WAY) -> tuple[Slice, ...]:
    plan = plan_compaction(policy, table(100, 100), groups)
    assert (plan.decision, plan.reason) == (Decision.ACT, None)
    return plan.slices


def test_a_small_backlog_is_one_slice_over_the_whole_table() -> None:
    parts = slices(groups_of(("day=2026-02-17", 2_880, 40 * MIB), ("day=2026-02-16", 10, MIB)))
    assert parts == (Slice((), files=2_890, bytes=41 * MIB, output_files=2, planned_at=1, spec_id=0),)


def test_the_note_of_a_plan_says_how_much_is_rewritten_into_how_many_files() -> None:
    note = plan_compaction(POLICY, table(100, 100), groups_of(("a", 40, 3 * MIB), ("b", 2, MIB))).note
    for word in ("42 files", "4.0 MiB", "2 partitions", "into 2"):
        assert word in note


def test_exactly_as_much_as_a_slice_may_hold_is_still_one_slice() -> None:
    half_files, half_bytes = SLICE_MAX_FILES // 2, SLICE_MAX_BYTES // 2
    assert len(slices(groups_of(("a", half_files, half_bytes), ("b", half_files, half_bytes)))) == 1


@pytest.mark.parametrize(("more_files", "more_bytes"), [(1, 0), (0, 1)])
def test_one_file_or_one_byte_more_than_a_slice_may_hold_makes_two(more_files: int, more_bytes: int) -> None:
    half_files, half_bytes = SLICE_MAX_FILES // 2, SLICE_MAX_BYTES // 2
    parts = slices(groups_of(("a", half_files, half_bytes), ("b", half_files + more_files, half_bytes + more_bytes)))
    assert [part.partitions for part in parts] == [("a",), ("b",)]


def test_a_big_backlog_is_cut_by_partition_oldest_first() -> None:
    days = [f"day=2026-02-{day:02}" for day in range(1, 11)]
    groups = groups_of(*((day, 2_000, 60 * MIB) for day in reversed(days)))
    parts = slices(groups)
    assert [part.partitions for part in parts] == [tuple(days[n : n + 2]) for n in range(0, 10, 2)]
    assert all(part.files == 4_000 for part in parts)
    assert "5 slices" in plan_compaction(POLICY, table(100, 100), groups).note


def test_a_partition_that_is_too_big_for_a_slice_is_cut_by_number_of_files() -> None:
    nearly = SLICE_MAX_FILES - 500
    parts = slices(groups_of(("", 5 * nearly, 100 * MIB)))
    assert [(part.partitions, part.files, part.max_files) for part in parts] == [((), nearly, nearly)] * 5
    assert [part.output_files for part in parts] == [1] * 5
    third = SLICE_MAX_FILES - 1
    parts = slices(groups_of(("a", 10, MIB), ("b", 3 * third - 1, MIB), ("c", 10, MIB)))
    assert [(part.partitions, part.files) for part in parts] == [
        (("a",), 10), (("b",), third), (("b",), third), (("b",), third - 1), (("c",), 10),
    ]  # fmt: skip


def test_a_partition_of_too_many_bytes_is_cut_into_pieces_of_the_size_of_a_slice() -> None:
    parts = slices(groups_of(("", 90, 3 * SLICE_MAX_BYTES)))
    assert [(part.files, part.bytes, part.max_files) for part in parts] == [(30, SLICE_MAX_BYTES, 30)] * 3


def test_a_group_that_a_rewrite_would_leave_as_it_is_stays_alone_and_the_others_are_named() -> None:
    pointless = replace(groups_of(("old", 6, 6 * 90 * MIB))[0], gains=False)
    parts = slices([pointless, *groups_of(("new", 6, MIB))])
    assert [(part.partitions, part.files) for part in parts] == [(("new",), 6)]
    plan = plan_compaction(POLICY, table(6, 6), [pointless])
    assert (plan.decision, plan.reason) == (Decision.SKIP, Reason.TOO_FEW_FILES)
    parts = slices([pointless, *groups_of(("new", 2 * SLICE_MAX_FILES, MIB))])
    assert [(part.partitions, part.max_files) for part in parts] == [(("new",), SLICE_MAX_FILES)] * 2


def test_a_rewrite_takes_all_groups_of_a_partition_and_with_files_of_an_older_spec_all_of_the_table() -> None:
    pointless = [FileGroup(partition, 5, MIB, 5, gains=False) for partition in ("a", "b")]
    worth = FileGroup("a", 5, MIB, 1)
    assert taken_groups([*pointless, worth]) == [pointless[0], worth]
    older = [*pointless, FileGroup("", 5, MIB, 1, older_spec=True)]
    assert taken_groups(older) == older
    assert taken_groups(pointless) == []


def test_a_plan_knows_the_snapshot_that_each_of_its_slices_is_of() -> None:
    seen = replace(table(100, 100), health=health(100, 100, snapshot_id=7))
    days = [FileGroup(f"day={day}", SLICE_MAX_FILES, MIB, 1) for day in range(3)]
    assert [part.planned_at for part in plan_compaction(POLICY, seen, days).slices] == [7, 7, 7]


def test_of_many_partitions_that_are_left_out_a_note_names_some() -> None:
    left_out = {f"day={day:04}": f"a rewrite would change {day}.parquet" for day in range(1_000)}
    groups = groups_of(("z", 10, MIB), *((day, 10, MIB) for day in left_out))
    note = plan_compaction(POLICY, table(100, 100), groups, left_out=left_out).note
    assert "; not day=0000, where a rewrite would change 0.parquet;" in note
    assert note.endswith("; and not 997 partitions more")
    assert len(note) < 400


def test_however_small_the_pieces_they_have_two_files_at_least() -> None:
    parts = slices(groups_of(("", 5, 40 * SLICE_MAX_BYTES)))
    assert [part.files for part in parts] == [2, 2, 1]
    assert all(part.may_grow for part in parts)


def test_one_enormous_file_is_a_slice_of_its_own() -> None:
    (part,) = slices(groups_of(("", 1, 3 * SLICE_MAX_BYTES)))
    assert part.max_files is None


def test_files_of_an_older_spec_are_cut_by_number_over_the_whole_table() -> None:
    most = SLICE_MAX_FILES
    groups = [*groups_of(("a", most + most // 2, MIB)), FileGroup("", most // 2, MIB, output_files=1, older_spec=True)]
    parts = slices(groups)
    assert [(part.partitions, part.files, part.may_grow) for part in parts] == [((), most, True)] * 2


def test_groups_of_one_partition_are_never_parted() -> None:
    parts = slices(groups_of(("b", 1_500, MIB), ("a", 3_000, MIB), ("b", 3_000, MIB), ("a", 1, MIB)))
    assert [(part.partitions, part.files, part.output_files) for part in parts] == [
        (("a",), 3_001, 2),
        (("b",), 4_500, 2),
    ]


file_groups = st.builds(
    FileGroup,
    partition=st.integers(1, 28).map(lambda day: f"day=2026-02-{day:02}"),
    files=st.integers(1, SLICE_MAX_FILES + 2_000),
    bytes=st.integers(1, SLICE_MAX_BYTES + 2**30),
    output_files=st.integers(1, 40),
)


@given(st.lists(file_groups, min_size=1, max_size=30))
def test_slices_hold_every_partition_in_order_and_stay_within_bounds(groups: list[FileGroup]) -> None:
    parts = slices(groups)
    assert sum(part.files for part in parts) == sum(group.files for group in groups)
    if len({part.partitions for part in parts}) > 1:
        named = list(dict.fromkeys(flatten.from_iterable(part.partitions for part in parts)))
        assert named == sorted({group.partition for group in groups})
    else:
        assert parts[0].partitions == () or len(parts[0].partitions) == 1
    for part in parts:
        assert part.files <= SLICE_MAX_FILES
        assert part.bytes <= SLICE_MAX_BYTES or part.files <= 2
        assert part.max_files is None or part.files <= part.max_files


@given(st.lists(file_groups, min_size=1, max_size=30))
def test_by_the_default_too_slices_hold_every_partition_once_in_one_way_and_stay_within_bounds(
    groups: list[FileGroup],
) -> None:
    parts = slices(groups, POLICY)
    assert sum(part.files for part in parts) == sum(group.files for group in groups)
    ways: dict[str, set[Rewrite]] = {}
    for part in parts:
        for partition in part.partitions:
            ways.setdefault(partition, set()).add(part.how)
        assert part.files <= SLICE_MAX_FILES
        assert part.bytes <= SLICE_MAX_BYTES or part.files <= 2
    assert set(ways) <= {group.partition for group in groups}
    assert all(len(of_partition) == 1 for of_partition in ways.values())


@given(st.lists(file_groups, min_size=1, max_size=30))
def test_no_two_neighbouring_slices_would_have_fitted_into_one(groups: list[FileGroup]) -> None:
    parts = slices(groups)
    for left, right in pairwise(parts):
        if left.max_files is not None or right.max_files is not None:
            continue  # pieces of one partition
        begun = [g for g in groups if g.partition == right.partitions[0]]
        files = left.files + sum(group.files for group in begun)
        size = left.bytes + sum(group.bytes for group in begun)
        assert files > SLICE_MAX_FILES or size > SLICE_MAX_BYTES


# --- compaction: strategies


def auto(groups: Sequence[FileGroup], **more: int | None) -> list[tuple[Rewrite, tuple[str, ...]]]:
    policy = replace(POLICY, compact=replace(POLICY.compact, **more))  # type: ignore[arg-type]
    return [(part.how, part.partitions) for part in plan_compaction(policy, table(100, 100), groups).slices]


def test_binpack_and_sort_hold_for_every_slice() -> None:
    groups = [FileGroup("a", 960, 15 * MIB, 1), FileGroup("b", 60, 390 * MIB, 4)]
    for strategy, how in (("binpack", Rewrite.BINPACK), ("sort", Rewrite.SORT)):
        policy = replace(POLICY, compact=replace(POLICY.compact, strategy=strategy))  # type: ignore[arg-type]
        assert {part.how for part in plan_compaction(policy, table(100, 100), groups).slices} == {how}


def test_many_small_files_that_become_one_are_read_by_many_tasks() -> None:
    assert auto([FileGroup("a", 960, 15 * MIB, 1)]) == [(Rewrite.SPREAD, ())]
    assert auto([FileGroup("a", SPREAD_MIN_FILES, MIB, 1)]) == [(Rewrite.SPREAD, ())]


def test_rows_that_would_not_fit_into_the_memory_of_one_task_are_read_by_one() -> None:
    day = FileGroup("a", 960, 50 * MIB, 1)
    assert auto([day], spread_max=50 * MIB) == [(Rewrite.SPREAD, ())]
    assert auto([day], spread_max=50 * MIB - 1) == [(Rewrite.BINPACK, ())]


@pytest.mark.parametrize(
    ("largest", "at_once"), [(100, 1), (51, 1), (50, 2), (33, 3), (20, 5), (1, 5)], ids=lambda number: str(number)
)
def test_as_many_groups_are_read_by_many_tasks_at_a_time_as_fit_into_memory_together(
    largest: int, at_once: int
) -> None:
    days = [FileGroup(day, 960, size * MIB, 1) for day, size in (("a", 1), ("b", largest), ("c", 1))]
    policy = replace(POLICY, compact=replace(POLICY.compact, spread_max=100 * MIB))
    (part,) = plan_compaction(policy, table(100, 100), days).slices
    assert (part.how, part.at_once) == (Rewrite.SPREAD, at_once)
    (part,) = plan_compaction(ONE_WAY, table(100, 100), days).slices
    assert part.at_once is None


def test_a_large_partition_does_not_slow_down_the_slices_without_it() -> None:
    days = [FileGroup(f"{day:02}", 960, (100 if day == 59 else 14) * MIB, 1) for day in range(60)]
    policy = replace(POLICY, compact=replace(POLICY.compact, spread_max=100 * MIB))
    parts = plan_compaction(policy, table(100, 100), days).slices
    assert [part.at_once for part in parts] == [5] * 11 + [1]


@pytest.mark.parametrize(
    "group",
    [
        FileGroup("a", 3_800, 300 * MIB, 3),
        FileGroup("a", SPREAD_MIN_FILES - 1, MIB, 1),
        FileGroup("a", 960, 15 * MIB, 1, older_spec=True),
    ],
    ids=["several outputs", "few files", "an older spec"],
)
def test_else_a_file_is_read_after_the_other(group: FileGroup) -> None:
    assert [how for how, _ in auto([group])] == [Rewrite.BINPACK]


LARGE = FileGroup("b", 60, 390 * MIB, 4)


@pytest.mark.parametrize(
    ("group", "copy_max", "how"),
    [
        (FileGroup("a", 20, 20 * SPREAD_MAX_SIZE + 1, 1), None, Rewrite.COPY),
        (LARGE, None, Rewrite.COPY),
        (LARGE, LARGE.bytes, Rewrite.COPY),
        (LARGE, LARGE.bytes - 1, Rewrite.BINPACK),
        (LARGE, 0, Rewrite.BINPACK),
        (FileGroup("a", 6, 6 * COPY_MIN_SIZE, 1), None, Rewrite.COPY),
        (FileGroup("a", 6, 6 * COPY_MIN_SIZE - 1, 1), None, Rewrite.BINPACK),
        (replace(LARGE, older_spec=True), None, Rewrite.BINPACK),
    ],
    ids=["large files", "several outputs", "as much as may be", "more than that", "none may be", "just large enough",
         "a little smaller", "an older spec"],
)  # fmt: skip
def test_row_groups_of_large_files_are_copied(group: FileGroup, copy_max: int | None, how: Rewrite) -> None:
    assert [way for way, _ in auto([group], copy_max=copy_max)] == [how]


def test_partitions_of_few_files_go_with_those_of_many_in_one_commit() -> None:
    few = FileGroup("b", SPREAD_MIN_FILES - 1, MIB, 1)
    assert auto([few]) == [(Rewrite.BINPACK, ())]
    assert auto([few, FileGroup("a", 960, 15 * MIB, 1)]) == [(Rewrite.SPREAD, ())]
    assert auto([FileGroup("a", 960, 15 * MIB, 1, older_spec=True), few]) == [(Rewrite.BINPACK, ())]


def test_partitions_of_every_kind_are_named_in_slices_of_their_own() -> None:
    small = FileGroup("a", 960, 15 * MIB, 1)
    mixed = [FileGroup("c", 960, 15 * MIB, 1), FileGroup("c", 60, 390 * MIB, 4)]
    ways = [(Rewrite.SPREAD, ("a",)), (Rewrite.COPY, ("b",)), (Rewrite.BINPACK, ("c",))]
    assert auto([small, LARGE, *mixed]) == ways


def test_files_of_an_older_spec_keep_the_partitions_of_a_table_from_being_distinguished() -> None:
    groups = [FileGroup("a", 960, 15 * MIB, 1), FileGroup("b", 60, MIB, 1, older_spec=True)]
    assert auto(groups) == [(Rewrite.BINPACK, ())]


@pytest.mark.parametrize(
    ("outputs", "max_writers", "at_once"), [(3, None, None), (3, 8, 2), (1, 8, 5), (1, 4, 4), (8, 8, 1), (5, 8, 1)]
)
@pytest.mark.parametrize("strategy", ["auto", "binpack", "sort"])
def test_no_more_files_are_written_at_once_than_memory_is_for_in_one_slice(
    strategy: Strategy, outputs: int, max_writers: int | None, at_once: int | None
) -> None:
    days = [FileGroup(day, 60, 390 * MIB, 1 if day == "d" else outputs) for day in "abcd"]
    policy = replace(POLICY, compact=replace(POLICY.compact, strategy=strategy, max_writers=max_writers))
    (part,) = plan_compaction(policy, table(100, 100), days).slices
    assert (part.output_files, part.at_once) == (3 * outputs + 1, at_once)


@pytest.mark.parametrize("heap", [512, 1024, 2048])
def test_a_week_of_hours_is_one_slice_whatever_the_heap(heap: int) -> None:
    hours = [FileGroup(f"{hour:03}", 8, 4 * MIB, 1) for hour in range(168)]
    policy = replace(POLICY, compact=replace(POLICY.compact, max_writers=writers(heap), spread_max=ordered(heap)))
    (part,) = plan_compaction(policy, table(100, 100), hours).slices
    assert part.at_once == min(5, writers(heap))


def test_a_partition_of_which_more_files_would_be_written_at_once_is_cut() -> None:
    policy = replace(POLICY, compact=replace(POLICY.compact, max_writers=8))
    groups = [FileGroup("a", 300, 2_560 * MIB, 20), FileGroup("b", 300, 390 * MIB, 3), FileGroup("c", 300, MIB, 1)]
    parts = plan_compaction(policy, table(100, 100), groups).slices
    found = [(part.partitions, part.files, part.output_files, part.max_files, part.at_once) for part in parts]
    assert found == [*[(("a",), 100, 7, 100, 1)] * 3, (("b",), 300, 3, None, 2), (("c",), 300, 1, None, 5)]


# --- expiry


def expiry(
    table_state: TableState, *, slot: datetime = SLOT, now: datetime = SLOT, retain_last: int = 3, days: int = 7
) -> Plan:
    policy = table_policy(expire=ExpirePolicy(EXPIRE_LIMITS, older_than=days * DAY, retain_last=retain_last))
    return plan_expiry(policy, table_state, slot, now)


def ages(*days: float) -> list[timedelta]:
    return [timedelta(days=age) for age in days]


def test_snapshots_older_than_the_age_go_and_the_plan_names_them_oldest_first() -> None:
    plan = expiry(state(chain(ages(10, 9, 8, 3, 2, 1)), [main_at(6)]))
    assert (plan.stage, plan.decision, plan.reason) == (Stage.EXPIRE, Decision.ACT, None)
    assert plan.snapshot_ids == (1, 2, 3)
    assert "3 of 6" in plan.note
    assert "2026-02-11T02:00Z" in plan.note


def test_a_snapshot_exactly_as_old_as_the_age_stays() -> None:
    almost = timedelta(microseconds=1)
    history = chain([7 * DAY + almost, 7 * DAY, 7 * DAY - almost, *ages(3, 2, 1)])
    assert expiry(state(history, [main_at(6)])).snapshot_ids == (1,)


def test_the_last_ones_stay_whatever_their_age() -> None:
    old = chain(ages(30, 29, 28, 27, 26))
    assert expiry(state(old, [main_at(5)]), retain_last=3).snapshot_ids == (1, 2)
    assert expiry(state(old, [main_at(5)]), retain_last=1).snapshot_ids == (1, 2, 3, 4)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_table_with_no_more_snapshots_than_must_stay_is_skipped(count: int) -> None:
    plan = expiry(state(chain(ages(*range(30, 30 - count, -1))), [main_at(count)] if count else []))
    assert (plan.decision, plan.reason, plan.snapshot_ids) == (Decision.SKIP, Reason.NOTHING_EXPIRED, ())
    assert plan.health is not None


def test_a_slot_caught_up_late_reaches_no_further_than_its_own_night() -> None:
    history = chain(ages(8, 6, 5, 4, 3, 2))
    assert expiry(state(history, [main_at(6)]), now=SLOT + 3 * DAY).snapshot_ids == (1,)


def test_a_slot_ahead_of_the_clock_reaches_no_further_than_the_clock() -> None:
    history = chain(ages(8, 6, 5, 4, 3, 2))
    assert expiry(state(history, [main_at(6)]), slot=SLOT + 3 * DAY, now=SLOT).snapshot_ids == (1,)


def test_a_tag_keeps_its_snapshot_and_no_other() -> None:
    history = chain(ages(12, 11, 10, 3, 2, 1))
    assert expiry(state(history, [main_at(6), Ref("eoy", "tag", 2)])).snapshot_ids == (1, 3)


def test_a_branch_keeps_its_last_ones_like_main() -> None:
    # 1 - 2 - 3 - 7 - 8 - 9 (main); 3 - 4 - 5 - 6 (the branch)
    history = [*chain(ages(20, 19, 18)), *chain(ages(17, 16, 15), 4, 3), *chain(ages(3, 2, 1), 7, 3)]
    plan = expiry(state(history, [main_at(9), Ref("audit", "branch", 6)]))
    assert plan.snapshot_ids == (1, 2, 3)
    assert expiry(state(history, [main_at(9), Ref("audit", "branch", 6)]), retain_last=4).snapshot_ids == (1, 2)


def test_a_branch_with_ages_of_its_own_goes_by_those() -> None:
    history = [*chain(ages(20, 6, 5, 4, 3, 2, 1)), *chain(ages(19, 18, 17), 8, 1)]
    keeps_a_month = Ref("slow", "branch", 10, max_snapshot_age=30 * DAY)
    assert expiry(state(history, [main_at(7), keeps_a_month])).snapshot_ids == ()
    keeps_one = Ref("quick", "branch", 10, min_snapshots_to_keep=1)
    assert expiry(state(history, [main_at(7), keeps_one])).snapshot_ids == (1, 8, 9)


def test_mains_own_ages_count_before_the_policys_as_iceberg_has_it() -> None:
    history = chain(ages(10, 6, 5, 4, 3, 2, 1))
    day_and_a_half = main_at(7, max_snapshot_age=36 * HOUR, min_snapshots_to_keep=2)
    assert expiry(state(history, [day_and_a_half])).snapshot_ids == (1, 2, 3, 4, 5)
    assert expiry(state(history, [main_at(7, max_snapshot_age=30 * DAY)])).snapshot_ids == ()


def test_a_branchs_own_age_is_counted_from_now_and_not_from_the_slot() -> None:
    history = [*chain(ages(6, 5, 4, 3, 2, 1)), *chain(ages(2.5, 1), 7, 1)]
    refs = [main_at(6), Ref("b", "branch", 8, max_snapshot_age=3 * DAY, min_snapshots_to_keep=1)]
    assert expiry(state(history, refs), now=SLOT).snapshot_ids == ()
    assert expiry(state(history, refs), now=SLOT + DAY).snapshot_ids == (7,)


def test_a_newer_snapshot_behind_one_that_goes_goes_too() -> None:
    # Iceberg stops at the first ancestor that may go: clocks of writers differ.
    history = chain(ages(1, 10, 3, 2, 1))
    assert expiry(state(history, [main_at(5)])).snapshot_ids == (1, 2)


@pytest.mark.parametrize(("age", "expected"), [(5, ()), (4.99, (2,))])
def test_a_tag_whose_own_age_has_passed_no_longer_keeps_its_snapshot(age: float, expected: tuple[int, ...]) -> None:
    history = [*chain(ages(3)), snapshot(2, 5 * DAY), *chain(ages(2, 1), 3, 1)]
    tag = Ref("short", "tag", 2, max_ref_age=timedelta(days=age))
    assert expiry(state(history, [main_at(4), tag]), days=4).snapshot_ids == expected


def test_a_branch_whose_own_age_has_passed_leaves_its_snapshots_to_the_cutoff() -> None:
    history = [*chain(ages(3, 2, 1)), *chain(ages(9, 8, 6), 4)]
    branch = Ref("gone", "branch", 6, max_ref_age=5 * DAY)
    assert expiry(state(history, [main_at(3), branch])).snapshot_ids == (4, 5)
    assert expiry(state(history, [main_at(3), replace(branch, max_ref_age=6 * DAY)])).snapshot_ids == ()


def test_main_never_ages_out_as_a_reference() -> None:
    history = chain(ages(30, 29))
    assert expiry(state(history, [main_at(2, max_ref_age=DAY)]), retain_last=1).snapshot_ids == (1,)


def test_a_snapshot_that_nothing_refers_to_stays_until_the_cutoff_passes_it() -> None:
    # 3 was rolled back by main's return to 2; 4 is a rolled back one that is old.
    history = [*chain(ages(3, 2)), snapshot(3, DAY, 2), snapshot(4, 8 * DAY)]
    assert expiry(state(history, [main_at(2)])).snapshot_ids == (4,)


def test_a_table_that_forbids_expiry_is_held_where_something_is_due() -> None:
    plan = expiry(state(chain(ages(10, 9, 8, 1)), [main_at(4)], gc_enabled=False))
    assert (plan.decision, plan.reason, plan.snapshot_ids) == (Decision.HOLD, Reason.GC_DISABLED, ())
    assert "gc.enabled" in plan.note


def test_a_table_that_forbids_expiry_is_skipped_where_nothing_is_due() -> None:
    plan = expiry(state(chain(ages(3, 2, 1)), [main_at(3)], gc_enabled=False))
    assert (plan.decision, plan.reason) == (Decision.SKIP, Reason.NOTHING_EXPIRED)


# --- expiry, for any history


def kept_by_iceberg(table_state: TableState, cutoff: datetime, retain_last: int, now: datetime) -> set[int]:
    """The spec's 'Snapshot Retention Policy' once more, reference by reference, in the simplest way."""
    commits = {one.id: one for one in table_state.history}

    def lineage(head: int | None) -> list[Snapshot]:
        return [commits[head], *lineage(commits[head].parent_id)] if head is not None else []

    living = [
        ref
        for ref in table_state.refs
        if ref.name == "main"
        or ref.max_ref_age is None
        or commits[ref.snapshot_id].committed_at >= now - ref.max_ref_age
    ]
    kept, reached = set(), set()
    for ref in living:
        line = lineage(ref.snapshot_id) if ref.kind == "branch" else [commits[ref.snapshot_id]]
        reached |= {one.id for one in line}
        if ref.kind == "tag":
            kept.add(ref.snapshot_id)
            continue
        minimum = retain_last if ref.min_snapshots_to_keep is None else ref.min_snapshots_to_keep
        limit = cutoff if ref.max_snapshot_age is None else now - ref.max_snapshot_age
        too_old = [n for n, one in enumerate(line) if n >= minimum and one.committed_at < limit]
        kept |= {one.id for one in line[: min(too_old, default=len(line))]}
    return kept | {one.id for one in commits.values() if one.id not in reached and one.committed_at >= cutoff}


own_age = st.none() | st.integers(0, 20).map(lambda days: timedelta(days=days))


@st.composite
def histories(draw: st.DrawFn) -> TableState:
    """A main line with branches off it, tags anywhere, snapshots of a roll-back, and clocks that may be off."""
    hours = st.integers(0, 24 * 20)
    main = draw(st.lists(hours, min_size=1, max_size=12).map(lambda drawn: sorted(drawn, reverse=True)))
    skewed = draw(st.permutations(main)) if draw(st.booleans()) else main
    history = chain([hour * HOUR for hour in skewed])
    refs = [
        main_at(
            draw(st.integers(1, len(main))),
            max_snapshot_age=draw(own_age),
            min_snapshots_to_keep=draw(st.none() | st.integers(1, 5)),
        )
    ]
    for number in range(draw(st.integers(0, 3))):
        parent = draw(st.none() | st.sampled_from(history).map(lambda one: one.id))
        length = draw(st.integers(1, 4))
        history += chain([draw(hours) * HOUR for _ in range(length)], len(history) + 1, parent)
        if draw(st.integers(0, 3)):  # else a line that nothing refers to any more
            least = draw(st.none() | st.integers(1, 5))
            refs.append(Ref(f"branch{number}", "branch", len(history), draw(own_age), draw(own_age), least))
    for number in range(draw(st.integers(0, 2))):
        refs.append(Ref(f"tag{number}", "tag", draw(st.integers(1, len(history))), draw(own_age)))
    return state(history, refs)


retained = st.integers(1, 5)
late = st.integers(0, 72).map(lambda hours: SLOT + hours * HOUR)


@given(histories(), retained, late)
def test_an_expiry_names_exactly_what_icebergs_rule_does_not_keep(
    table_state: TableState, retain_last: int, now: datetime
) -> None:
    named = expired_snapshots(table_state, CUTOFF, retain_last, now)
    kept = kept_by_iceberg(table_state, CUTOFF, retain_last, now)
    assert set(named) == {one.id for one in table_state.history} - kept
    assert [one.id for one in table_state.history if one.id in named] == list(named)


@given(histories(), retained, late)
def test_an_expiry_never_names_what_a_living_reference_points_at(
    table_state: TableState, retain_last: int, now: datetime
) -> None:
    named = expired_snapshots(table_state, CUTOFF, retain_last, now)
    for ref in table_state.refs:
        if ref.name == "main" or ref.max_ref_age is None:
            assert ref.snapshot_id not in named


@given(histories(), retained, late)
def test_an_expiry_never_names_one_of_mains_last(table_state: TableState, retain_last: int, now: datetime) -> None:
    # Where main says itself how many it keeps, that counts: Iceberg's own rule for a branch.
    main = replace(table_state.refs[0], min_snapshots_to_keep=None)
    table_state = replace(table_state, refs=(main, *table_state.refs[1:]))
    named = expired_snapshots(table_state, CUTOFF, retain_last, now)
    commits = {one.id: one for one in table_state.history}
    head: int | None = main.snapshot_id
    for _ in range(retain_last):
        if head is not None:
            assert head not in named
            head = commits[head].parent_id


@given(histories(), retained, late, st.integers(0, 24 * 20))
def test_a_snapshot_younger_than_every_age_is_never_named(
    table_state: TableState, retain_last: int, now: datetime, hours: int
) -> None:
    refs = tuple(replace(ref, max_snapshot_age=None, max_ref_age=None) for ref in table_state.refs)
    in_order = replace(table_state, refs=refs, history=tuple(_without_skew(table_state.history)))
    cutoff = SLOT - hours * HOUR
    named = expired_snapshots(in_order, cutoff, retain_last, now)
    assert all(one.committed_at < cutoff for one in in_order.history if one.id in named)


def _without_skew(history: Sequence[Snapshot]) -> list[Snapshot]:
    """The same snapshots, none of them older than its parent."""
    made: dict[int, Snapshot] = {}
    for one in history:
        parent = made.get(one.parent_id or 0)
        at = one.committed_at if parent is None else max(parent.committed_at, one.committed_at)
        made[one.id] = replace(one, committed_at=at)
    return list(made.values())


# --- audit


def test_an_audit_is_always_planned_over_the_window_of_its_slot() -> None:
    plan = plan_audit(POLICY, window_of(SLOT))
    assert (plan.stage, plan.decision, plan.reason) == (Stage.AUDIT, Decision.ACT, None)
    assert plan.window is not None
    assert (plan.window.start, plan.window.end) == (WINDOW_START, WINDOW_START + DAY)
    assert str(plan.window) in plan.note
