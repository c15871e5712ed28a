"""What the page says: its values, its calendar, its charts, and its templates on the oddest documents there may be."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import date, datetime, timedelta
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icekeeper import pages
from icekeeper.core.audit.records import Explanation, FindingKind
from icekeeper.core.enums import AuditStatus, RunOutcome
from icekeeper.core.run_history import PastNight, RunHistory
from icekeeper.pages import audited_days, charts, filters, views
from icekeeper.pages.form_pages import way_back
from icekeeper.pages.responses import environment
from icekeeper.status import audit_schemas, run_schemas, schemas
from icekeeper.status.gauges import DaemonState, HistorySummary
from icekeeper.status.problems import Facts, problems
from tests.unit.builders import DAY, HOUR, SLOT

STYLE = (Path(pages.__file__).parent / "static" / "style.css").read_text()
HOSTILE = "<script>alert('x')</script>\"'&"
RUN = UUID("00000000-0000-4000-8000-000000000001")


def plain(text: str) -> str:
    """With ordinary blanks and signs."""
    return text.replace("\N{NARROW NO-BREAK SPACE}", " ").replace("−", "-")


def test_every_link_of_the_templates_begins_with_the_path_of_the_page() -> None:
    folder = Path(pages.__file__).parent / "templates"
    for template in folder.glob("*.html"):
        links = re.findall(r'(?:href|action|src)="([^"]*)"', template.read_text())
        bad = [link for link in links if not link.startswith(("{{ root() }}/", "{{ root() }}{{", "#", "?"))]
        assert not bad, template.name
    assert not re.search(r"[\"'`]/(?!/)", (folder.parent / "static" / "live.js").read_text())


# --- values


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0, "0"), (999, "999"), (1234567, "1 234 567")],
)
def test_numbers_are_grouped(value: float | None, text: str) -> None:
    assert plain(filters.number(value)) == text


def test_a_difference_has_its_sign_and_none_has_a_dash() -> None:
    assert [plain(filters.signed(value)) for value in (None, 0, 5, -1200)] == ["–", "0", "+5", "-1 200"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (0.0, "0 %"), (-8.3333, "-8.33 %"), (25, "+25.00 %"), (-0.0004, "-0.0004 %")],
)
def test_a_share_is_never_rounded_to_nothing(value: float | None, text: str) -> None:
    assert plain(filters.percent(value)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "0.977 KiB"),
        (1000 * 1024, "0.977 MiB"),
        (128 * 1024**2, "128 MiB"),
        (999.5 * 1024**5, "1e+03 PiB"),
    ],
)
def test_sizes_stay_in_three_digits(value: float | None, text: str) -> None:
    assert plain(filters.size(value)) == text


@given(st.floats(min_value=0, max_value=999 * 1024.0**5))
def test_no_size_is_written_with_an_exponent(value: float) -> None:
    assert "e" not in filters.size(value)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0 ms"),
        (0.9996, "1.0 s"),
        (4.24, "4.2 s"),
        (9.96, "10 s"),
        (59.6, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (200000, "2 d 7 h"),
    ],
)
def test_durations_are_in_two_units_at_most(seconds: float | None, text: str) -> None:
    assert plain(filters.duration(seconds)) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (500, "500"), (10_000, "10 k"), (1_250_000, "1.25 M"), (-60_000, "-60 k"), (3e9, "3 G")],
)
def test_levels_are_brief(value: float, text: str) -> None:
    assert plain(filters.brief(value)) == text


def test_instants_are_in_utc_whatever_they_were_in() -> None:
    paris = datetime.fromisoformat("2026-02-18T03:00:17+01:00")
    assert filters.instant(paris) == "2026-02-18 02:00"
    assert filters.second(paris) == "2026-02-18 02:00:17"
    assert filters.machine(paris) == "2026-02-18T02:00:17Z"
    assert (filters.instant(None), filters.second(None)) == ("–", "–")


def test_what_stands_between_backticks_is_code_and_everything_is_escaped() -> None:
    assert filters.marked("run `icekeeper run` <now>") == "run <code>icekeeper run</code> &lt;now&gt;"
    assert filters.marked("`<b>`") == "<code>&lt;b&gt;</code>"
    # One that is not closed marks nothing.
    assert filters.marked("a ` b") == "a  b"
    assert filters.words(None) == ""
    assert filters.words("missing_data") == "missing data"


# --- the calendar


def night(day: str, outcome: str | None = "success", duration_s: float | None = 60.0) -> run_schemas.Night:
    slot = datetime.fromisoformat(f"{day}T02:00:00+00:00")
    return run_schemas.Night(
        slot=slot, run_id=uuid4(), trigger="schedule", outcome=outcome, started_at=slot, duration_s=duration_s
    )


def test_the_calendar_ends_today_and_begins_on_a_monday() -> None:
    weeks = views.calendar((), date(2026, 2, 18), 60)
    days = [day.day for week in weeks for day in week.days]
    assert days[0].weekday() == 0
    assert days[-1] == date(2026, 2, 18)
    assert days == [days[0] + timedelta(days=each) for each in range(len(days))]
    assert 60 <= len(days) <= 66
    assert {day.word for week in weeks for day in week.days} == {"none"}


@given(st.dates(min_value=date(2000, 1, 1), max_value=date(2100, 1, 1)))
def test_the_months_of_a_calendar_never_touch(today: date) -> None:
    weeks = views.calendar((), today, 60)
    labelled = [number for number, week in enumerate(weeks) if week.month]
    assert labelled
    assert all(later - earlier >= 2 for earlier, later in pairwise(labelled))


def test_a_day_shows_what_ran_for_it_last() -> None:
    def word(*outcomes: str | None) -> str:
        """Of runs that began one after the other, told newest first."""
        nights = [
            night("2026-02-18", outcome).model_copy(update={"started_at": SLOT + number * HOUR})
            for number, outcome in enumerate(outcomes)
        ]
        return views.calendar(nights[::-1], date(2026, 2, 18), 1)[-1].days[-1].word

    assert word("failed", "success") == "success"
    assert word("success", "failed") == "failed"
    assert word("failed", None) == "running"
    assert word("failed", "interrupted") == "failed"
    assert word("interrupted") == "interrupted"
    # What a newer icekeeper says is shown rather than hidden.
    assert word("success", "hibernated") == "hibernated"


# --- hours, and what comes first


def audit(status: str = "ok", **change: Any) -> audit_schemas.Audit:
    start = SLOT.replace(hour=0) - DAY
    given: dict[str, Any] = {
        "run_id": UUID(int=1), "slot": SLOT, "trigger": "schedule",
        "iceberg_table": "cold.t", "ch_source": "t", "layer": "bronze", "run_timestamp": SLOT, "audit_window_hours": 24,
        "window_start": start, "window_end": start + DAY, "ch_row_count": 100, "iceberg_row_count": 90, "delta": -10,
        "delta_pct": -10.0, "status": status, "reason": None, "notes": None, "snapshot_id": 1, "ch_query": "SELECT 1",
        "iceberg_query": None, "ch_final": None, "watermark": None, "missing_hours": (),
    }  # fmt: skip
    return audit_schemas.Audit.model_validate({**given, **change})


def comparison(*columns: str) -> dict[str, Any]:
    return {
        "columns": columns, "compare": (), "distinct": False, "clickhouse": 1440, "iceberg": 1320, "equal": False,
        "sample": None, "missing": 120, "extra": 0, "duplicate": 0, "changed": 0, "explored": 1440, "unexplored": 0,
    }  # fmt: skip


def task(outcome: str = "done", **change: Any) -> run_schemas.Task:
    given: dict[str, Any] = {
        "stage": "compact", "table": "cold.t", "outcome": outcome, "reason": None, "note": "", "attempts": 1,
        "started_at": SLOT, "duration_s": 1.0, "before": None, "after": None, "error": None,
    }  # fmt: skip
    return run_schemas.Task.model_validate({**given, **change})


YESTERDAY = SLOT.replace(hour=0) - DAY
MISSING, EXTRA, DUPLICATE, CHANGED, FILE = FindingKind


def finding(kind: str, start: str, end: str, rows: int = 1, **change: Any) -> audit_schemas.Finding:
    """Of the day before the slot, from HH:MM to HH:MM."""
    at = [YESTERDAY + HOUR * int(text[:2]) + timedelta(minutes=int(text[3:])) for text in (start, end)]
    given: dict[str, Any] = {
        "kind": kind, "start": at[0], "end": at[1], "rows": rows, "clickhouse": 100, "iceberg": 90,
        "explanation": None, "evidence": "", "sample_keys": (), "files": (),
    }  # fmt: skip
    return audit_schemas.Finding.model_validate({**given, **change})


def lacking(hour: int) -> dict[str, Any]:
    """An hour that lacks 40 rows of 60, as an older icekeeper knows it."""
    return {"start": YESTERDAY + hour * HOUR, "clickhouse": 60, "iceberg": 20}


def test_the_hours_of_a_window_say_what_was_found_in_them() -> None:
    found = [
        finding(MISSING, "13:00", "15:00"),
        finding(MISSING, "20:59", "21:00"),
        finding(CHANGED, "14:03", "14:04"),
        finding(FILE, "20:10", "20:25"),
        finding("melted", "23:45", "24:00"),
    ]
    strip = views.hours(audit("missing_data", findings=found))
    assert [hour.start.hour for hour in strip] == list(range(24))
    assert {hour.start.hour: hour.found for hour in strip if hour.found} == {
        13: {"missing": "13:00-15:00"},
        14: {"missing": "13:00-15:00", "changed": "14:03-14:04"},
        20: {"missing": "20:59-21:00", "file": "20:10-20:25"},
        23: {"melted": "23:45-24:00"},
    }


def test_many_times_of_a_kind_are_named_in_their_order_and_some_only_counted() -> None:
    found = [finding(MISSING, f"{hour:02}:00", f"{hour:02}:01") for hour in reversed(range(9))]
    assert views.times(audit(findings=found)) == {
        "missing": "00:00-00:01, 01:00-01:01, 02:00-02:01, 03:00-03:01, 04:00-04:01, 05:00-05:01 and 3 more"
    }


def test_of_an_icekeeper_without_findings_the_hours_that_lack_rows_are_shown() -> None:
    old = audit("missing_data", missing_hours=[lacking(13)])
    assert [(hour.start.hour, hour.found) for hour in views.hours(old) if hour.found] == [
        (13, {"missing": "13:00-14:00"})
    ]
    ((one,),) = [group.findings for group in views.groups(old)]
    assert (one.kind, one.rows, one.clickhouse, one.iceberg) == ("missing", 40, 60, 20)
    # Findings say more than hours.
    assert [
        group.kind
        for group in views.groups(audit(missing_hours=[lacking(13)], findings=[finding(EXTRA, "01:00", "01:01")]))
    ] == ["extra"]


def test_a_window_in_which_nothing_was_found_or_of_weeks_has_no_strip() -> None:
    assert views.hours(audit()) == ()
    found = [finding(MISSING, "13:00", "15:00")]
    week = audit(findings=found, window_end=YESTERDAY + 7 * DAY)
    assert len(views.hours(week)) == 168
    assert views.times(week) == {"missing": "02-17 13:00-15:00"}
    more = audit(findings=found, window_end=YESTERDAY + 7 * DAY + HOUR)
    assert views.hours(more) == ()
    assert [group.rows for group in views.groups(more)] == [1]


def test_a_window_that_is_not_on_whole_hours_has_all_hours_that_it_touches() -> None:
    start, end = YESTERDAY + HOUR / 2, YESTERDAY + HOUR + timedelta(seconds=1)
    found = [finding(MISSING, "00:30", "01:01").model_copy(update={"end": end})]
    strip = views.hours(audit(findings=found, window_start=start, window_end=end))
    assert [(hour.start.hour, list(hour.found)) for hour in strip] == [(0, ["missing"]), (1, ["missing"])]


def test_findings_are_grouped_by_what_they_are_and_what_explains_them() -> None:
    lost = Explanation.CYCLE_LOST
    found = [
        finding(MISSING, "13:00", "15:00", 100, explanation=lost, evidence="none of 100 rows"),
        finding(MISSING, "20:00", "21:00", 7),
        finding(MISSING, "22:00", "22:15", 10, explanation=lost, evidence="none of 10 rows"),
        finding(EXTRA, "20:00", "21:00", 3, explanation="melted", evidence="the sun"),
    ]
    shown = [
        (one.kind, one.explanation, one.advice, one.rows, one.evidence) for one in views.groups(audit(findings=found))
    ]
    assert shown == [
        ("missing", "cycle_lost", lost.advice, 110, ""),
        ("missing", None, None, 7, ""),
        ("extra", "melted", None, 3, "the sun"),
    ]


def test_a_key_has_the_names_of_its_columns_as_far_as_they_are_known() -> None:
    assert views.key(audit(), ("BTC", None)) == "BTC, NULL"
    named = audit(key_comparison=comparison("symbol", "number"))
    assert views.key(named, ("BTC", "17")) == "symbol=BTC, number=17"
    assert views.key(named, ("BTC", None, "x")) == "symbol=BTC, number=NULL, x"


def test_what_an_operator_must_see_comes_first_and_the_rest_keeps_its_order() -> None:
    ack = {"by": "ada", "host": "k2", "at": SLOT, "note": "known"}
    given = [audit("ok"), audit("missing_data", ack=ack), audit("warning"), audit("error"), audit("missing_data")]
    assert [(one.status, one.ack is not None) for one in views.urgent_audits(given)] == [
        ("missing_data", False), ("error", False), ("warning", False), ("ok", False), ("missing_data", True),
    ]  # fmt: skip
    tasks = [task("done", table="a"), task("held", table="b"), task("failed", table="c"), task("skipped", table="d")]
    assert [one.table for one in views.urgent_tasks(tasks)] == ["c", "b", "a", "d"]
    assert list(views.tally(["ok", "ok", "error"]).items()) == [("error", 1), ("ok", 2)]


# --- charts


def table(**change: Any) -> schemas.Table:
    given: dict[str, Any] = {
        "name": "cold.t", "source": "t", "layer": "bronze", "health": None, "audit": None, "open_findings": 0,
        "healths": (), "audits": (), "tasks": (),
    }  # fmt: skip
    return schemas.Table.model_validate({**given, **change})


def health(**change: Any) -> dict[str, Any]:
    given = {
        "data_files": 10, "small_files": 2, "bytes": 10**9, "records": 1000, "delete_files": 0, "manifests": 1,
        "snapshots": 5, "snapshot_id": 1,
    }  # fmt: skip
    return {**given, **change}


def point(days_ago: int, **change: Any) -> dict[str, Any]:
    at = SLOT - days_ago * DAY
    return {"run_id": RUN, "slot": at, "at": at, "health": health(**change)}


def audited(days_ago: int, delta: int | None, status: str = "ok") -> dict[str, Any]:
    start = SLOT.replace(hour=0) - days_ago * DAY
    rows = None if delta is None else 1000 + delta
    return {
        "run_id": RUN, "window_start": start, "window_end": start + DAY, "ch_row_count": 1000,
        "iceberg_row_count": rows, "delta": delta, "delta_pct": None, "status": status, "reason": None,
    }  # fmt: skip


def done(days_ago: int, stage: str = "compact", run_id: UUID = RUN) -> dict[str, Any]:
    at = SLOT - days_ago * DAY
    return {
        "run_id": run_id, "slot": at, "stage": stage, "outcome": "done", "reason": None, "started_at": at,
        "duration_s": 3.0,
    }  # fmt: skip


def drawn(one: schemas.Table) -> dict[str, charts.Chart]:
    return {chart.title: chart for chart in charts.of_table(one, SLOT - 90 * DAY, SLOT)}


def test_a_table_that_nothing_is_known_of_has_empty_charts() -> None:
    assert all(chart.empty for chart in drawn(table()).values())
    assert charts.durations((), SLOT - 60 * DAY, SLOT).empty


def test_a_single_value_is_a_dot_in_the_drawing() -> None:
    files = drawn(table(healths=[point(45)]))["Data files"]
    assert files.lines[0].points == ((500.0, 0.0),)
    assert files.lines[0].dots == "M500.0,0.0h0"
    assert [level.text for level in files.levels] == ["0", "5", "10"]
    assert files.label == "Data files. Newest: 10 all; 2 small"
    assert [spot.text for spot in files.spots] == ["2026-01-04: 10 all, 2 small"]


@pytest.mark.parametrize("value", [0, 1, 7, 10**6, 10**15])
def test_a_value_that_never_changes_stays_inside_the_drawing(value: int) -> None:
    healths = [point(each, snapshots=value) for each in (50, 20, 1)]
    snapshots = drawn(table(healths=healths))["Snapshots"]
    heights = {y for _, y in snapshots.lines[0].points}
    assert len(heights) == 1
    assert 0 <= heights.pop() <= charts.HEIGHT


def test_a_difference_may_be_negative_positive_or_both() -> None:
    title = "Iceberg's rows less ClickHouse's"
    for deltas in ((-50, -20), (50, 20), (-50, 20), (0, 0)):
        chart = drawn(table(audits=[audited(9 - each, delta) for each, delta in enumerate(deltas)]))[title]
        levels = {level.text: level.y for level in chart.levels}
        assert "0" in levels
        assert 2 <= len(levels) <= 5
        for (_, y), delta in zip(chart.lines[0].points, deltas, strict=True):
            assert (y > levels["0"], y < levels["0"]) == (delta < 0, delta > 0)


def test_what_could_not_be_counted_is_no_zero_in_a_chart() -> None:
    rows = drawn(table(audits=[audited(3, None, "error"), audited(2, 0)]))["Rows of each day"]
    assert [len(line.points) for line in rows.lines] == [1, 1]


@given(st.lists(st.floats(min_value=0, max_value=1e9), min_size=1, max_size=20))
def test_bars_stay_inside_their_drawing_and_its_levels_are_few(lengths: list[float]) -> None:
    nights = [night(f"2026-02-{number + 1:02d}", duration_s=length) for number, length in enumerate(lengths)]
    chart = charts.durations(nights, SLOT.replace(day=1, hour=0), SLOT.replace(day=28, hour=0))
    for bar in chart.bars:
        assert bar.x >= 0
        assert bar.x + bar.width <= charts.WIDTH + 0.001
        assert bar.y >= -0.001
        assert bar.height >= 0
    assert len(chart.levels) <= 5


def test_a_bar_has_the_colour_of_its_outcome_and_says_what_it_is() -> None:
    nights = [night("2026-02-17", "failed", 200), night("2026-02-18", None, 5), night("2026-02-16", duration_s=None)]
    chart = charts.durations(nights, SLOT - 60 * DAY, SLOT + DAY)
    assert [bar.word for bar in chart.bars] == ["failed", "running"]
    assert plain(chart.bars[0].text) == "Tue 17 Feb 2026: 3 min 20 s, failed"


def test_years_have_ticks_with_their_year_and_nothing_to_point_at() -> None:
    one = table(healths=[point(each) for each in range(1800, 0, -1)])
    files = charts.of_table(one, SLOT - 1825 * DAY, SLOT)[0]
    assert [tick.text for tick in files.ticks] == ["May 2022", "Aug 2023", "Nov 2024"]
    assert files.spots == ()
    assert files.lines[0].dots == ""


def test_the_nights_of_a_table_are_one_row_each_the_newest_first() -> None:
    other = uuid4()
    tasks = [done(2, "compact"), done(2, "expire"), done(1, "compact", other)]
    nights = views.nights_of(table(tasks=tasks), 30)
    assert [(one.run_id, sorted(one.tasks)) for one in nights] == [(other, ["compact"]), (RUN, ["compact", "expire"])]
    assert [one.run_id for one in views.nights_of(table(tasks=tasks), 1)] == [other]
    found = views.unclean(table(audits=[audited(3, -5, "missing_data"), audited(2, 0), audited(1, -1, "warning")]), 30)
    assert [one.status for one in found] == ["warning", "missing_data"]


# --- the templates


class Outline(HTMLParser):
    """Which elements there are, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.elements)


