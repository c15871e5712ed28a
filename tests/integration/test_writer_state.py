"""Streaming writers find their state in real tables after nights have compacted and expired them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.core.enums import Decision, Stage, TaskOutcome, Trigger
from icekeeper.core.reasons import Reason
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from tests.conftest import COINBASE, MakeNight, Night
from tests.integration.odd import MINUTE, Odd, contents, create, insert, roll_back
from tests.writers import Writer, flink, kafka_connect, spark_stream

Step = Callable[[Night, str], Awaitable[None]]
KAFKA, SIDE = kafka_connect("sink"), kafka_connect("side")
FLINK, FLINK_2 = flink("7d1f", "op-1"), flink("7d1f", "op-2")
SPARK = spark_stream("q-1")
FEW = insert(rows=6, files=2)


def commits(writer: Writer, number: int, branch: str = "main") -> Step:
    """The writer's commit, with Iceberg's own API as it does it."""

    async def step(night: Night, table: str) -> None:
        def commit(spark: SparkSession) -> None:
            append = IcebergJvm(spark).load(f"{night.catalog}.{table}").newAppend().toBranch(branch)
            for key, value in writer.commit(number).items():
                append = append.set(key, value)
            append.commit()

        await night.services.engine.run(commit, timeout=MINUTE)

    return step


async def compacted(night: Night, table: str) -> None:
    (task,) = (await night.run(Stage.COMPACT, tables=(table,))).tasks
    assert task.outcome is TaskOutcome.DONE


@dataclass(frozen=True)
class Case:
    """A table's past, the writers that commit into it and where, and what the expiry leaves."""

    steps: tuple[Any, ...]
    writers: tuple[tuple[Writer, str], ...]
    expired: int
    held: bool = False


# Five or more commits come after the state: without its rule only the last three snapshots stay.
CASES = {
    "kafka": Case((commits(KAFKA, 1), commits(KAFKA, 2), *(FEW,) * 4), ((KAFKA, "main"),), expired=1),
    "compacted": Case((FEW, commits(FLINK, 4), FEW, compacted, *(FEW,) * 3), ((FLINK, "main"),), expired=1),
    "two_writers": Case((commits(FLINK, 4), commits(FLINK_2, 9), *(FEW,) * 4), ((FLINK, "main"), (FLINK_2, "main")), 0),
    # Spark's epoch 2 was rolled back: it goes on from epoch 1.
    "rolled_back": Case(
        (FEW, commits(SPARK, 1), FEW, commits(SPARK, 2), roll_back, *(FEW,) * 4), ((SPARK, "main"),), expired=2
    ),
    # Each branch has a writer of its own; a side branch's state is found from that branch alone.
    "branches": Case(
        (
            FEW,
            "ALTER TABLE {t} CREATE BRANCH side",
            commits(SIDE, 3, "side"),
            *(commits(flink("other", "op"), number, "side") for number in range(4)),
            *(FEW,) * 3,
            commits(KAFKA, 5),
            FEW,
        ),
        ((KAFKA, "main"), (SIDE, "side"), (flink("other", "op"), "side")),
        expired=3,
    ),
    "own_age": Case(
        (
            "ALTER TABLE {t} CREATE BRANCH side WITH SNAPSHOT RETENTION 1 SNAPSHOTS 1 DAYS",
            commits(SIDE, 3, "side"),
            commits(flink("other", "op"), 1, "side"),
        ),
        ((SIDE, "side"),),
        expired=0,
        held=True,
    ),
}


async def test_writers_find_their_state_by_their_own_walk_until_its_time_is_over(make_night: MakeNight) -> None:
    def only_these(document: dict[str, Any]) -> None:
        document["tables"] = [{"name": f"cold.{name}", "compact": {"min_input_files": 2}} for name in CASES]

    night = await make_night(COINBASE, old_snapshots=0, days=0.5, change=only_these)
    for name, case in CASES.items():
        start = (FEW,) if name == "own_age" else ()
        await create(night, f"cold.{name}", Odd((*start, *case.steps)))
    before = {name: await night.state(f"cold.{name}") for name in CASES}
    rows = {name: await contents(night, f"cold.{name}") for name in CASES}
    found = {
        (name, writer): writer.walk(before[name], on) for name, case in CASES.items() for writer, on in case.writers
    }
    assert None not in found.values()
    assert found["rolled_back", SPARK] == 1

    ten_days = datetime.now(UTC) + timedelta(days=10)
    night.travel(ten_days)
    plans, _ = await make_plans(
        make_order(night.settings, ten_days, Trigger.MANUAL, stages=(Stage.EXPIRE,)), night.services.ports
    )
    tasks = {task.table: task for task in (await night.run(Stage.EXPIRE, slot=ten_days)).tasks}

    for plan, (name, case) in zip(plans, CASES.items(), strict=True):
        task, after = tasks[f"cold.{name}"], await night.state(f"cold.{name}")
        decision = Decision.HOLD if case.held else Decision.ACT if case.expired else Decision.SKIP
        outcome = {Decision.HOLD: TaskOutcome.HELD, Decision.ACT: TaskOutcome.DONE, Decision.SKIP: TaskOutcome.SKIPPED}
        assert (name, plan.decision, task.outcome, task.error) == (name, decision, outcome[decision], None)
        assert (name, len(before[name].history) - len(after.history)) == (name, case.expired), task.note
        assert "by which a writer finds its state" in plan.note
        assert "by which a writer finds its state" in task.note
        assert (task.reason is Reason.WRITER_STATE) is case.held
        for writer, on in case.writers:
            assert writer.walk(after, on) == found[name, writer], (name, writer)
        assert await contents(night, f"cold.{name}") == rows[name]

    in_time = ten_days + timedelta(days=30)
    night.travel(in_time)
    tasks = {task.table: task for task in (await night.run(Stage.EXPIRE, slot=in_time)).tasks}
    for name, case in CASES.items():
        task, after = tasks[f"cold.{name}"], await night.state(f"cold.{name}")
        assert (name, task.outcome, task.error) == (name, TaskOutcome.DONE, None)
        assert "the last state of a writer goes, which then starts over or writes again" in task.note
        assert None in [writer.walk(after, on) for writer, on in case.writers]
        assert await contents(night, f"cold.{name}") == rows[name]
