"""Was it really done? What the snapshots of a rewrite and the state after an expiry give away."""

from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from icekeeper.core.tables.plan import Slice
from icekeeper.core.tables.state import RUN_ID_PROPERTY, Ref, Snapshot
from icekeeper.core.tables.verification import Recount, check_expiry, check_rewrite, own_rewrites
from tests.unit.builders import DAY, SLOT, chain, main_at, state

RUN = UUID(int=1)
OTHER_RUN = UUID(int=2)
PART = Slice((), files=40, bytes=1_000, output_files=2)
SPLIT = Slice((), files=1, bytes=1_000, output_files=8, may_grow=True)


def rewrite(
    number: int = 9,
    *,
    parent: int | None = 8,
    records: tuple[int, int] = (500, 500),
    files: tuple[int, int] = (2, 40),
    run: UUID | None = RUN,
    operation: str = "replace",
) -> Snapshot:
    """A snapshot that added and deleted so many records and files."""
    numbers = {
        "added-records": records[0],
        "deleted-records": records[1],
        "added-data-files": files[0],
        "deleted-data-files": files[1],
    }
    # Iceberg leaves a zero out of a summary.
    summary = {key: str(value) for key, value in numbers.items() if value}
    if run is not None:
        summary[RUN_ID_PROPERTY] = str(run)
    return Snapshot(number, parent, SLOT, operation, summary)


# --- which snapshots are this run's


def test_only_new_replace_snapshots_that_carry_the_runs_id_are_its_own() -> None:
    earlier = rewrite(8, parent=7)  # an earlier slice of the same run
    before = state([*chain([DAY]), earlier], [main_at(8)])
    mine, mine_too = rewrite(9), rewrite(11, parent=10)
    others = [
        rewrite(12, run=OTHER_RUN),
        rewrite(13, run=None),
        rewrite(14, operation="append"),
        rewrite(15, operation="overwrite"),
        Snapshot(10, 9, SLOT, "append"),
    ]
    after = state([*before.history, mine, *others, mine_too], [main_at(11)])
    assert own_rewrites(before, after, RUN) == (mine, mine_too)


def test_a_rewrite_that_reported_success_and_left_no_snapshot_is_a_problem() -> None:
    problems, recounts = check_rewrite(PART, ())
    assert len(problems) == 1
    assert "no snapshot of this run" in problems[0]
    assert recounts == []


# --- rows


def test_as_many_rows_added_as_replaced_in_fewer_files_are_right() -> None:
    assert check_rewrite(PART, (rewrite(), rewrite(10, records=(7, 7), files=(1, 5)))) == ([], [])


def test_fewer_rows_added_than_replaced_have_to_be_counted_as_delete_files_may_have_applied() -> None:
    assert check_rewrite(PART, (rewrite(records=(472, 500)),)) == ([], [Recount(before=8, after=9)])


def test_all_rows_of_a_rewrite_deleted_have_to_be_counted_too() -> None:
    assert check_rewrite(PART, (rewrite(records=(0, 500), files=(0, 40)),)) == ([], [Recount(8, 9)])


def test_more_rows_added_than_replaced_are_a_problem_for_no_delete_file_explains_them() -> None:
    problems, recounts = check_rewrite(PART, (rewrite(records=(501, 500)),))
    assert len(problems) == 1
    for word in ("9", "501", "500"):
        assert word in problems[0]
    assert recounts == []


def test_fewer_rows_in_a_snapshot_without_a_parent_are_a_problem_as_nothing_can_be_counted() -> None:
    problems, recounts = check_rewrite(PART, (rewrite(parent=None, records=(472, 500)),))
    assert len(problems) == 1
    assert recounts == []


# --- files


@pytest.mark.parametrize("files_out", [40, 41])
def test_no_fewer_files_than_before_are_a_problem(files_out: int) -> None:
    problems, _ = check_rewrite(PART, (rewrite(files=(files_out, 40)),))
    assert len(problems) == 1
    assert f"{files_out} files of 40" in problems[0]


def test_of_two_snapshots_one_may_make_as_many_files_as_it_replaced() -> None:
    alone = rewrite(10, parent=9, files=(2, 1))
    assert check_rewrite(PART, (rewrite(files=(2, 10)), alone)) == ([], [])
    problems, _ = check_rewrite(PART, (rewrite(files=(4, 4)), alone))
    assert problems == ["snapshots 9, 10 made 6 files of 5"]


def test_one_file_fewer_is_enough() -> None:
    assert check_rewrite(PART, (rewrite(files=(39, 40)),)) == ([], [])


def test_more_files_than_before_are_right_where_the_plan_was_to_split_large_ones() -> None:
    assert check_rewrite(SPLIT, (rewrite(files=(8, 1)),)) == ([], [])


def test_every_snapshot_of_a_rewrite_is_verified() -> None:
    problems, recounts = check_rewrite(
        PART, (rewrite(9, records=(501, 500)), rewrite(10, parent=9, records=(7, 6)), rewrite(11, records=(1, 2)))
    )
    assert [problem.split()[1] for problem in problems] == ["9", "10"]
    assert recounts == [Recount(8, 11)]


# --- expiry

BEFORE = state(chain([9 * DAY, 8 * DAY, DAY]), [main_at(3), Ref("eoy", "tag", 2)])


def test_the_named_snapshots_gone_and_all_else_there_is_right() -> None:
    after = replace(BEFORE, history=BEFORE.history[1:])
    assert check_expiry(BEFORE, after, (1,)) == []


def test_what_writers_add_meanwhile_is_no_problem() -> None:
    new = Snapshot(4, 3, SLOT, "append")
    after = replace(
        BEFORE, history=(*BEFORE.history[1:], new), refs=(main_at(4), BEFORE.refs[1], Ref("new", "branch", 4))
    )
    assert check_expiry(BEFORE, after, (1,)) == []


def test_a_named_snapshot_that_is_still_there_is_a_problem() -> None:
    problems = check_expiry(BEFORE, BEFORE, (1,))
    assert len(problems) == 1
    assert "snapshot 1 is still there" in problems[0]


def test_a_snapshot_that_is_gone_without_being_named_is_a_problem() -> None:
    after = replace(BEFORE, history=BEFORE.history[2:])
    problems = check_expiry(BEFORE, after, (1,))
    assert len(problems) == 1
    assert "snapshot 2 was not named" in problems[0]


def test_a_reference_that_is_gone_is_a_problem() -> None:
    after = replace(BEFORE, history=BEFORE.history[1:], refs=(main_at(3),))
    problems = check_expiry(BEFORE, after, (1,))
    assert len(problems) == 1
    assert "tag eoy is gone" in problems[0]


def test_a_reference_whose_snapshot_was_named_goes_with_it() -> None:
    after = replace(BEFORE, history=BEFORE.history[2:], refs=(main_at(3),))
    assert check_expiry(BEFORE, after, (1, 2), due=frozenset({"eoy"})) == []


def test_all_mistakes_are_reported_at_once() -> None:
    after = replace(BEFORE, history=BEFORE.history[:1], refs=())
    assert len(check_expiry(BEFORE, after, (1,))) == 1 + 2 + 2