def shown(template: str, *, signed_in: bool = True, **values: Any) -> str:
    """Rendered as Pages does it; nothing of a document has become an element, an attribute or a style."""
    text = (
        environment()
        .get_template(template)
        .render(path="/", now=SLOT, changes_allowed=True, sign_in_possible=True, signed_in=signed_in, **values)
    )
    outline = Outline(text)
    assert "<script>alert" not in text
    assert outline.count("script") == 1
    assert outline.count("h1") == 1
    assert outline.count("main") == 1
    for tag, attributes in outline.elements:
        assert "style" not in attributes, "the Content-Security-Policy forbids it"
        assert not [name for name in attributes if name.startswith("on")], "the Content-Security-Policy forbids it"
        for name in ("src", "href", "action"):
            assert (attributes.get(name) or "/").startswith(("/", "?", "#")), f"{tag} leads outside"
    return text


def status(**change: Any) -> schemas.Status:
    given: dict[str, Any] = {
        "state": "ok", "troubles": (), "version": "1", "host": "k2", "leading": True, "mode": "maintain",
        "settings_hash": "0123", "now": SLOT, "next_slot": None, "pause": None, "run": None, "last_run": None,
        "parts": {}, "open_findings": {}, "spool_records": 0,
    }  # fmt: skip
    return schemas.Status.model_validate({**given, **change})


