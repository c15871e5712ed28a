"""Which snapshots an expiry leaves to streaming writers, seen through the writers' own walks (tests/writers.py)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icekeeper.core.enums import Decision
from icekeeper.core.policy import ExpirePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.expiry import due_refs, due_snapshots, plan_expiry
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.restraints import OBSERVING, restrained
from icekeeper.core.tables.state import Ref, Snapshot, TableState
from icekeeper.core.tables.writer_state import DEFAULT_WRITER_STATE, StateKey
from tests.unit.builders import DAY, EXPIRE_LIMITS, HOUR, SLOT, chain, main_at, state, table_policy
from tests.unit.test_planning import histories
from tests.writers import Writer, flink, kafka_connect, spark_stream

KAFKA, OTHER_KAFKA = kafka_connect("sink"), kafka_connect("sink-2")
FLINK, OLD_FLINK = flink("7d1f", "op-1"), flink("7d1f", None)
SPARK = spark_stream("q-1")
WRITERS = [KAFKA, FLINK, OLD_FLINK, SPARK]
OWN_KEY = StateKey("loader.position.*")
TEN_DAYS = [timedelta(days=age) for age in range(10, 0, -1)]  # snapshots 1 to 10; 1 to 3 are older than 7 days


def committed(line: list[Snapshot], number: int, writer: Writer, value: int | None = None) -> None:
    """Puts the writer's state into the snapshot of this number."""
    at = next(place for place, one in enumerate(line) if one.id == number)
    line[at] = replace(line[at], summary={**line[at].summary, **writer.commit(value or number)})


def planned(table: TableState, rule: ExpirePolicy = ExpirePolicy(EXPIRE_LIMITS)) -> Plan:  # noqa: B008 - frozen
    return plan_expiry(table_policy(expire=rule), table, SLOT, SLOT)


def after(table: TableState, plan: Plan) -> TableState:
    return replace(table, history=tuple(one for one in table.history if one.id not in plan.snapshot_ids))


@dataclass(frozen=True)
class Case:
    """Main's ten snapshots, of which a writer has committed some: which of the three old ones go."""

    name: str
    commits: dict[int, Writer]
    gone: tuple[int, ...]
    most: timedelta = 30 * DAY

    def __str__(self) -> str:
        return self.name


