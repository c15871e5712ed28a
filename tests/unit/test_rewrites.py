"""Whether rewrites kept every value: what metrics and fingerprints mean, what proofs may cost, nights of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from icekeeper.core.audit.records import Fingerprint
from icekeeper.core.enums import Stage, TaskOutcome, Trigger
from icekeeper.core.events import TaskEnded
from icekeeper.core.policy import CompactPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult
from icekeeper.core.tables.content import Content, wrong_content
from icekeeper.core.tables.plan import Slice
from icekeeper.core.tables.proof_budget import ProofBudget
from icekeeper.core.tables.rewrites import (
    ALL_COLUMNS,
    ColumnChange,
    ColumnSums,
    PartitionChange,
    ProvenBy,
    RewriteProof,
    Rewritten,
    in_turn,
    judge_metrics,
    proofs_note,
    table_in_turn,
)
from icekeeper.core.tables.state import MISMATCH_TAG
from icekeeper.night.order import Order
from icekeeper.night.run import run_night
from tests.unit.builders import COMPACT_LIMITS, DAY, HOUR, SLOT, table_policy
from tests.unit.fakes import RUN_ID, Step, World, fails, transient

pytestmark = pytest.mark.usefixtures("logs")

MINUTE, SECOND = timedelta(minutes=1), timedelta(seconds=1)
NAME = "cold.bronze_trades_binance"


# --- metrics


def column(
    went: ColumnSums | None = None,
    came: ColumnSums | None = None,
    bounds: tuple[int | None, int | None] = (0, 0),
    **more: Any,
) -> ColumnChange:
    """A column of 100 values, 10 of them null, that is the same on both sides where nothing else is given."""
    went = went or ColumnSums(100, 10)
    defaults: dict[str, Any] = {
        "kind": "ordered", "nested": False, "floating": False, "default": False, "mode": "truncate(16)"
    }  # fmt: skip
    return ColumnChange(
        "c", **defaults | more, went=went, came=came or went, lower_order=bounds[0], upper_order=bounds[1]
    )


def rewritten(
    one: ColumnChange, rows: tuple[int, int] = (100, 100), formats: tuple[str, ...] = ("PARQUET",)
) -> Rewritten:
    return Rewritten(9, 8, *rows, formats=formats, columns=(one,))


FULL = ColumnSums(100, 10)
DELETED = (100, 90)
TEXT = {"kind": "text"}


def bounded(lower: bytes, upper: bytes) -> ColumnSums:
    return ColumnSums(100, 10, lower=lower, upper=upper)


@pytest.mark.parametrize(
    ("change", "wrong", "unproven"),
    [
        pytest.param(rewritten(column()), "", "", id="the same"),
        pytest.param(rewritten(column(came=ColumnSums(100, 9))), "9 nulls after 10", "", id="a null became a value"),
        pytest.param(rewritten(column(came=ColumnSums(100, 11))), "11 nulls after 10", "", id="a value became null"),
        pytest.param(rewritten(column(came=ColumnSums(99, 10))), "99 values after 100", "", id="a value is gone"),
        pytest.param(rewritten(column(bounds=(-1, 0))), "another lowest value", "", id="a lower lowest value"),
        pytest.param(rewritten(column(bounds=(1, 0))), "another lowest value", "", id="a higher lowest value"),
        pytest.param(rewritten(column(bounds=(0, -1))), "another highest value", "", id="another highest value"),
        pytest.param(rewritten(column(bounds=(1, 1))), "another lowest and highest value", "", id="both"),
        # Deletes
        pytest.param(
            rewritten(column(came=ColumnSums(90, 5), bounds=(1, -1)), DELETED), "", "", id="within the deletes"
        ),
        pytest.param(rewritten(column(came=ColumnSums(90, 10)), DELETED), "", "", id="no null was deleted"),
        pytest.param(rewritten(column(came=ColumnSums(90, 0)), DELETED), "", "", id="only nulls were deleted"),
        pytest.param(
            rewritten(column(came=ColumnSums(90, 11)), DELETED),
            "11 nulls after 10, with 10 rows deleted",
            "",
            id="more nulls in spite of deletes",
        ),
        pytest.param(
            rewritten(column(FULL, ColumnSums(80, 0)), (100, 80)), "", "", id="ten nulls and ten values were deleted"
        ),
        pytest.param(
            rewritten(column(ColumnSums(100, 5), ColumnSums(90, 0), (-1, 0)), DELETED),
            "another lowest value",
            "",
            id="a bound outside in spite of deletes",
        ),
        pytest.param(
            rewritten(column(came=ColumnSums(0, 0), bounds=(None, None)), (100, 0)), "", "", id="every row was deleted"
        ),
        # Columns that files lack
        pytest.param(
            rewritten(column(ColumnSums(60, 10, older=40), ColumnSums(100, 50))),
            "",
            "",
            id="older files lack the column",
        ),
        pytest.param(
            rewritten(column(ColumnSums(60, 10, uncounted=40), ColumnSums(100, 20))),
            "",
            "older files without counts",
            id="older files lack counts",
        ),
        pytest.param(
            rewritten(column(ColumnSums(60, 10, uncounted=40), ColumnSums(100, 51))),
            "49 values that are not null after at least 50",
            "",
            id="a value is gone beside older files",
        ),
        pytest.param(
            rewritten(column(ColumnSums(60, 10, uncounted=40), ColumnSums(100, 10), default=True)),
            "",
            "older files without counts",
            id="older files read as a default",
        ),
        pytest.param(
            rewritten(column(came=ColumnSums(uncounted=100), bounds=(None, None))),
            "the files that came do not have it, 90 values of it went",
            "",
            id="a column was dropped",
        ),
        pytest.param(
            rewritten(column(ColumnSums(100, 100), ColumnSums(uncounted=100), (None, None))),
            "",
            "",
            id="a column of nulls was dropped",
        ),
        pytest.param(
            rewritten(column(came=ColumnSums(uncounted=100), mode="none")),
            "",
            "its metrics are off",
            id="metrics are off",
        ),
        pytest.param(
            rewritten(column(ColumnSums(60, 10, uncounted=40), ColumnSums(100, 50))),
            "",
            "older files without counts",
            id="a column of files without counts that may have been nulled",
        ),
        # Bounds
        pytest.param(rewritten(column(bounds=(None, None))), "", "no bounds, only counts", id="counts only"),
        pytest.param(
            rewritten(column(ColumnSums(100, 10, unbounded=1))),
            "",
            "no bounds, only counts",
            id="one file without bounds",
        ),
        pytest.param(
            rewritten(column(ColumnSums(100, 100), bounds=(None, None))), "", "", id="only nulls have no bounds"
        ),
        pytest.param(
            rewritten(column(bounded(b"abc", b"x"), bounded(b"abd", b"x"), (1, 0), **TEXT)),
            "",
            "bounds that are cut off",
            id="a last character that may be rounded up",
        ),
        pytest.param(
            rewritten(column(bounded(b"abcdef", b"x"), bounded(b"abc", b"x"), (-1, 0), **TEXT)),
            "",
            "bounds that are cut off",
            id="one bound is the beginning of the other",
        ),
        pytest.param(
            rewritten(column(bounded(b"abc", b"x"), bounded(b"abe", b"x"), (1, 0), **TEXT)),
            "another lowest value",
            "",
            id="two characters apart",
        ),
        pytest.param(
            rewritten(column(bounded(b"a", b"\xc3\xbf"), bounded(b"a", b"\xc4\x80"), (0, 1), **TEXT)),
            "",
            "bounds that are cut off",
            id="rounded up to a longer character",
        ),
        pytest.param(
            rewritten(column(bounded(b"a", "\ud7ff".encode()), bounded(b"a", "\ue000".encode()), (0, 1), **TEXT)),
            "",
            "bounds that are cut off",
            id="rounded up past the surrogates",
        ),
        pytest.param(
            rewritten(column(bounded(b"a", b"\xff"), bounded(b"a", b"\x01"), (0, -1), kind="bytes")),
            "another highest value",
            "",
            id="bytes",
        ),
        # Numbers that are none
        pytest.param(
            rewritten(column(ColumnSums(100, 0, 5), ColumnSums(100, 0, 4), floating=True)),
            "4 NaN after 5",
            "",
            id="a NaN",
        ),
        pytest.param(
            rewritten(column(ColumnSums(100, 0, None), ColumnSums(100, 0, 4), floating=True)),
            "",
            "NaN were not counted",
            id="NaN were not counted",
        ),
        pytest.param(
            rewritten(column(ColumnSums(100, 0, 100), bounds=(None, None), floating=True)), "", "", id="only NaN"
        ),
        # Columns within others
        pytest.param(rewritten(column(bounds=(None, None), nested=True)), "", "no bounds, only counts", id="in a list"),
        pytest.param(
            rewritten(column(came=ColumnSums(100, 9), nested=True)), "9 nulls after 10", "", id="a null in a struct"
        ),
        pytest.param(
            rewritten(column(came=ColumnSums(90, 0), nested=True), formats=("ORC",)),
            "",
            "no metrics that can be compared",
            id="ORC counts within structs in another way",
        ),
        pytest.param(rewritten(column(kind="none")), "", "no metrics that can be compared", id="a variant"),
    ],
)
def test_metrics_prove_a_column_or_show_it_wrong_or_neither(change: Rewritten, wrong: str, unproven: str) -> None:
    verdict = judge_metrics(change)
    assert verdict.wrong == ((f"c: {wrong}",) if wrong else ())
    if change.rows_came < change.rows_went:
        assert verdict.unproven == {ALL_COLUMNS: "deletes were applied"}, "other rows may be gone than should be"
    else:
        assert verdict.unproven == ({"c": unproven} if unproven else {})


# --- content


def test_what_differs_is_said_by_rows_then_columns_then_their_combination() -> None:
    one, other = Fingerprint(9, (1, 2)), Fingerprint(9, (3, 4))
    assert Content(one, one).equal
    assert wrong_content(Content(one, Fingerprint(8, (1, 2)))) == "8 rows after 9"
    assert wrong_content(Content(one, other, {"a": one, "b": one}, {"a": one, "b": other})) == "other values of b"
    assert wrong_content(Content(one, other, {"a": one}, {"a": one})) == "the same values, in other rows"


def part(name: str, files: tuple[int, int] = (9, 1)) -> PartitionChange:
    return PartitionChange(name, files[0], 900, files[1], 800)


def test_partitions_are_compared_one_by_one_unless_rows_moved_between_them() -> None:
    change = Rewritten(9, 8, 10, 10, partitions=(part("a"), part("b")))
    assert [unit.partition for unit in change.units] == ["a", "b"]
    moved = replace(change, partitions=(part("a", (9, 0)), part("b", (0, 1))))
    assert moved.units == (PartitionChange("", 9, 1800, 1, 1600),)


def test_over_the_nights_each_partition_and_each_table_has_its_turn() -> None:
    parts, tables = [part(f"day={day}") for day in range(10)], [f"cold.t{number}" for number in range(10)]
    nights = [SLOT + night * DAY for night in range(100)]
    assert {in_turn(parts, slot)[0].partition for slot in nights} == {each.partition for each in parts}
    assert {table_in_turn(tables, slot) for slot in nights} == {*tables}
    assert in_turn(parts, SLOT) == in_turn(parts[::-1], SLOT), "a night that is resumed goes on with the same"
    assert table_in_turn([], SLOT) is None


def test_a_note_says_how_each_rewrite_was_proven() -> None:
    metrics, content = RewriteProof(ProvenBy.METRICS), RewriteProof(ProvenBy.CONTENT, {}, ("day=1", "day=2"))
    unproven = RewriteProof(ProvenBy.UNPROVEN, {"price": "no bounds, only counts"})
    assert proofs_note([]) == ""
    assert proofs_note([metrics, metrics]) == "proven by metrics"
    assert proofs_note([unproven]) == "unproven: price (no bounds, only counts)"
    assert proofs_note([metrics, content, unproven]) == (
        "1 of 3 rewrites proven by metrics; 1 of 3 rewrites proven by content; "
        "1 of 3 rewrites unproven: price (no bounds, only counts); the content of day=1, day=2 is the same"
    )


# --- the budget


def test_what_is_earned_and_not_spent_is_saved() -> None:
    budget = ProofBudget()
    for _ in range(3):
        budget.earn(MINUTE, Decimal(10))
    assert budget.available(in_turn=True) == 18 * SECOND
    budget.spend(5 * SECOND, 20 * SECOND, finished=True)
    assert budget.available(in_turn=True) == 13 * SECOND
    assert budget.available(in_turn=False) == 8 * SECOND, "as much as one took is left for the table in turn"


def test_a_comparison_is_expected_to_take_as_long_as_a_rewrite_until_it_is_measured() -> None:
    budget = ProofBudget()
    assert budget.estimate(MINUTE) == MINUTE
    budget.spend(20 * SECOND, MINUTE, finished=True)
    assert budget.estimate(MINUTE) == 40 * SECOND
    budget.spend(50 * SECOND, MINUTE, finished=False)
    assert budget.estimate(MINUTE) == 100 * SECOND, "one that was stopped would have taken more"
    budget.spend(timedelta(0), MINUTE, finished=True)
    assert budget.estimate(MINUTE) >= SECOND
    slow_to_stop = ProofBudget()
    slow_to_stop.spend(10 * MINUTE, MINUTE, finished=False)
    assert slow_to_stop.estimate(MINUTE) == 4 * MINUTE, "it was to end after one"
    known = budget.estimate(MINUTE)
    budget.spend(5 * SECOND, timedelta(0), finished=True)
    assert budget.estimate(MINUTE) == known, "of a rewrite whose time is not known nothing is learned"


# --- in a night


def policy(prove: str = "0") -> TablePolicy:
    return table_policy(NAME, compact=CompactPolicy(COMPACT_LIMITS, prove_pct=Decimal(prove)))


@pytest.fixture
def world() -> World:
    world = World()
    world.add(policy())
    world.lakehouse.script("compact", NAME, Step(takes=MINUTE))
    return world


async def compacted(world: World, prove: str = "0", stages: tuple[Stage, ...] = (Stage.COMPACT,)) -> list[StageResult]:
    order = Order(RUN_ID, SLOT, Trigger.SCHEDULE, (policy(prove),), stages)
    return list((await run_night(order, world.ports, world.events.append)).tasks)


def proven(world: World) -> tuple[ProvenBy, ...]:
    return world.emitted(TaskEnded)[-1].proofs


async def test_a_rewrite_is_proven_by_its_metrics(world: World) -> None:
    world.lakehouse.tables[NAME].columns = (column(),)
    (task,) = await compacted(world)
    assert (task.outcome, proven(world)) == (TaskOutcome.DONE, (ProvenBy.METRICS,))
    assert not world.called("content")


async def test_what_is_not_proven_is_named_and_no_failure(world: World) -> None:
    world.lakehouse.tables[NAME].columns = (column(bounds=(None, None)),)
    (task,) = await compacted(world)
    assert (task.outcome, proven(world)) == (TaskOutcome.DONE, (ProvenBy.UNPROVEN,))
    assert task.note.endswith("unproven: c (no bounds, only counts)")


async def test_metrics_that_can_not_be_read_prove_nothing_and_fail_nothing(world: World) -> None:
    world.lakehouse.script("rewritten", NAME, fails(transient(Reason.STORAGE_DOWN)))
    (task,) = await compacted(world)
    assert (task.outcome, proven(world)) == (TaskOutcome.DONE, (ProvenBy.UNPROVEN,))


async def test_a_rewrite_that_metrics_and_content_show_wrong_fails_is_tagged_and_holds_the_table(world: World) -> None:
    table = world.lakehouse.tables[NAME]
    head = table.head
    table.columns, table.changed = (column(came=ColumnSums(100, 9)),), {"day=2026-02-17": "price"}
    compact, expire = await compacted(world, stages=(Stage.COMPACT, Stage.EXPIRE))
    assert (compact.outcome, compact.reason, compact.attempts) == (TaskOutcome.FAILED, Reason.REWRITE_MISMATCH, 1)
    assert "c: 9 nulls after 10; other values of price; the tag icekeeper-before-" in (compact.error or "")
    assert f"rollback_to_snapshot('{NAME}', {head})" in (compact.error or "")
    assert (expire.outcome, expire.reason) == (TaskOutcome.HELD, Reason.REWRITE_MISMATCH)
    tag = table.refs[f"{MISMATCH_TAG}{RUN_ID}"]
    assert tag.snapshot_id == head
    assert tag.max_ref_age == 7 * DAY + HOUR + MINUTE, "hold_max from now on: its age is measured from the commit"


async def test_metrics_that_other_writers_got_wrong_do_not_make_a_rewrite_wrong(world: World) -> None:
    world.lakehouse.tables[NAME].columns = (column(came=ColumnSums(100, 9)),)
    (task,) = await compacted(world)
    assert (task.outcome, proven(world)) == (TaskOutcome.DONE, (ProvenBy.CONTENT,))
    assert world.lakehouse.compared == [(NAME, ())]


async def test_rows_that_can_not_be_read_prove_no_rewrite_wrong_and_the_contradiction_is_said(world: World) -> None:
    world.lakehouse.tables[NAME].columns = (column(came=ColumnSums(100, 9)),)
    world.lakehouse.script("content", NAME, fails(transient(Reason.STORAGE_DOWN)))
    (task,) = await compacted(world)
    assert (task.outcome, proven(world)) == (TaskOutcome.DONE, (ProvenBy.UNPROVEN,))
    assert "by its metrics it is wrong (c: 9 nulls after 10)" in task.note
    assert not world.called("tag")


async def test_a_wrong_rewrite_that_can_not_be_tagged_fails_all_the_same_and_says_so(world: World) -> None:
    table = world.lakehouse.tables[NAME]
    table.columns, table.changed = (column(came=ColumnSums(100, 9)),), {"day=2026-02-17": "price"}
    down = fails(transient(Reason.CATALOG_DOWN))
    world.lakehouse.script("tag", NAME, down, down)
    compact, expire = await compacted(world, stages=(Stage.COMPACT, Stage.EXPIRE))
    assert (compact.outcome, compact.reason) == (TaskOutcome.FAILED, Reason.REWRITE_MISMATCH)
    assert "could not be tagged" in (compact.error or "")
    assert (expire.outcome, expire.reason) == (TaskOutcome.HELD, Reason.REWRITE_MISMATCH), "the run remembers it"


async def test_a_tag_is_tried_again_and_has_a_time_of_its_own(world: World) -> None:
    table = world.lakehouse.tables[NAME]
    table.columns, table.changed = (column(came=ColumnSums(100, 9)),), {"day=2026-02-17": "price"}
    world.lakehouse.script("tag", NAME, fails(transient(Reason.CATALOG_DOWN)))
    (task,) = await compacted(world)
    assert f"the tag {MISMATCH_TAG}{RUN_ID} keeps the snapshot before it" in (task.error or "")
    assert {call.timeout for call in world.called("tag")} == {MINUTE}


async def test_manifests_that_are_not_what_the_summary_says_prove_nothing(world: World) -> None:
    table = world.lakehouse.tables[NAME]
    table.columns, table.unread = (column(),), True
    (task,) = await compacted(world)
    assert (task.outcome, proven(world)) == (TaskOutcome.DONE, (ProvenBy.UNPROVEN,))
    assert "its manifests and its summary differ" in task.note


async def test_a_part_of_the_content_is_named_and_proves_no_more_than_the_metrics(world: World) -> None:
    table = world.lakehouse.tables[NAME]
    table.partitions = ("day=2026-02-16", "day=2026-02-17")
    world.ports.proofs.saved = 40 * SECOND
    (task,) = await compacted(world, prove="1")
    assert proven(world) == (ProvenBy.METRICS,)
    assert task.note.count("is the same") == 1
    assert len(world.lakehouse.compared[0][1]) == 1


async def test_what_a_run_had_rewritten_when_it_died_is_verified_by_the_one_that_resumes_it(world: World) -> None:
    table = world.lakehouse.tables[NAME]
    world.clock.advance(MINUTE)
    table.rewrite(policy().compact, Slice((), 20, 1000, 1), UUID(int=7), world.clock())
    table.columns, table.changed = (column(came=ColumnSums(100, 9)),), {"day=2026-02-17": "price"}
    order = Order(RUN_ID, SLOT, Trigger.RESUME, (policy(),), (Stage.COMPACT,))
    (task,) = (await run_night(order, world.ports, world.events.append)).tasks
    assert (task.outcome, task.reason) == (TaskOutcome.FAILED, Reason.REWRITE_MISMATCH)
    assert not world.called("compact")


async def test_content_is_compared_where_the_share_pays_for_it(world: World) -> None:
    (task,) = await compacted(world, prove="100")
    assert (task.outcome, proven(world)) == (TaskOutcome.DONE, (ProvenBy.CONTENT,))
    assert task.note.endswith("proven by content; the content of day=2026-02-17 is the same")
    assert world.lakehouse.compared == [(NAME, ("day=2026-02-17",))]


async def test_a_small_share_is_saved_until_it_pays_for_a_comparison(world: World) -> None:
    for night in range(10):
        assert world.lakehouse.compared == [], night
        await compacted(world, prove="10")
        world.lakehouse.tables[NAME].append(SLOT, files=20)
        world.lakehouse.script("compact", NAME, Step(takes=MINUTE))
    assert world.lakehouse.compared == [(NAME, ("day=2026-02-17",))]
    assert world.called("content")[0].timeout == MINUTE, "it is stopped when all is spent"


async def test_content_that_differs_fails_the_task_and_names_column_and_partition(world: World) -> None:
    world.lakehouse.tables[NAME].changed = {"day=2026-02-17": "price"}
    (task,) = await compacted(world, prove="100")
    assert (task.outcome, task.reason) == (TaskOutcome.FAILED, Reason.REWRITE_MISMATCH)
    assert "other values of price in day=2026-02-17" in (task.error or "")


async def test_a_comparison_that_its_budget_ends_is_no_failure(world: World) -> None:
    world.lakehouse.script("content", NAME, fails(transient(Reason.DEADLINE), takes=MINUTE))
    (task,) = await compacted(world, prove="100")
    assert (task.outcome, proven(world)) == (TaskOutcome.DONE, (ProvenBy.METRICS,))
    assert world.ports.proofs.saved == timedelta(0)


async def test_deletes_that_had_to_be_applied_are_counted_where_as_many_rows_came_as_went(world: World) -> None:
    table = world.lakehouse.tables[NAME]
    table.with_deletes = 1
    table.rows_at[table.head or 0] -= 5
    (task,) = await compacted(world)
    assert (task.outcome, task.reason) == (TaskOutcome.FAILED, Reason.REWRITE_MISMATCH)
    assert "deletes were not applied" in (task.error or "")


async def test_a_rewrite_that_lost_rows_is_tagged_too(world: World) -> None:
    table = world.lakehouse.tables[NAME]
    table.rewrite_loses = 5
    (task,) = await compacted(world)
    assert (task.outcome, task.reason) == (TaskOutcome.FAILED, Reason.NOT_VERIFIED)
    assert f"{MISMATCH_TAG}{RUN_ID}" in table.refs