def run(**change: Any) -> run_schemas.Run:
    given: dict[str, Any] = {
        "run_id": RUN, "slot": SLOT, "trigger": "schedule", "outcome": "success", "started_at": SLOT,
        "finished_at": SLOT, "duration_s": 1.0, "settings_hash": "0123", "tasks": (), "audits": (),
    }  # fmt: skip
    return run_schemas.Run.model_validate({**given, **change})


def home(state: schemas.Status, tables: tuple[schemas.TableSummary, ...] = (), **values: Any) -> str:
    given: dict[str, Any] = {
        "weeks": views.calendar((), SLOT.date(), 60), "durations": charts.durations((), SLOT - 60 * DAY, SLOT),
        "nights_known": True,
    }  # fmt: skip
    return shown("home.html", status=state, tables=tables, **{**given, **values})


def run_page(one: run_schemas.Run, lines: tuple[run_schemas.LogLine, ...] = (), **values: Any) -> str:
    logs = run_schemas.LogPage(items=lines, next=None)
    query = {"level": None, "text": None}
    given: dict[str, Any] = {"progress": None, "logs": logs, "query": query, "views": views}
    return shown("run.html", run=one, **{**given, **values})


def table_page(one: schemas.Table) -> str:
    return shown(
        "table.html", table=one, charts=charts.of_table(one, SLOT - 90 * DAY, SLOT), nights=views.nights_of(one, 30),
        unclean=views.unclean(one, 30), stages=["compact", "expire", "audit"], days=90, spans=(30, 90),
    )  # fmt: skip


