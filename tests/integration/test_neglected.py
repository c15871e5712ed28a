"""Tables that nobody has looked after, small enough for every test run: slices, deadlines and budgets on real parts.

A table of 40,000 files is in tests/full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from icekeeper.core.enums import RunOutcome, Stage, TaskOutcome
from icekeeper.core.events import TaskProgressed
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport, StageResult
from icekeeper.core.tables import planning
from icekeeper.core.tables.state import RUN_ID_PROPERTY, TableState
from tests.conftest import COINBASE, GOLD, MakeNight, Night, outcomes


def only(report: RunReport, stage: Stage, table: str = COINBASE) -> StageResult:
    return next(task for task in report.tasks if (task.stage, task.table) == (stage, table))


def rewrites(state: TableState, report: RunReport) -> int:
    return sum(snapshot.summary.get(RUN_ID_PROPERTY) == str(report.run_id) for snapshot in state.history)


def rows(night: Night) -> int:
    return night.world.rows_iceberg(COINBASE)


def jumping(night: Night, jump: timedelta, when: Callable[[], bool]) -> None:
    """Makes the injected clock jump ahead as soon as `when` is true."""
    clock = night.services.ports.clock
    night.services = replace(
        night.services, ports=replace(night.services.ports, clock=lambda: clock() + (jump if when() else timedelta(0)))
    )


def no_retries(document: dict[str, Any]) -> None:
    document["compact"] = {"retries": 0}


@pytest.fixture
async def backlog(make_night: MakeNight, monkeypatch: pytest.MonkeyPatch) -> Night:
    """Four day partitions of some 24 files each, and slices that take two of them."""
    monkeypatch.setattr(planning, "SLICE_MAX_FILES", 50)
    return await make_night(COINBASE, days=3.5, old_snapshots=0, change=no_retries)


async def test_a_backlog_is_worked_off_slice_by_slice_and_progress_says_how_far(backlog: Night) -> None:
    before = rows(backlog)

    report = await backlog.run(Stage.COMPACT)

    task = only(report, Stage.COMPACT)
    assert task.outcome is TaskOutcome.DONE, task.error
    state = await backlog.state(COINBASE)
    assert rewrites(state, report) == 2
    assert "in 2 slices" in task.note
    assert task.before is not None
    files = task.before.data_files
    notes = [event.note for event in backlog.events if isinstance(event, TaskProgressed)]
    first = int(notes[0].split()[4])
    assert notes == [
        f"slice 1 of 2: {first} files, 0 of {files} done",
        f"slice 2 of 2: {files - first} files, {first} of {files} done",
    ]
    assert state.health.data_files == 4
    assert rows(backlog) == before
    again = await backlog.run(Stage.COMPACT)
    assert outcomes(again, Stage.COMPACT) == {COINBASE: TaskOutcome.SKIPPED}


async def test_a_partition_that_is_too_big_for_one_slice_is_done_in_pieces(
    backlog: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SLICE_MAX_FILES", 10)
    before = rows(backlog)

    report = await backlog.run(Stage.COMPACT)

    task = only(report, Stage.COMPACT)
    assert task.outcome is TaskOutcome.DONE, task.error
    state = await backlog.state(COINBASE)
    assert rewrites(state, report) >= 8
    assert rows(backlog) == before
    # Not more than binpack leaves alone in a partition.
    assert state.health.data_files <= 4 * 4
    assert outcomes(await backlog.run(Stage.COMPACT), Stage.COMPACT) == {COINBASE: TaskOutcome.SKIPPED}


async def test_a_table_without_partitions_is_done_in_pieces(
    make_night: MakeNight, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SLICE_MAX_FILES", 10)
    night = await make_night(COINBASE, days=0.25, old_snapshots=0, change=audit_off("cold.heap"))
    await night.sql("CREATE TABLE {c}.cold.heap (id BIGINT) USING iceberg")
    await night.sql("INSERT INTO {c}.cold.heap SELECT /*+ REPARTITION(25) */ id FROM range(1000)")

    report = await night.run(Stage.COMPACT, tables=("cold.heap",))

    task = only(report, Stage.COMPACT, "cold.heap")
    assert task.outcome is TaskOutcome.DONE, task.error
    state = await night.state("cold.heap")
    assert (rewrites(state, report), state.health.records) == (3, 1000)
    assert state.health.data_files < 5


def audit_off(table: str) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["tables"].append({"name": table, "audit": "off"})

    return change


async def test_a_deadline_keeps_the_finished_slices_and_the_next_night_goes_on(
    backlog: Night, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "SLICE_MAX_FILES", 25)
    quick = backlog.services
    # The timeout passes when the third slice is about to begin.
    jumping(backlog, timedelta(minutes=25), lambda: sum(isinstance(e, TaskProgressed) for e in backlog.events) > 2)

    report = await backlog.run(Stage.COMPACT)

    task = only(report, Stage.COMPACT)
    assert (task.outcome, task.reason) == (TaskOutcome.FAILED, Reason.DEADLINE), task.note
    state = await backlog.state(COINBASE)
    kept = rewrites(state, report)
    assert 0 < kept < 4
    assert task.before is not None
    assert task.after == state.health
    assert state.health.data_files < task.before.data_files

    backlog.services = quick
    tomorrow = await backlog.run(Stage.COMPACT)
    assert only(tomorrow, Stage.COMPACT).outcome is TaskOutcome.DONE
    assert rewrites(await backlog.state(COINBASE), tomorrow) == 4 - kept


async def test_what_the_budget_no_longer_holds_waits_and_the_audit_runs(make_night: MakeNight) -> None:
    night = await make_night(COINBASE, GOLD, change=no_retries)
    jumping(night, timedelta(hours=4), lambda: any(isinstance(event, TaskProgressed) for event in night.events))

    report = await night.run()

    assert report.outcome is RunOutcome.SUCCESS
    # The first table was under way when the time was up: what it did is kept.
    assert only(report, Stage.COMPACT).outcome in (TaskOutcome.DONE, TaskOutcome.HELD)
    held = [task for task in report.tasks if task.outcome is TaskOutcome.HELD and task.stage is not Stage.AUDIT]
    assert {task.reason for task in held} == {Reason.BUDGET}
    assert {(task.stage, task.table) for task in held} >= {
        (Stage.COMPACT, GOLD), (Stage.EXPIRE, COINBASE), (Stage.EXPIRE, GOLD),
    }  # fmt: skip
    assert set(outcomes(report, Stage.AUDIT).values()) == {TaskOutcome.DONE}
    kept = night.ledger("SELECT count(*) FROM maintenance_tasks WHERE outcome = 'held' AND reason = 'budget'")
    assert kept == [(len(held),)]
