"""The problems an operator is shown: each alone, the worst first, and none where nothing is wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from icekeeper.adapters.spool.outbox import Waiting
from icekeeper.core.audit.days import SOURCE_IS_EMPTY
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import Hold, PastNight, RunHistory
from icekeeper.scheduling.pause import Pause
from icekeeper.status.gauges import DaemonState, HistorySummary
from icekeeper.status.problems import LATE, Facts, overall, problems
from tests.unit.builders import table_policy

SLOT = datetime(2026, 2, 18, 2, tzinfo=UTC)
NOW = SLOT + timedelta(hours=3)


def ended(outcome: RunOutcome, *, failure_open: bool = True, **findings: int) -> HistorySummary:
    """The last night ended so; days of `missing_data` by table."""
    night = PastNight(uuid4(), SLOT, outcome, SLOT, SLOT + timedelta(minutes=4))
    days = {(f"cold.{table}", AuditStatus.MISSING_DATA): number for table, number in findings.items()}
    return replace(HistorySummary.of(RunHistory(nights=(night,)), open_days=days), failure_open=failure_open)


def held(
    nights: int, stage: Stage = Stage.COMPACT, table: str = "cold.a", reason: Reason = Reason.OFFLOAD_RUNNING
) -> Facts:
    """A stage was held for a table on the last nights."""
    hold = Hold(nights, reason)
    return replace(WELL, history=replace(WELL.history, holds={(stage, table): hold}))


def empty(days: int, table: str = "cold.a") -> Facts:
    """Of the last days only Iceberg had rows."""
    return replace(WELL, history=replace(WELL.history, empty_days={table: days}))


WELL = Facts(
    state=DaemonState(engine_up=True, leading=True, policies=(table_policy("cold.a"),)),
    history=ended(RunOutcome.SUCCESS),
    components={"engine": "up", "ledger": "up", "spool": "up", "configuration": "loaded", "lease": "held"},
    running=False,
)


def with_component(name: str, state: str) -> Facts:
    return replace(WELL, components={**WELL.components, name: state})


def with_state(**values: object) -> Facts:
    return replace(WELL, state=replace(WELL.state, **values))  # type: ignore[arg-type]


def test_where_nothing_is_wrong_there_is_no_problem() -> None:
    assert problems(WELL, NOW) == ()
    assert overall(()) == "ok"


@pytest.mark.parametrize(
    ("facts", "severity", "text"),
    [
        (replace(WELL, history=ended(RunOutcome.FAILED)), "error", "The night of 2026-02-18 failed."),
        (replace(WELL, history=ended(RunOutcome.MISSED)), "error", "The night of 2026-02-18 was missed."),
        (replace(WELL, history=ended(RunOutcome.PARTIAL)), "warning", "The night of 2026-02-18 is partial."),
        (with_state(open_slots={SLOT}), "error", "The slot 2026-02-18 02:00 UTC is due"),
        (replace(WELL, history=ended(RunOutcome.SUCCESS, a=1)), "error", "cold.a: 1 day lacks rows"),
        (replace(WELL, history=ended(RunOutcome.SUCCESS, a=3)), "error", "cold.a: 3 days lack rows"),
        (held(3), "warning", "cold.a: compact held 3 nights in a row (offload_running)."),
        (held(9, Stage.EXPIRE), "warning", "cold.a: expire held 9 nights in a row (offload_running)."),
        (empty(3), "warning", "cold.a: ClickHouse held no row of the last 3 days that were counted, and Iceberg did."),
        (with_component("ledger", "down"), "warning", "PostgreSQL does not answer"),
        (with_component("engine", "starting or down"), "warning", "There is no Spark session yet."),
        (with_component("spool", "down"), "error", "The spool can't be read."),
        (with_component("configuration", "the last reload failed"), "error", "The last reload was refused"),
        (with_state(spool=Waiting(5, 2, SLOT)), "error", "PostgreSQL refused 2 records."),
        (with_state(unrecorded_runs=1), "error", "The disk could not take the record of 1 run"),
        (with_state(undeleted_files={"cold.a": 2}), "warning", "cold.a: 2 files of expired snapshots could not be"),
        (with_state(spool_corrupt_files=1), "warning", "A damaged spool was set aside."),
        (with_state(pause=Pause("ada", "k2", SLOT, None, "")), "warning", "The nights are paused without end by ada"),
    ],
)
def test_each_problem_comes_with_advice(facts: Facts, severity: str, text: str) -> None:
    (problem,) = problems(facts, NOW)
    assert problem.severity == severity
    assert problem.text.startswith(text)
    assert problem.advice
    assert overall((problem,)) == severity


@pytest.mark.parametrize("outcome", [RunOutcome.CANCELLED, RunOutcome.INTERRUPTED])
def test_a_night_that_was_ended_on_purpose_is_no_problem(outcome: RunOutcome) -> None:
    assert problems(replace(WELL, history=ended(outcome)), NOW) == ()


def test_a_failed_night_whose_findings_are_all_closed_is_no_problem_any_more() -> None:
    assert problems(replace(WELL, history=ended(RunOutcome.FAILED, failure_open=False)), NOW) == ()


def test_where_no_night_is_known_none_is_a_problem() -> None:
    assert problems(replace(WELL, history=HistorySummary.of(RunHistory())), NOW) == ()


def test_an_empty_source_is_a_problem_after_the_third_day_and_links_to_its_table() -> None:
    assert problems(empty(2), NOW) == ()
    (problem,) = problems(empty(3), NOW)
    assert (problem.link, problem.advice) == ("/tables/cold.a", SOURCE_IS_EMPTY)
    assert problems(empty(3, "cold.disabled"), NOW) == ()


def test_a_stage_that_is_held_is_a_problem_after_the_third_night_and_links_to_its_table() -> None:
    assert problems(held(2), NOW) == ()
    (problem,) = problems(held(3), NOW)
    assert (problem.link, problem.advice) == ("/tables/cold.a", Reason.OFFLOAD_RUNNING.advice)
    assert problems(held(3, table="cold.disabled"), NOW) == ()


def test_a_table_that_a_wrong_rewrite_holds_is_a_problem_at_once() -> None:
    (problem,) = problems(held(1, reason=Reason.REWRITE_MISMATCH), NOW)
    assert (problem.severity, problem.text) == ("error", "cold.a: compact held last night (rewrite_mismatch).")


def test_a_slot_is_late_after_an_hour_unless_a_run_is_under_way() -> None:
    waiting = with_state(open_slots={SLOT})
    assert problems(waiting, SLOT + LATE - timedelta(seconds=1)) == ()
    assert len(problems(waiting, SLOT + LATE)) == 1
    assert problems(replace(waiting, running=True), NOW) == ()


def test_a_slot_that_waits_for_the_end_of_a_pause_is_no_problem_of_its_own() -> None:
    (problem,) = problems(with_state(open_slots={SLOT}, pause=Pause("ada", "k2", SLOT, None, "")), NOW)
    assert problem.severity == "warning"


def test_nights_that_no_daemon_runs_are_a_problem() -> None:
    (problem,) = problems(replace(WELL, has_leader=False), NOW)
    assert problem.text == "No daemon runs the nights."


def test_parts_that_are_not_known_yet_are_no_problem() -> None:
    assert problems(replace(WELL, components={}), NOW) == ()


def test_the_worst_stands_first() -> None:
    facts = replace(with_component("ledger", "down"), history=ended(RunOutcome.FAILED))
    found = problems(facts, NOW)
    assert [problem.severity for problem in found] == ["error", "warning"]
    assert overall(found) == "error"
