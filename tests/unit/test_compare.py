"""Why an audit of the flow and one of icekeeper's differ: a row for each explanation, and what is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from icekeeper.core.audit.compare import (
    Cause,
    Clues,
    Comparison,
    FlowAudit,
    audit_of_night,
    explain,
    window_in_zone,
)
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Trigger
from icekeeper.core.reasons import Reason
from tests.unit.builders import DAY, HOUR, SLOT, audit_policy

OK, WARNING, MISSING, ERROR = AuditStatus.OK, AuditStatus.WARNING, AuditStatus.MISSING_DATA, AuditStatus.ERROR
EXPIRED = Reason.SOURCE_EXPIRED
WINDOW = Window(SLOT - DAY, SLOT)
GOES_ON = Clues(offloaded_since=True)


def flow(clickhouse: int | None, iceberg: int | None, status: str = OK) -> FlowAudit:
    return FlowAudit("cold.a", WINDOW.start, WINDOW.end, SLOT + timedelta(minutes=10), clickhouse, iceberg, status)


def own(
    clickhouse: int | None,
    iceberg: int | None,
    status: AuditStatus = OK,
    reason: Reason | None = None,
    *,
    window: Window = WINDOW,
) -> AuditResult:
    return AuditResult(
        run_id=UUID(int=1),
        slot=SLOT,
        trigger=Trigger.MANUAL,
        run_timestamp=SLOT + 5 * HOUR,
        iceberg_table="cold.a",
        ch_source="a",
        layer="bronze",
        audit_window_hours=24,
        window_start=window.start,
        window_end=window.end,
        ch_row_count=clickhouse,
        iceberg_row_count=iceberg,
        delta=None,
        delta_pct=None,
        status=status,
        reason=reason,
        notes="a note",
    )


@pytest.mark.parametrize(
    ("theirs", "ours", "clues", "causes"),
    [
        pytest.param(flow(100, 100), own(100, 100), Clues(), [Cause.AGREE], id="equal"),
        pytest.param(flow(0, 0), own(0, 0, OK, Reason.SOURCE_EMPTY), Clues(), [Cause.AGREE], id="equal and empty"),
        pytest.param(flow(100, 90, MISSING), own(100, 90, MISSING), Clues(), [Cause.AGREE], id="equal loss"),
        pytest.param(flow(100, 101), own(100, 101), Clues(), [Cause.AGREE], id="equal surplus, both ok"),
        # surplus
        pytest.param(flow(100, 103, WARNING), own(100, 103), Clues(), [Cause.SURPLUS], id="surplus"),
        pytest.param(flow(100, 150, MISSING), own(100, 150), Clues(), [Cause.SURPLUS], id="large surplus"),
        # unmerged rows
        pytest.param(
            flow(120, 100, MISSING), own(100, 100), Clues(unmerged=120), [Cause.UNMERGED], id="all still unmerged"
        ),
        pytest.param(
            flow(120, 100, MISSING), own(100, 100), Clues(unmerged=110), [Cause.UNMERGED], id="some merged since"
        ),
        pytest.param(
            flow(120, 100, MISSING), own(100, 100), Clues(unmerged=100), [Cause.UNMERGED], id="all merged since"
        ),
        pytest.param(
            flow(110, 130, WARNING), own(100, 130), Clues(unmerged=110), [Cause.UNMERGED, Cause.SURPLUS],
            id="unmerged and surplus",
        ),
        # rows that came later
        pytest.param(flow(100, 90, MISSING), own(100, 100), GOES_ON, [Cause.LATER_ROWS], id="offloaded later"),
        pytest.param(flow(100, 100), own(101, 100), Clues(), [Cause.LATER_ROWS], id="late in the source"),
        pytest.param(
            flow(100, 90, MISSING), own(110, 110), GOES_ON, [Cause.LATER_ROWS, Cause.LATER_ROWS],
            id="late on both sides",
        ),
        pytest.param(
            flow(120, 90, MISSING), own(100, 100), replace(GOES_ON, unmerged=120), [Cause.UNMERGED, Cause.LATER_ROWS],
            id="unmerged, and offloaded later",
        ),
        pytest.param(flow(990, 1000), own(1000, 1000), Clues(), [Cause.LATER_ROWS], id="exactly 1 % late"),
        pytest.param(flow(989, 1000), own(1000, 1000), Clues(), [Cause.UNEXPLAINED], id="more than 1 % late"),
        # a cycle that was written twice is no row that came later
        pytest.param(flow(100, 100), own(100, 200), GOES_ON, [Cause.UNEXPLAINED], id="doubled since"),
        pytest.param(flow(100, 90, MISSING), own(100, 101), GOES_ON, [Cause.UNEXPLAINED], id="one row too many"),
        pytest.param(
            flow(100, 90, MISSING), own(100, 110), replace(GOES_ON, unmerged=110), [Cause.LATER_ROWS],
            id="unmerged rows offloaded later",
        ),
        pytest.param(flow(100, 100), own(110, 110), GOES_ON, [Cause.LATER_ROWS, Cause.LATER_ROWS], id="both grew"),
        # what can have merged
        pytest.param(flow(200, 100, MISSING), own(100, 100), Clues(unmerged=100), [Cause.UNMERGED], id="halved"),
        pytest.param(
            flow(201, 100, MISSING), own(100, 100), Clues(unmerged=100), [Cause.UNEXPLAINED], id="more than halved"
        ),
        pytest.param(
            flow(2000, 900, MISSING), own(900, 900), Clues(unmerged=900), [Cause.UNEXPLAINED], id="lost in the source"
        ),
        pytest.param(
            flow(290, 100, MISSING), own(100, 100), Clues(unmerged=300), [Cause.UNMERGED], id="many still unmerged"
        ),
        # an offload that keeps no state
        pytest.param(
            flow(100, 90, MISSING), own(100, 100), Clues(offloaded_since=None), [Cause.UNEXPLAINED], id="state unknown"
        ),
        # a zone slip
        pytest.param(
            flow(95, 100, WARNING), own(100, 100), Clues(in_zone=(95,), zone="Europe/Berlin"),
            [Cause.ZONE, Cause.SURPLUS], id="another day counted, fewer rows",
        ),
        pytest.param(
            flow(105, 100, WARNING), own(100, 100), Clues(in_zone=(130, 105), zone="Europe/Berlin"), [Cause.ZONE],
            id="another day counted, more rows",
        ),
        # a failed audit, and what is none
        pytest.param(flow(0, 0, OK), own(100, 100), GOES_ON, [Cause.UNEXPLAINED, Cause.UNEXPLAINED], id="zeros and ok"),
        pytest.param(flow(None, None, ERROR), own(None, None, ERROR), Clues(), [Cause.UNEXPLAINED], id="both failed"),
        pytest.param(flow(None, 5, OK), own(100, 100), Clues(), [Cause.UNEXPLAINED], id="no count and no error"),
        pytest.param(flow(0, 0, MISSING), own(100, 100), Clues(), [Cause.FLOW_FAILED], id="zeros"),
        pytest.param(flow(0, 0, ERROR), own(0, 0), Clues(), [Cause.FLOW_FAILED], id="error"),
        pytest.param(flow(None, None, ERROR), own(100, 100), Clues(), [Cause.FLOW_FAILED], id="error without counts"),
        pytest.param(flow(100, 0, ERROR), own(100, 100), Clues(), [Cause.FLOW_FAILED], id="one side failed"),
        # the source's TTL
        pytest.param(flow(100, 100), own(40, 100, ERROR, EXPIRED), Clues(), [Cause.EXPIRED], id="dropped since"),
        pytest.param(flow(100, 100), own(100, 100, ERROR, EXPIRED), Clues(), [Cause.EXPIRED], id="not dropped yet"),
        # none of these
        pytest.param(flow(100, 100), own(90, 100), Clues(), [Cause.UNEXPLAINED], id="fewer in the source"),
        pytest.param(flow(100, 100), own(100, 90, MISSING), GOES_ON, [Cause.UNEXPLAINED], id="fewer in iceberg"),
        pytest.param(flow(100, 90, MISSING), own(100, 100), Clues(), [Cause.UNEXPLAINED], id="no offload since"),
        pytest.param(flow(100, 0, MISSING), own(100, 100), GOES_ON, [Cause.UNEXPLAINED], id="a side counted as empty"),
        pytest.param(flow(97, 100), own(100, 100), Clues(in_zone=(95,)), [Cause.UNEXPLAINED], id="no zone slip"),
        pytest.param(flow(100, 97), own(100, 97, WARNING), Clues(), [Cause.UNEXPLAINED], id="other limits"),
        pytest.param(flow(100, 100), own(None, None, ERROR), Clues(), [Cause.UNEXPLAINED], id="not counted"),
        pytest.param(
            flow(120, 100, MISSING), own(100, 90, MISSING), Clues(unmerged=120), [Cause.UNMERGED, Cause.UNEXPLAINED],
            id="one side explained",
        ),
    ],
)  # fmt: skip
def test_why_two_audits_of_a_window_differ(
    theirs: FlowAudit, ours: AuditResult, clues: Clues, causes: list[Cause]
) -> None:
    found = explain(theirs, ours, clues, audit_policy())
    assert [each.cause for each in found] == causes
    assert all(each.text for each in found if each.cause is not Cause.AGREE)
    assert Comparison(theirs, None, ours, clues, found).explained is (Cause.UNEXPLAINED not in causes)


def test_the_rows_are_counted_in_the_texts() -> None:
    found = explain(flow(120, 90, MISSING), own(100, 115), replace(GOES_ON, unmerged=120), audit_policy())
    found += explain(flow(120, 130, WARNING), own(120, 130), Clues(), audit_policy())
    assert [each.text for each in found] == [
        "ClickHouse: the flow counted 20 rows that are still to be merged (without FINAL)",
        "Iceberg: 25 rows came after the flow's audit at 2026-02-18 02:10 UTC",
        "Iceberg held 10 rows more: the flow judges the absolute share, icekeeper what is missing",
    ]


def test_the_night_beside_a_row_of_the_flow_is_the_one_that_shares_most_of_its_window() -> None:
    midnight = SLOT.replace(hour=0)
    before = own(1, 1, window=Window(midnight - 2 * DAY, midnight - DAY))
    that_night = own(2, 2, window=Window(midnight - DAY, midnight))
    again = replace(that_night, run_timestamp=that_night.run_timestamp + HOUR)
    after = own(3, 3, window=Window(midnight, midnight + DAY))
    theirs = flow(1, 1)
    looked_back = replace(again, run_timestamp=again.run_timestamp + DAY, worse=False)
    assert audit_of_night(theirs, [before, that_night, again, after, looked_back]) is again
    assert audit_of_night(theirs, [before]) is None
    assert audit_of_night(theirs, []) is None


@pytest.mark.parametrize(
    ("zone", "start", "end"),
    [
        ("UTC", "2026-03-28T02:00Z", "2026-03-29T02:00Z"),
        ("Asia/Kathmandu", "2026-03-27T20:15Z", "2026-03-28T20:15Z"),
        ("America/New_York", "2026-03-28T06:00Z", "2026-03-29T06:00Z"),
        ("Europe/Berlin", "2026-03-28T01:00Z", "2026-03-29T01:00Z"),  # the clocks go forward at that very hour
    ],
)
def test_a_window_written_without_a_zone_is_read_in_the_servers(zone: str, start: str, end: str) -> None:
    window = Window(datetime(2026, 3, 28, 2, tzinfo=UTC), datetime(2026, 3, 29, 2, tzinfo=UTC))
    assert window_in_zone(window, ZoneInfo(zone)) == Window(datetime.fromisoformat(start), datetime.fromisoformat(end))
