"""What an operator is told first: each trouble alone, the worst first, and nothing where nothing is wrong."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from icekeeper.adapters.spool.spool import Waiting
from icekeeper.core.enums import AuditStatus, RunOutcome
from icekeeper.core.run_history import PastNight, RunHistory
from icekeeper.scheduling.pause import Pause
from icekeeper.status.gauges import DaemonState, HistorySummary
from icekeeper.status.problems import LATE, Facts, state, troubles

SLOT = datetime(2026, 2, 18, 2, tzinfo=UTC)
NOW = SLOT + timedelta(hours=3)


def ended(outcome: RunOutcome, *, failure_open: bool = True, **findings: int) -> HistorySummary:
    """The last night ended so; days of `missing_data` by table."""
    night = PastNight(uuid4(), SLOT, outcome, SLOT, SLOT + timedelta(minutes=4))
    days = {(f"cold.{table}", AuditStatus.MISSING_DATA): number for table, number in findings.items()}
    return replace(HistorySummary.of(RunHistory(nights=(night,)), open_days=days), failure_open=failure_open)


WELL = Facts(
    vitals=DaemonState(engine_up=True, leading=True),
    known=ended(RunOutcome.SUCCESS),
    parts={"engine": "up", "ledger": "up", "spool": "up", "configuration": "loaded", "lease": "held"},
    running=False,
)


def with_part(name: str, said: str) -> Facts:
    return replace(WELL, parts={**WELL.parts, name: said})


def with_vitals(**values: object) -> Facts:
    return replace(WELL, vitals=replace(WELL.vitals, **values))  # type: ignore[arg-type]


def test_where_nothing_is_wrong_nothing_is_said() -> None:
    assert troubles(WELL, NOW) == ()
    assert state(()) == "ok"


@pytest.mark.parametrize(
    ("seen", "severity", "said"),
    [
        (replace(WELL, known=ended(RunOutcome.FAILED)), "error", "The night of 2026-02-18 failed."),
        (replace(WELL, known=ended(RunOutcome.MISSED)), "error", "The night of 2026-02-18 was missed."),
        (replace(WELL, known=ended(RunOutcome.PARTIAL)), "warning", "The night of 2026-02-18 is partial."),
        (with_vitals(open_slots={SLOT}), "error", "The slot 2026-02-18 02:00 UTC is due"),
        (replace(WELL, known=ended(RunOutcome.SUCCESS, a=1)), "error", "cold.a: 1 day lacks rows"),
        (replace(WELL, known=ended(RunOutcome.SUCCESS, a=3)), "error", "cold.a: 3 days lack rows"),
        (with_part("ledger", "down"), "warning", "PostgreSQL does not answer"),
        (with_part("engine", "starting or down"), "warning", "There is no Spark session yet."),
        (with_part("spool", "down"), "error", "The spool can't be read."),
        (with_part("configuration", "the last reload failed"), "error", "The last reload was refused"),
        (with_vitals(spool=Waiting(5, 2, SLOT)), "error", "PostgreSQL refused 2 records."),
        (with_vitals(unrecorded_runs=1), "error", "The disk could not take the record of 1 runs"),
        (with_vitals(spool_corrupt_files=1), "warning", "A damaged spool was put aside."),
        (with_vitals(pause=Pause("ada", "k2", SLOT, None, "")), "warning", "The nights are paused without end by ada"),
    ],
)
def test_each_trouble_is_said_with_what_to_do(seen: Facts, severity: str, said: str) -> None:
    (trouble,) = troubles(seen, NOW)
    assert trouble.severity == severity
    assert trouble.text.startswith(said)
    assert trouble.advice
    assert state((trouble,)) == severity


@pytest.mark.parametrize("outcome", [RunOutcome.CANCELLED, RunOutcome.INTERRUPTED])
def test_a_night_that_somebody_ended_is_no_trouble(outcome: RunOutcome) -> None:
    assert troubles(replace(WELL, known=ended(outcome)), NOW) == ()


def test_a_failed_night_whose_findings_are_all_closed_is_no_trouble_any_more() -> None:
    assert troubles(replace(WELL, known=ended(RunOutcome.FAILED, failure_open=False)), NOW) == ()


def test_where_no_night_is_known_none_is_a_trouble() -> None:
    assert troubles(replace(WELL, known=HistorySummary.of(RunHistory())), NOW) == ()


def test_a_slot_is_late_after_an_hour_unless_somebody_works() -> None:
    waiting = with_vitals(open_slots={SLOT})
    assert troubles(waiting, SLOT + LATE - timedelta(seconds=1)) == ()
    assert len(troubles(waiting, SLOT + LATE)) == 1
    assert troubles(replace(waiting, running=True), NOW) == ()


def test_a_slot_that_waits_for_the_end_of_a_pause_is_no_trouble_of_its_own() -> None:
    (told,) = troubles(with_vitals(open_slots={SLOT}, pause=Pause("ada", "k2", SLOT, None, "")), NOW)
    assert told.severity == "warning"


def test_nights_that_nobody_runs_are_a_trouble() -> None:
    (told,) = troubles(replace(WELL, led=False), NOW)
    assert told.text == "Nobody runs the nights."


def test_parts_that_are_not_known_yet_are_no_trouble() -> None:
    assert troubles(replace(WELL, parts={}), NOW) == ()


def test_the_worst_stands_first() -> None:
    seen = replace(with_part("ledger", "down"), known=ended(RunOutcome.FAILED))
    found = troubles(seen, NOW)
    assert [trouble.severity for trouble in found] == ["error", "warning"]
    assert state(found) == "error"