UNDER_WAY = {
    "run_id": RUN, "slot": SLOT, "trigger": "manual", "started_at": SLOT, "elapsed_s": 5.0, "left_s": None,
    "in_hand": {"stage": "compact", "table": HOSTILE, "since": SLOT, "note": HOSTILE},
    "stages": [
        {"stage": "compact", "ended": 1, "failed": 1, "of": 4}, {"stage": "sweep", "ended": 0, "failed": 0, "of": 4},
    ],
    "tasks": [
        {"stage": "compact", "table": "a", "state": "failed", "reason": "conflict", "elapsed_s": 3.0, "usual_s": None},
        {"stage": "compact", "table": HOSTILE, "state": "in_hand", "elapsed_s": 0.0, "usual_s": 0.0},
        {"stage": "compact", "table": "c", "state": "waiting", "usual_s": 7.0},
        {"stage": "sweep", "table": "d", "state": "hibernated", "elapsed_s": None, "usual_s": None},
    ],
}  # fmt: skip


def test_a_daemon_that_knows_nothing_yet_has_a_page() -> None:
    text = home(status(), signed_in=False)
    assert "<title>✓ Everything is all right · icekeeper</title>" in text
    assert "none in the schedule" in text
    assert "none yet" in text
    assert "Run now" not in text