CASES = [
    Case("without writers all that are old go", {}, (1, 2, 3)),
    *(Case(f"{each} keeps its newest and all up to the head", {1: each, 2: each}, (1,)) for each in WRITERS),
    *(Case(f"{each} that goes on keeps nothing", {1: each, 2: each, 9: each}, (1, 2, 3)) for each in WRITERS),
    Case("each group of kafka connect has a state of its own", {2: OTHER_KAFKA, 9: KAFKA}, (1,)),
    Case("each job of flink, too", {2: flink("old-job", "op-1"), 9: FLINK}, (1,)),
    Case("and each operator of a job", {2: flink("7d1f", "op-2"), 9: FLINK}, (1,)),
    Case("and each query of spark", {3: spark_stream("q-2"), 9: SPARK}, (1, 2)),
    Case("the oldest of several decides", {2: FLINK, 3: KAFKA, 9: SPARK}, (1,)),
    Case("a state of exactly that age stays", {2: KAFKA}, (1,), most=9 * DAY),
    Case("an older one goes with all that only it needs", {2: KAFKA}, (1, 2, 3), most=9 * DAY - HOUR),
    Case("and leaves what a younger one needs", {1: FLINK, 3: KAFKA}, (1, 2), most=9 * DAY),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_writers_keep_the_snapshots_that_their_walk_needs(case: Case) -> None:
    line = chain(TEN_DAYS)
    for number, writer in case.commits.items():
        committed(line, number, writer)
    table = state(line, [main_at(10)])
    plan = planned(table, ExpirePolicy(EXPIRE_LIMITS, writer_state_max=case.most))
    assert plan.snapshot_ids == case.gone
    lost = {str(one) for number, one in case.commits.items() if line[number - 1].committed_at < SLOT - case.most}
    for writer in case.commits.values():
        found = writer.walk(after(table, plan), "main")
        assert (found is None) if str(writer) in lost else (found == writer.walk(table, "main")), writer
    assert bool(plan.warning) is bool(lost)


def test_the_plan_says_for_whom_snapshots_stay_and_whose_state_goes() -> None:
    line = chain(TEN_DAYS)
    committed(line, 1, FLINK)
    committed(line, 3, KAFKA)
    plan = planned(state(line, [main_at(10)]), ExpirePolicy(EXPIRE_LIMITS, writer_state_max=9 * DAY))
    assert plan.note == (
        "would expire 2 of 10 snapshots, committed before 2026-02-11T02:00Z; the last state of a writer goes, which "
        "then starts over or writes again: flink.max-committed-checkpoint-id of 7d1f/op-1 (2026-02-08T02:00Z); 1 due "
        "snapshot kept, by which a writer finds its state: kafka.connect.offsets.control-iceberg.sink "
        "(2026-02-10T02:00Z)"
    )
    assert plan.warning in plan.note
    held = restrained(plan, OBSERVING)
    assert (held.decision, held.warning) == (Decision.HOLD, ""), "what does not happen takes nothing"


def test_where_only_a_writer_needs_them_there_is_nothing_to_do() -> None:
    line = chain(TEN_DAYS)
    committed(line, 1, SPARK)
    plan = planned(state(line, [main_at(10)]))
    assert (plan.decision, plan.reason) == (Decision.SKIP, Reason.NOTHING_EXPIRED)
    assert plan.note == (
        "none of 10 snapshots can go; 3 due snapshots kept, by which a writer finds its state: "
        "spark.sql.streaming.epochId of q-1 (2026-02-08T02:00Z)"
    )


def test_a_walk_begins_at_the_head_of_its_own_branch() -> None:
    line = chain(TEN_DAYS)
    own = chain([9 * DAY, 8.5 * DAY, 8 * DAY, 3 * DAY, 2 * DAY], first=11, parent=1)
    committed(own, 12, OTHER_KAFKA)
    committed(line, 9, KAFKA)
    table = state([*line, *own], [main_at(10), Ref("audits", "branch", 15)])
    plan = planned(table)
    assert plan.snapshot_ids == (1, 2, 3, 11), "main needs none of its old ones, the branch those behind its state"
    assert OTHER_KAFKA.walk(after(table, plan), "audits") == OTHER_KAFKA.walk(table, "audits")
    assert "(on branch audits, 2026-02-09T14:00Z)" in plan.note


def test_a_branch_that_forks_off_keeps_what_its_writer_had_on_main() -> None:
    line = chain(TEN_DAYS)
    committed(line, 2, KAFKA)
    committed(line, 9, KAFKA)
    table = state(line, [main_at(10), Ref("fork", "branch", 5)])
    plan = planned(table)
    assert plan.snapshot_ids == (1,)
    assert KAFKA.walk(after(table, plan), "fork") == KAFKA.walk(table, "fork")


def test_after_a_rollback_the_state_before_it_counts() -> None:
    line = chain(TEN_DAYS)
    committed(line, 2, KAFKA)
    committed(line, 6, KAFKA)  # rolled back: main goes on from 5
    line.append(Snapshot(11, 5, SLOT - HOUR, "replace"))
    table = state(line, [main_at(11)])
    plan = planned(table)
    assert plan.snapshot_ids == (1,)
    assert KAFKA.walk(after(table, plan), "main") == KAFKA.walk(table, "main") != KAFKA.walk(table, "x")


def test_a_branch_that_iceberg_drops_itself_keeps_nothing() -> None:
    own = chain([20 * DAY, 19 * DAY], first=11)
    committed(own, 12, OTHER_KAFKA)
    dropped = Ref("gone", "branch", 12, max_ref_age=DAY)
    assert planned(state([*chain(TEN_DAYS), *own], [main_at(10), dropped])).snapshot_ids == (1, 2, 3, 11, 12)


@pytest.mark.parametrize(("most", "reason"), [(30 * DAY, Reason.WRITER_STATE), (8 * DAY, None)])
def test_what_a_branchs_own_age_would_take_at_any_expiry_holds_all_of_it(
    most: timedelta, reason: Reason | None
) -> None:
    line = chain(TEN_DAYS)
    committed(line, 1, KAFKA)
    other = chain([20 * DAY], first=11)
    table = state([*line, *other], [main_at(10, max_snapshot_age=2 * DAY)])
    plan = planned(table, ExpirePolicy(EXPIRE_LIMITS, writer_state_max=most))
    assert plan.reason is reason
    if reason is not None:
        assert (plan.decision, plan.snapshot_ids) == (Decision.HOLD, ())
        assert "a branch's own max-snapshot-age-ms takes them at any expiry" in plan.note


def test_keys_of_ones_own_keep_and_no_keys_keep_nothing() -> None:
    line = chain(TEN_DAYS)
    line[1] = replace(line[1], summary={"loader.position.eu": "17"})
    committed(line, 3, KAFKA)
    table = state(line, [main_at(10)])
    assert planned(table, ExpirePolicy(EXPIRE_LIMITS, writer_state=(OWN_KEY,))).snapshot_ids == (1,)
    assert planned(table, ExpirePolicy(EXPIRE_LIMITS, writer_state=())).snapshot_ids == (1, 2, 3)


@given(
    histories(), st.lists(st.tuples(st.integers(0, 40), st.sampled_from([*WRITERS, OTHER_KAFKA]))), st.integers(0, 40)
)
def test_in_any_history_every_writer_finds_what_it_found_unless_the_plan_says_so(
    table: TableState, commits: list[tuple[int, Writer]], days: int
) -> None:
    line = list(table.history)
    for number, (place, writer) in enumerate(commits, start=1):
        committed(line, line[place % len(line)].id, writer, number)
    table = replace(table, history=tuple(line))
    rule = ExpirePolicy(EXPIRE_LIMITS, older_than=3 * DAY, writer_state_max=timedelta(days=days))
    plan, due = planned(table, rule), due_snapshots(rule, table, SLOT, SLOT)
    if plan.decision is not Decision.ACT:
        return
    lost = {(each.writer, each.branch) for each in due.lost}
    for branch in ("main", "branch0", "branch1", "branch2"):
        for writer in {writer for _, writer in commits}:
            found, before = writer.walk(after(table, plan), branch), writer.walk(table, branch)
            # An operator of Flink takes what an old Flink wrote without one for its own.
            its = (writer, OLD_FLINK) if writer is FLINK else (writer,)
            names = {name for key in DEFAULT_WRITER_STATE for one in its for name in key.writers(one.commit(1))}
            where = "main" if writer.name.startswith("spark") else branch
            if not names & {name for name, on in lost if on == where} and _lives(table, where, SLOT):
                assert found == before


def _lives(table: TableState, branch: str, now: datetime) -> bool:
    return branch not in due_refs(table, now)
