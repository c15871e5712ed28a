"""Every record comes back from JSON as it went there."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icekeeper.adapters.records import event_from_plain, event_to_plain, from_json, from_plain, to_json
from icekeeper.core.audit.records import AuditResult, MissingHour
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Proof, TaskOutcome, Trigger
from icekeeper.core.events import Event, RunEnded, RunStarted, TaskEnded, TaskProgressed, TaskStarted
from icekeeper.core.history import ConfigLoad
from icekeeper.core.plain import report_document, to_plain
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunOpening, RunReport, StageResult
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.state import Ref
from tests.unit.builders import SLOT, health, result
from tests.unit.reports import REPORT

EXAMPLE = AuditResult(
    run_id=UUID("3f2a0000-0000-4000-8000-000000000001"),
    slot=SLOT,
    trigger=Trigger.SCHEDULE,
    run_timestamp=SLOT,
    iceberg_table="cold.a",
    ch_source="a",
    layer="gold",
    audit_window_hours=24,
    window_start=SLOT,
    window_end=SLOT,
    ch_row_count=10,
    iceberg_row_count=9,
    delta=-1,
    delta_pct=Decimal("-10"),
    status=AuditStatus.MISSING_DATA,
    reason=None,
    notes="",
    ch_final=True,
    missing_hours=(MissingHour(SLOT, 7, 5),),
    proof=Proof.FILES,
)

instants = st.datetimes(timezones=st.just(UTC))
seconds = st.floats(allow_nan=False)
results = st.builds(StageResult, started_at=instants, duration_s=seconds)
hours = st.builds(MissingHour, start=instants)
audits = st.builds(
    AuditResult,
    slot=instants,
    run_timestamp=instants,
    window_start=instants,
    window_end=instants,
    delta_pct=st.none() | st.decimals(allow_nan=False, allow_infinity=False),
    watermark=st.none() | instants,
    missing_hours=st.lists(hours, max_size=3).map(tuple),
)
openings = st.builds(RunOpening, slot=instants, started_at=instants)
reports = st.builds(
    RunReport,
    slot=instants,
    started_at=instants,
    finished_at=instants,
    tasks=st.lists(results, max_size=2).map(tuple),
    audits=st.lists(audits, max_size=2).map(tuple),
)
plans = st.builds(Plan, window=st.none() | st.builds(Window, instants, instants))
loads = st.builds(ConfigLoad, at=instants)
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(RunStarted, openings),
    st.builds(TaskStarted),
    st.builds(TaskProgressed),
    st.builds(TaskEnded, results, st.none() | audits),
    st.builds(RunEnded, reports),
)


@given(st.one_of(results, audits, openings, reports, plans, loads))
def test_a_record_comes_back_as_it_was_and_takes_one_line(record: Any) -> None:
    text = to_json(record)
    assert from_json(type(record), text) == record
    assert "\n" not in text
    assert text.isascii()


@given(events)
def test_an_event_comes_back_as_it_was_and_takes_one_line(event: Event) -> None:
    text = json.dumps(event_to_plain(event), allow_nan=False)
    assert event_from_plain(json.loads(text)) == event
    assert "\n" not in text


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_is_its_word_and_comes_back_with_its_advice(reason: Reason) -> None:
    task = result(TaskOutcome.FAILED, reason=reason)
    assert json.loads(to_json(task))["reason"] == reason.value
    assert from_json(StageResult, to_json(task)).reason is reason


def test_decimals_durations_and_zones_keep_their_form() -> None:
    text = to_json(replace(EXAMPLE, delta_pct=Decimal("-10.0000")))
    assert str(from_json(AuditResult, text).delta_pct) == "-10.0000"
    assert from_json(AuditResult, text).slot.utcoffset() == timedelta(0)
    ref = Ref("main", "branch", 2**63 - 1, timedelta(days=7, microseconds=1), None, 3)
    assert from_json(Ref, to_json(ref)) == ref


def test_what_json_can_not_hold_does_not_cost_the_record() -> None:
    """A file name that is no UTF-8 reaches the text of an error with lone surrogates."""
    odd = replace(result(TaskOutcome.FAILED), error="open a\udcffb\0c", duration_s=float("inf"), before=health())
    assert from_json(StageResult, to_json(odd)) == replace(odd, error="open a?b\0c")


def test_two_versions_understand_each_other() -> None:
    newer = {**json.loads(to_json(EXAMPLE)), "a_field_of_tomorrow": [1]}
    older = {key: value for key, value in newer.items() if key not in ("ch_final", "missing_hours", "proof")}
    assert from_json(AuditResult, json.dumps(newer)) == EXAMPLE
    assert from_json(AuditResult, json.dumps(older)) == replace(EXAMPLE, ch_final=None, missing_hours=(), proof=None)
    assert from_plain(AuditResult, {**newer, "slot": SLOT}) == EXAMPLE


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"event": "run_paused", "data": {}}', '{"event": "run_ended"}'])
def test_what_is_no_event_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        event_from_plain(json.loads(text))


def test_a_report_as_a_document_has_the_promised_names() -> None:
    document = json.loads(json.dumps(report_document(REPORT)))
    assert list(document) == [
        "run_id", "slot", "trigger", "outcome", "started_at", "finished_at", "duration_s", "settings_hash", "tasks",
        "audits", "older_days",
    ]  # fmt: skip
    assert (document["slot"], document["duration_s"]) == ("2026-02-18T02:00:00Z", 240.0)
    first = document["tasks"][0]
    for key in ("stage", "table", "outcome", "reason", "attempts", "duration_s", "before", "after", "error"):
        assert key in first
    assert set(first["before"]) == {
        "data_files", "small_files", "bytes", "records", "delete_files", "manifests", "snapshots", "snapshot_id",
        "snapshot_id_text",
    }  # fmt: skip
    assert document["audits"][0]["missing_hours"] == [
        {"start": "2026-02-17T06:00:00Z", "clickhouse": 100, "iceberg": 0}
    ]


def test_beside_a_snapshot_id_stands_its_text_for_readers_that_round_large_numbers() -> None:
    number = 8_123_456_789_012_345_678
    for record in (
        replace(EXAMPLE, snapshot_id=number),
        {"snapshot_id": number},
        replace(health(), snapshot_id=number),
    ):
        document = to_plain([record])[0]
        assert (document["snapshot_id"], document["snapshot_id_text"]) == (number, str(number))
    assert to_plain(EXAMPLE)["snapshot_id_text"] is None
    assert "snapshot_id_text" not in json.loads(to_json(EXAMPLE)), "what is stored stays as it is"