def test_trouble_is_the_first_thing_shown_and_leads_to_what_it_is_about() -> None:
    problems_shown = [
        {"severity": "error", "text": "The night failed.", "advice": "Do `this`.", "link": f"/runs/{RUN}"},
        {"severity": "warning", "text": HOSTILE, "advice": HOSTILE},
    ]
    text = home(status(state="error", troubles=problems_shown))
    assert "<title>✗ Something is wrong · icekeeper</title>" in text
    assert f'<a href="/runs/{RUN}"><strong>The night failed.</strong></a> Do <code>this</code>.' in text
    assert "more</summary>" not in text


def test_a_failed_night_and_a_table_that_lacks_rows_lead_to_their_pages() -> None:
    night = PastNight(RUN, SLOT, RunOutcome.FAILED, SLOT, SLOT)
    history = HistorySummary.of(RunHistory(nights=(night,)), open_days={("cold.t", AuditStatus.MISSING_DATA): 2})
    facts = Facts(DaemonState(), replace(history, failure_open=True), {}, running=False)
    assert [one.link for one in problems(facts, SLOT)] == [f"/runs/{RUN}", "/tables/cold.t"]


def test_forty_problems_do_not_push_everything_else_away() -> None:
    problems_shown = [{"severity": "error", "text": f"table {each}", "advice": ""} for each in range(40)]
    text = home(status(state="error", troubles=problems_shown))
    assert "<summary>34 more</summary>" in text
    assert text.index("table 5") < text.index("<summary>34 more") < text.index("table 6")


def test_a_run_under_way_is_shown_task_by_task_and_no_other_can_be_ordered() -> None:
    text = home(status(run=UNDER_WAY, parts={"engine": "down", "ledger": "up"}, pause={
        "by": HOSTILE, "host": "k2", "since": None, "until": None, "note": HOSTILE}))  # fmt: skip
    assert "<title>✓ Everything is all right, a run is under way · icekeeper</title>" in text
    assert "engine: down" in text
    assert "1 of 4, 1 failed" in text
    assert "waits (usually 7.0" in text
    assert "hibernated" in text
    assert "<button disabled>Run now</button>" in text
    assert "Cancel this run" in text
    assert "paused" in text


def test_a_run_over_many_tables_folds_them_and_stays_quick() -> None:
    tasks = [{"stage": "compact", "table": f"cold.t{each}", "state": "waiting", "usual_s": None} for each in range(40)]
    text = home(status(run={**UNDER_WAY, "tasks": tasks}))
    assert "<summary>All 40 tables, task by task</summary>" in text
    assert text.index("cold.t9<") < text.index("cold.t10<")


def test_a_table_that_was_never_seen_has_a_dash_in_every_column() -> None:
    summary = {"name": HOSTILE, "source": None, "layer": HOSTILE, "health": None, "audit": None, "open_findings": 0}
    text = home(status(), (schemas.TableSummary.model_validate(summary),))
    body = text[text.index('id="tables"') :]
    assert body.count('scope="col"') == body.count('scope="row"') + len(re.findall("<td[ >]", body))
    assert "no source" in text


def test_hostile_and_unknown_words_of_a_newer_version_are_only_words() -> None:
    unknown = task(
        "hibernated", reason="too_cold", note=HOSTILE, table=HOSTILE, error=HOSTILE, engine_log=HOSTILE,
        before=health(), after=health(snapshot_id=None),
    )  # fmt: skip
    odd = audit(
        "doubtful", iceberg_table=HOSTILE, reason="too_cold", advice=HOSTILE, notes=HOSTILE, ch_query=HOSTILE,
        iceberg_query=HOSTILE, ch_row_count=None, iceberg_row_count=None, delta=None, delta_pct=None,
        ack={"by": HOSTILE, "host": HOSTILE, "at": SLOT, "note": HOSTILE}, key_comparison=comparison(HOSTILE),
        findings=[
            finding(
                HOSTILE, "01:00", "01:01", explanation=HOSTILE, evidence=HOSTILE, sample_keys=[(HOSTILE, HOSTILE)],
                files=[HOSTILE],
            ),
            finding(HOSTILE, "02:00", "02:01", explanation=HOSTILE, sample_keys=[()]),
        ],
    )  # fmt: skip
    line = run_schemas.LogLine(
        line_no=1, timestamp=HOSTILE, level=HOSTILE, event=HOSTILE, fields={"note": HOSTILE, HOSTILE: [1]}
    )
    text = run_page(run(outcome="hibernated", trigger=HOSTILE, host=HOSTILE, tasks=[unknown], audits=[odd]), (line,))
    assert "hibernated" in text
    assert "too cold" in text


def test_a_run_that_has_only_begun_says_so() -> None:
    text = run_page(run(outcome=None, duration_s=None, finished_at=None), progress=status(run=UNDER_WAY).run)
    assert "<title>running: run of 2026-02-18 02:00 · icekeeper</title>" in text
    assert text.count("None yet.") == 2
    assert "Cancel this run" in text
    assert "No lines." in text


def test_an_audit_whose_day_is_certified_has_a_mark_and_a_table_the_newest_such_day() -> None:
    assert "certified by keys" in run_page(run(audits=[audit("ok", certified="keys")]))
    assert "certified" not in run_page(run(audits=[audit("ok")]))
    text = table_page(table(newest_certified_day=date(2026, 2, 17)))
    assert "<dt>Newest certified day</dt><dd>2026-02-17</dd>" in text
    assert "ertified" not in table_page(table())


def test_missing_data_says_what_to_do_and_can_be_audited_again() -> None:
    found = run(outcome="failed", audits=[audit("missing_data", missing_hours=[lacking(5)])])
    text = run_page(found)
    assert "missing 05:00-06:00</span>" in text
    assert "05:00-06:00</strong> 40 of ClickHouse’s 60 rows, Iceberg has 20" in words_of(text)
    assert "icekeeper ack cold.t 2026-02-17 --note WHY" in text
    # The day of the row, which may be older than the run's own.
    assert '<input type="hidden" name="slot" value="2026-02-18T00:00:00Z">' in text
    assert '<input type="hidden" name="window_hours" value="24">' in text
    assert "Audit this day again" not in run_page(found, signed_in=False)
    ack = {"by": "ada", "host": "k2", "at": SLOT, "note": "known"}
    assert "icekeeper ack" not in run_page(run(audits=[audit("missing_data", ack=ack)]))


def words_of(text: str) -> str:
    """With one ordinary blank between words, wherever the lines of a template end."""
    return " ".join(plain(text).split())


EVERY_KIND = (
    finding(
        MISSING, "13:00", "15:00", 120, clickhouse=120, iceberg=0, explanation=Explanation.CYCLE_LOST,
        evidence="Iceberg holds none of 120 rows", sample_keys=[("BTC", "17"), ("ETH", None)],
    ),
    finding(EXTRA, "13:30", "13:31", 1, clickhouse=0, iceberg=1),
    finding(DUPLICATE, "06:00", "06:15", 1500, clickhouse=1500, iceberg=3000),
    finding(CHANGED, "20:10", "20:12", 2),
    finding(FILE, "03:00", "04:00", 1, clickhouse=None, iceberg=None, files=["s3://w/a.parquet"]),
    finding("melted", "23:00", "24:00", 5, explanation="too_warm", evidence="the sun"),
)  # fmt: skip


def test_findings_open_down_to_their_keys_and_files() -> None:
    one = audit("missing_data", findings=EVERY_KIND, key_comparison=comparison("symbol", "number"))
    text = words_of(run_page(run(audits=[one])))
    for expected in (
        "<strong>missing</strong>: 120 rows, cycle lost</summary>",
        f"{Explanation.CYCLE_LOST.advice} Evidence: Iceberg holds none of 120 rows.",
        "13:00-15:00</strong> 120 of ClickHouse’s 120 rows, Iceberg has 0",
        "<code>symbol=BTC, number=17</code>",
        "<code>symbol=ETH, number=NULL</code>",
        "<strong>extra</strong>: 1 row</summary>",
        "13:30-13:31</strong> 1 of Iceberg’s 1 row, ClickHouse has 0",
        "06:00-06:15</strong> 1 500 of Iceberg’s 3 000 rows, ClickHouse has 1 500",
        "<strong>changed</strong>: 2 rows</summary>",
        "03:00-04:00</strong> 1 row<details",
        "<code>s3://w/a.parquet</code>",
        "<strong>melted</strong>: 5 rows, too warm</summary>",
        "Evidence: the sun.",
    ):
        assert expected in text, expected


def test_a_strip_tells_kinds_by_marks_and_says_the_same_in_words() -> None:
    text = run_page(run(audits=[audit("missing_data", findings=EVERY_KIND)]))
    strip = text[text.index("<figure>") : text.index("</figure>")]
    caption, hours = strip.split("</figcaption>")
    assert re.findall(r'class="mark (\w+)"', caption) == [*FindingKind, "melted"]
    assert "missing 13:00-15:00</span>" in caption
    assert hours.startswith('\n  <ol class="strip" aria-hidden="true">')
    of_hour = [re.findall(r'class="mark (\w+)"', hour) for hour in hours.split("<li ")[1:]]
    assert len(of_hour) == 24
    assert of_hour[13:15] == [["missing", "extra"], ["missing"]]
    assert of_hour.count(["none"]) == 24 - 6
    assert 'title="2026-02-17 13:00: missing 13:00-15:00; extra 13:30-13:31"' in hours
    assert 'title="2026-02-17 12:00: nothing found"' in hours
    named = set(re.findall(r"[.]mark[.](\w+)::before", STYLE))
    assert named == {"none", *FindingKind}
    assert len(set(re.findall(r'[.]mark(?:[.]\w+)?::before { content: "(.*?)"', STYLE))) == len(named) + 1


def test_what_was_found_is_quiet_where_the_verdict_is_ok_and_absent_where_nothing_was() -> None:
    quiet = run_page(run(audits=[audit(findings=EVERY_KIND[1:2])]))
    assert "<strong>extra</strong>: 1 row</summary>" in quiet
    assert '<div class="found quiet">' in quiet
    assert "<figure>" not in quiet
    assert 'class="found' not in run_page(run(audits=[audit()]))
    month = audit("missing_data", findings=EVERY_KIND, window_end=YESTERDAY + 30 * DAY)
    assert "<figure>" not in (text := run_page(run(audits=[month])))
    assert "02-17 13:00-15:00</strong>" in text


def test_every_fold_has_a_name_of_its_own_that_stays_when_other_audits_end() -> None:
    def names(*audits: audit_schemas.Audit) -> list[str | None]:
        tasks = [task("failed", table=one.iceberg_table, engine_log="x") for one in audits]
        outline = Outline(run_page(run(audits=audits, tasks=tasks)))
        return [attributes["id"] for tag, attributes in outline.elements if tag == "details"]

    first = audit("warning", findings=EVERY_KIND)
    before, after = names(first), names(first, audit("missing_data", iceberg_table="cold.u", findings=EVERY_KIND))
    assert len(set(after)) == len(after) == 2 * len(before)
    assert set(before) <= set(after)


def test_bad_files_are_listed_and_what_was_proven_is_shown() -> None:
    file = {
        "path": "s3://w/a.parquet", "partition": "day=17", "content": "data", "fault": "listed_twice", "rows": 100,
        "bytes": 1000, "rows_found": 100, "bytes_found": None, "detail": "",
    }  # fmt: skip
    found = audit("error", reason="count_mismatch", proof="files", bad_files=[file], bad_file_rows=100)
    text = plain(run_page(run(outcome="failed", audits=[found])))
    assert "proof: files" in text
    assert "<code>s3://w/a.parquet</code> listed twice, 100 rows by its manifest, 100 in it" in text
    assert "Rewrite these files and audit the day again" in text
    assert "<summary>Bad files</summary>" in text
    # Its list says more than the paths in a finding.
    found = found.model_copy(update={"findings": EVERY_KIND})
    assert run_page(run(audits=[found])).count("<code>s3://w/a.parquet</code>") == 1
    assert "proof" not in plain(run_page(run(audits=[audit()])))


def test_tables_with_and_without_a_past_have_their_page() -> None:
    assert "Nothing in this time." in table_page(table(name=HOSTILE, source=None, layer=""))
    full = table(
        health=health(delete_files=3), audit=audit("missing_data"), open_findings=2, healths=[point(2), point(1)],
        audits=[audited(2, -5, "missing_data"), audited(1, None, "error")], tasks=[done(1), done(1, "sweep")],
    )  # fmt: skip
    text = table_page(full)
    assert "3 of deletes" in text
    assert "Audits that found something" in text
    assert text.count('role="img"') == 6


def audited_day(day: date, table: str = "cold.t", **changes: Any) -> audit_schemas.AuditedDay:
    given = {
        "run_id": RUN, "status": "ok", "reason": None, "ch_row_count": 1000, "iceberg_row_count": 1000,
        "proof": "files", "certified_by": None, "revoked_reason": None,
    }  # fmt: skip
    return audit_schemas.AuditedDay.model_validate({**given, "table": table, "day": day, **changes})


@pytest.mark.parametrize(
    ("changes", "word", "text"),
    [
        ({"certified_by": "keys"}, "certified", "Tue 17 Feb 2026: certified by keys, 1,000 rows"),
        (
            {"revoked_reason": "missing_rows"},
            "warning",
            "Tue 17 Feb 2026: warning, its certificate was revoked (missing_rows), ClickHouse 1,000 rows, Iceberg "
            "1,000",
        ),
        ({}, "ok", "Tue 17 Feb 2026: ok, ClickHouse 1,000 rows, Iceberg 1,000"),
        (
            {"status": "missing_data", "iceberg_row_count": 900},
            "missing_data",
            "Tue 17 Feb 2026: missing data, ClickHouse 1,000 rows, Iceberg 900",
        ),
        (
            {"status": "error", "reason": "file_missing", "iceberg_row_count": None},
            "error",
            "Tue 17 Feb 2026: error (file_missing)",
        ),
        (
            {"status": "error", "reason": "source_expired", "ch_row_count": 3},
            "expired",
            "Tue 17 Feb 2026: expired, ClickHouse 3 rows, Iceberg 1,000",
        ),
    ],
)
def test_a_day_of_the_calendar_says_what_it_is_worth(changes: dict[str, Any], word: str, text: str) -> None:
    day = date(2026, 2, 17)
    cell = audited_days.Cell(day, audited_day(day, **changes))
    assert (cell.word, cell.text.replace("\u202f", ",")) == (word, text)
    assert word in audited_days.WORDS


def test_the_calendar_of_days_has_a_cell_for_each_day_of_each_table() -> None:
    last = date(2026, 3, 2)
    rows = audited_days.day_rows(
        [audited_day(last), audited_day(last, HOSTILE, certified_by="counts")], ["cold.t", HOSTILE], last, 40
    )
    assert [(row.table, len(row.cells), row.cells[-1].word, row.cells[0].word) for row in rows] == [
        ("cold.t", 40, "ok", "none"), (HOSTILE, 40, "certified", "none"),
    ]  # fmt: skip
    assert [(month.name, month.days) for month in audited_days.months(rows[0].cells)] == [
        ("Jan", 10),
        ("Feb", 28),
        ("", 2),
    ]
    text = shown("tables.html", tables=(), rows=rows, days_known=True, days=audited_days)
    assert text.count(f'href="/runs/{RUN}"') == 2
    assert "certified by counts" in text
    unknown = shown("tables.html", tables=(), rows=rows, days_known=False, days=audited_days)
    assert "audited days are not known" in unknown


def test_the_other_pages_stand_too() -> None:
    plans = [
        {"stage": "compact", "table": HOSTILE, "decision": "skip", "reason": "nothing_small", "note": HOSTILE},
        {"stage": "sweep", "table": "t", "decision": "ponder", "reason": None, "note": ""},
    ]
    plan = schemas.Plan.model_validate({"slot": SLOT, "made_at": SLOT, "plans": plans, "errors": {HOSTILE: HOSTILE}})
    choices: dict[str, Any] = {
        "stages": ["compact"],
        "names": [HOSTILE, "a" * 300],
        "commits_wait": f"each commit waits {HOSTILE}",
    }
    assert "not read" in (text := shown("plan.html", plan=plan, dry_run=False, **choices))
    assert text.count("each commit waits") == 1
    assert "each commit waits" not in shown("plan.html", plan=plan, dry_run=False, **{**choices, "commits_wait": ""})
    assert "Try again" in shown("plan.html", plan=None, dry_run=True, **choices)
    summary = {
        **run().model_dump(), "host": HOSTILE, "outcome": None, "tasks_done": 1, "tasks_skipped": 0, "tasks_held": 0,
        "tasks_failed": 1, "audits_ok": 0, "audits_warning": 1, "audits_missing_data": 1, "audits_error": 0,
    }  # fmt: skip
    page = run_schemas.RunPage.model_validate({"items": [summary], "next": "x&y"})
    query = {"outcome": None, "trigger": "manual", "table": HOSTILE, "after": "x", "installation": None}
    runs: dict[str, Any] = {
        "outcomes": ["failed"],
        "triggers": ["manual"],
        "names": ["cold.t"],
        "installations": ["k2"],
    }
    assert "1 missing data" in shown("runs.html", page=page, query=query, **runs)
    assert "Installation" not in shown("runs.html", page=page, query=query, **runs)
    both = {**runs, "installations": ["k2", HOSTILE]}
    assert "Installation" in shown("runs.html", page=page, query={**query, "installation": "all"}, **both)
    empty = run_schemas.RunPage(items=(), next=None)
    assert "No runs yet." in shown("runs.html", page=empty, query=dict.fromkeys(query), **runs)
    config = schemas.Config(settings_hash="0123", settings={"tables": [{"name": HOSTILE}], "catalog": {"secret": "*"}})
    shown("settings.html", config=config)
    assert 'role="alert"' in shown("sign_in.html", wrong=True, back="/plan")
    assert 'role="alert"' not in shown("sign_in.html", wrong=False, back="/")
    shown("error.html", title=HOSTILE, text=HOSTILE, advice=HOSTILE)
    shown("tables.html", tables=(), rows=(), days_known=True, days=audited_days)
    for load in (
        {"problems": [HOSTILE], "changes": ()},
        {"problems": (), "changes": [HOSTILE]},
        {"problems": (), "changes": ()},
    ):
        shown("reloaded.html", load=load)


def test_nothing_can_be_changed_without_a_token_and_the_page_says_why() -> None:
    text = (
        environment()
        .get_template("sign_in.html")
        .render(
            path="/", now=SLOT, changes_allowed=False, sign_in_possible=False, signed_in=False, wrong=False, back="/"
        )
    )
    assert "http.token" in text
    assert "Sign in</a>" not in text


@pytest.mark.parametrize("path", ["/", "/runs", f"/runs/{RUN}", "/tables/cold.t", "/plan", "/settings"])
def test_who_signs_in_comes_back_to_where_he_was(path: str) -> None:
    assert way_back(path) == path


@pytest.mark.parametrize(
    "path", ["", "//evil", "/\\evil", "https://evil", "/runs/../..//evil", "/orders/run", "/sign-in", "/runs\n//evil"]
)
def test_signing_in_leads_to_no_other_site(path: str) -> None:
    assert way_back(path) == "/"


# --- colours

# What is written on what.
PAIRS = [
    *((ink, paper) for ink in ("ink", "quiet", "accent") for paper in ("paper", "panel")),
    *((word, f"{word}-paper") for word in ("good", "warn", "bad", "busy")),
    *((ink, paper) for ink in ("ink", "accent") for paper in ("warn-paper", "bad-paper", "none-paper")),
    *((word, "panel") for word in ("good", "warn", "bad")),
    ("quiet", "none-paper"),
    *(("panel", colour) for colour in ("good", "warn", "bad", "quiet", "busy", "accent", "other")),
]


def colours(scheme: str) -> dict[str, str]:
    blocks = re.findall(r":root \{(.*?)\}", STYLE, re.S)
    named = dict(re.findall(r"--([\w-]+): (#\w+);", blocks[0]))
    return named if scheme == "light" else {**named, **dict(re.findall(r"--([\w-]+): (#\w+);", blocks[1]))}


def luminance(colour: str) -> float:
    """As WCAG defines it."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[each : each + 2], 16) / 255 for each in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_on_its_ground(scheme: str) -> None:
    named = colours(scheme)
    for ink, paper in PAIRS:
        lighter, darker = sorted((luminance(named[ink]), luminance(named[paper])), reverse=True)
        contrast = (lighter + 0.05) / (darker + 0.05)
        assert contrast >= 4.5, f"{ink} on {paper} in the {scheme} scheme: {contrast:.2f}"


def test_the_style_takes_nothing_from_outside_and_names_every_colour() -> None:
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert set(re.findall(r"var\(--([\w-]+)\)", STYLE)) <= set(colours("light"))
