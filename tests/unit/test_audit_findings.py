"""Findings: where both sides differ, by rows of minutes and by keys, and what explains it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from icekeeper.core.audit.findings import (
    CYCLE,
    MINUTE,
    KeysFound,
    Times,
    findings,
    findings_note,
)
from icekeeper.core.audit.keys import DifferentKey, Key, KeyColumn, Kind
from icekeeper.core.audit.proof import finding_of_unreadable, findings_of_files
from icekeeper.core.audit.records import MOST_FINDINGS, BadFile, Explanation, FileFault, FindingKind
from icekeeper.core.calendar import Window

START = datetime(2026, 2, 17, tzinfo=UTC)
DAY = Window(START, START + timedelta(days=1))
MISSING, EXTRA, DUPLICATE, CHANGED = list(FindingKind)[:4]
LOST, TWICE = Explanation.CYCLE_LOST, Explanation.WRITTEN_TWICE
AHEAD, BEHIND = Explanation.NOT_OFFLOADED, Explanation.BEHIND_WATERMARK
KEY = Key((KeyColumn("id", "id", Kind.TEXT),))


def at(text: str) -> datetime:
    """`10:15`, of the 17th; 24:00 is its end."""
    hour, minute = map(int, text.split(":"))
    return START + timedelta(hours=hour, minutes=minute)


def rows(*spans: tuple[str, str], each: int = 10, every: timedelta = MINUTE) -> dict[datetime, int]:
    """So many rows in each minute, or every so often, of these half-open spans."""
    found: dict[datetime, int] = {}
    for first, end in spans:
        minute = at(first)
        while minute < at(end):
            found[minute] = each
            minute += every
    return found


WHOLE = rows(("0:00", "24:00"))
SPARSE = rows(("0:00", "24:00"), each=1, every=timedelta(minutes=7))
DAILY = {START: 5}


class Found(NamedTuple):
    kind: FindingKind
    start: str
    end: str
    rows: int
    explanation: Explanation | None = None


def without(counted: Mapping[datetime, int], first: str, end: str, factor: float = 0) -> dict[datetime, int]:
    """The same with another number of rows in these minutes."""
    return {minute: int(n * factor) if at(first) <= minute < at(end) else n for minute, n in counted.items()}


CASES = {
    "a cycle lost": (WHOLE, without(WHOLE, "10:15", "10:30"), None, [Found(MISSING, "10:15", "10:30", 150, LOST)]),
    "half a cycle lost": (
        WHOLE, without(WHOLE, "10:20", "10:30"), "23:59", [Found(MISSING, "10:20", "10:30", 100, BEHIND)],
    ),
    "half a cycle lost, and nobody says how far the offload is": (
        WHOLE, without(WHOLE, "10:20", "10:30"), None, [Found(MISSING, "10:20", "10:30", 100)],
    ),
    "a cycle lost beside rows that came late": (
        WHOLE,
        without(without(WHOLE, "10:15", "10:30"), "10:30", "10:40", 0.9),
        "23:59",
        [Found(MISSING, "10:15", "10:30", 150, LOST), Found(MISSING, "10:30", "10:40", 10, BEHIND)],
    ),
    "a symbol lost": (WHOLE, without(WHOLE, "0:00", "24:00", 0.9), "23:59", [
        Found(MISSING, "0:00", "24:00", 1440, BEHIND),
    ]),
    "not offloaded yet": (WHOLE, without(WHOLE, "22:30", "24:00"), "22:29", [
        Found(MISSING, "22:30", "24:00", 900, AHEAD),
    ]),
    "a hole and an offload behind": (
        WHOLE,
        without(without(WHOLE, "22:30", "24:00"), "3:00", "4:00"),
        "22:29",
        [Found(MISSING, "3:00", "4:00", 600, LOST), Found(MISSING, "22:30", "24:00", 900, AHEAD)],
    ),
    "a hole up to where the offload is": (
        WHOLE,
        without(WHOLE, "22:15", "24:00"),
        "22:29",
        [Found(MISSING, "22:15", "22:30", 150, LOST), Found(MISSING, "22:30", "24:00", 900, AHEAD)],
    ),
    "a candle of a symbol at the watermark": (DAILY, {START: 3}, "0:00", [Found(MISSING, "0:00", "0:15", 2, BEHIND)]),
    "the only candle, at the watermark": (DAILY, {}, "0:00", [Found(MISSING, "0:00", "0:15", 5, LOST)]),
    "candles behind the watermark": (
        {START: 5, at("23:00"): 5}, {START: 5}, "0:00", [Found(MISSING, "23:00", "23:15", 5, AHEAD)],
    ),
    "one row twice": ({at("3:00"): 1}, {at("3:00"): 2}, None, [Found(EXTRA, "3:00", "3:15", 1)]),
    "cycles written twice": (WHOLE, without(WHOLE, "10:15", "10:45", 2), None, [
        Found(DUPLICATE, "10:15", "10:45", 300, TWICE),
    ]),
    "rows of its own": (WHOLE, without(WHOLE, "10:15", "10:45", 1.5), None, [Found(EXTRA, "10:15", "10:45", 150)]),
    "half a cycle twice": (WHOLE, without(WHOLE, "10:16", "10:45", 2), None, [Found(EXTRA, "10:16", "10:45", 290)]),
    "rows without a cycle in ClickHouse": ({}, rows(("5:00", "5:15")), None, [Found(EXTRA, "5:00", "5:15", 150)]),
    "few rows, a cycle lost": (SPARSE, without(SPARSE, "7:00", "7:15"), None, [
        Found(MISSING, "7:00", "7:15", 3, LOST),
    ]),
    "few rows, one lost": (SPARSE, without(SPARSE, "7:07", "7:08"), "23:59", [
        Found(MISSING, "7:07", "7:08", 1, BEHIND),
    ]),
    "one row, lost": (DAILY, {}, None, [Found(MISSING, "0:00", "0:15", 5, LOST)]),
    "lost across a time without rows": (
        rows(("1:00", "1:15"), ("9:00", "9:15")), {}, None, [Found(MISSING, "1:00", "9:15", 300, LOST)],
    ),
    "nothing": (WHOLE, WHOLE, None, []),
}  # fmt: skip


@pytest.mark.parametrize(("clickhouse", "iceberg", "watermark", "expected"), CASES.values(), ids=CASES.keys())
def test_minutes_that_differ_in_the_same_way_are_one_finding_with_what_explains_it(
    clickhouse: Mapping[datetime, int], iceberg: Mapping[datetime, int], watermark: str | None, expected: list[Found]
) -> None:
    held = {minute: n for minute, n in iceberg.items() if n}
    found = findings(DAY, Times(clickhouse, held, merges=False), None, at(watermark) if watermark else None)
    assert [(one.kind, one.start, one.end, one.rows, one.explanation) for one in found] == [
        (kind, at(start), at(end), count, why) for kind, start, end, count, why in expected
    ]
    for one in found:
        assert one.clickhouse == sum(n for minute, n in clickhouse.items() if one.start <= minute < one.end)
        assert one.iceberg == sum(n for minute, n in held.items() if one.start <= minute < one.end)
        assert bool(one.evidence) == (one.explanation is not None)


def test_of_a_source_that_merges_iceberg_may_hold_more() -> None:
    twice = without(WHOLE, "10:15", "10:45", 2)
    assert findings(DAY, Times(WHOLE, twice, merges=True), None, None) == ()
    own = KeysFound(KEY, [DifferentKey(EXTRA, b"1:x", 1, _micros("3:00"))], 20)
    (found,) = findings(DAY, Times(WHOLE, twice, merges=True), own, None)
    assert (found.kind, found.start, found.rows) == (EXTRA, at("3:00"), 1)
    assert found.explanation is Explanation.MERGED_IN_SOURCE


@pytest.mark.parametrize("every", [2, 3, 20, 100])
def test_there_are_never_too_many_and_no_row_is_lost_of_them(every: int) -> None:
    """What differs here and there is told apart by minutes, cycles, hours or not at all."""
    held = {minute: n - (place % every == 0) for place, (minute, n) in enumerate(WHOLE.items())}
    found = findings(DAY, Times(WHOLE, held, merges=False), None, None)
    assert 0 < len(found) <= MOST_FINDINGS
    assert sum(one.rows for one in found) == 1 + 1439 // every
    assert (len(found) > 1) == (every > 15)


def test_a_long_window_of_which_each_day_differs_is_one_finding() -> None:
    window = Window(START, START + timedelta(days=200))
    days = {START + timedelta(days=day): 2 for day in range(200)}
    held = {day: 1 + place % 2 for place, day in enumerate(days)}
    (found,) = findings(window, Times(days, held, merges=False), None, None)
    assert (found.start, found.end, found.rows) == (window.start, window.end, 100)


def test_where_the_offload_is_in_the_middle_of_the_window_parts_end_there_whatever_their_step_is() -> None:
    held = {minute: n - (minute.minute % 2) for minute, n in without(WHOLE, "21:36", "24:00").items() if n}
    watermark = at("21:36") + timedelta(seconds=30)
    found = findings(DAY, Times(WHOLE, held, merges=False), None, watermark, at("23:59"))
    assert [(one.start, one.end, one.rows, one.explanation) for one in found] == [
        (DAY.start, at("21:36"), 648, BEHIND),
        (at("21:36"), DAY.end, 1440, AHEAD),
    ]


def test_behind_a_watermark_that_is_the_newest_row_nothing_is_still_to_be_offloaded() -> None:
    """The source has no row of the day's last minutes."""
    there = rows(("0:00", "23:55"))
    newest = at("23:54") + timedelta(seconds=48)
    for held, expected in (
        (without(there, "22:00", "24:00"), [(at("22:00"), DAY.end, 1150, LOST)]),
        ({minute: n - (minute.minute % 2) for minute, n in there.items()}, [(DAY.start, DAY.end, 717, BEHIND)]),
    ):
        times = Times(there, {minute: n for minute, n in held.items() if n}, merges=False)
        found = findings(DAY, times, None, newest, newest)
        assert [(one.start, one.end, one.rows, one.explanation) for one in found] == expected


def test_findings_stay_within_a_window_that_is_not_on_whole_minutes() -> None:
    window = Window(START + timedelta(minutes=3, seconds=7), START + timedelta(minutes=20, seconds=30))
    (found,) = findings(window, Times({at("0:03"): 3, at("0:20"): 2}, {}, merges=False), None, None)
    assert (found.start, found.end, found.rows) == (window.start, window.end, 5)


def test_without_minutes_a_finding_is_of_the_whole_window() -> None:
    times = Times({START: 100}, {START: 70}, merges=False, step=DAY.end - DAY.start)
    keys = KeysFound(KEY, [DifferentKey(MISSING, b"1:x", 40, _micros("3:00"))], 20)
    keys_too = KeysFound(KEY, [*keys.different, DifferentKey(DUPLICATE, b"1:y", 10, _micros("5:00"))], 20)
    for found, expected in (
        (findings(DAY, times, None, None), [(MISSING, 30, 0)]),
        (findings(DAY, times, keys, None), [(MISSING, 40, 1)]),
        (findings(DAY, times, keys_too, None), [(MISSING, 40, 1), (DUPLICATE, 10, 1)]),
    ):
        assert [(one.kind, one.rows, len(one.sample_keys)) for one in found] == expected
        assert {(one.start, one.end) for one in found} == {(DAY.start, DAY.end)}


def test_without_minutes_nothing_is_explained_where_the_offload_is_in_the_middle_of_the_window() -> None:
    times = Times({START: 100}, {START: 70}, merges=False, step=DAY.end - DAY.start)
    for watermark in ("18:00", "18:07"):
        (found,) = findings(DAY, times, None, at(watermark))
        assert (found.start, found.end, found.rows, found.explanation) == (DAY.start, DAY.end, 30, None)
    (found,) = findings(DAY, times, None, DAY.end)
    assert (found.start, found.end, found.explanation) == (DAY.start, DAY.end, BEHIND)


# --- with keys


def _micros(text: str) -> int:
    return int(at(text).timestamp()) * 1_000_000


def test_keys_tell_what_counts_cannot_and_are_named_in_their_finding() -> None:
    different = [
        DifferentKey(MISSING, b"1:a", 1, _micros("3:00")),
        DifferentKey(MISSING, b"1:b", 1, _micros("3:00") + 59_999_999),
        DifferentKey(DUPLICATE, b"1:c", 2, _micros("3:00")),
        DifferentKey(CHANGED, b"N", 1, _micros("23:59")),
        DifferentKey(EXTRA, b"1:d", 4, _micros("12:00")),
    ]
    held = WHOLE | {at("12:00"): 14}
    found = findings(DAY, Times(WHOLE, held, merges=False), KeysFound(KEY, different, 20), None)
    assert [(one.kind, one.start, one.end, one.rows, one.sample_keys) for one in found] == [
        (MISSING, at("3:00"), at("3:01"), 2, (("a",), ("b",))),
        (EXTRA, at("12:00"), at("12:01"), 4, (("d",),)),
        (DUPLICATE, at("3:00"), at("3:01"), 2, (("c",),)),
        (CHANGED, at("23:59"), at("24:00"), 1, ((None,),)),
    ]
    assert findings_note(found) == "extra 02-17 12:00-12:01: 4 rows, such as d and 3 more"
    assert findings_note(found, most=3) == (
        "extra 02-17 12:00-12:01: 4 rows, such as d, missing 02-17 03:00-03:01: 2 of 10 rows, such as a, "
        "duplicate 02-17 03:00-03:01: 2 rows, such as c and 1 more"
    )


def test_a_doubled_cycle_is_no_surplus_besides() -> None:
    different = [
        DifferentKey(DUPLICATE, b"1:%d" % number, 10, _micros("3:00") + number * 60_000_000) for number in range(15)
    ]
    times = Times(WHOLE, without(WHOLE, "3:00", "3:15", 2), merges=False)
    (found,) = findings(DAY, times, KeysFound(KEY, different, 20), None)
    assert (found.kind, found.start, found.end, found.rows) == (DUPLICATE, at("3:00"), at("3:15"), 150)
    assert found.explanation is TWICE
    assert found.end - found.start == CYCLE


def test_a_row_at_another_time_has_changed_and_is_none_that_is_missing_and_surplus() -> None:
    """Where all keys were compared; where they were not, numbers of rows tell more than they do."""
    slipped = without(without(WHOLE, "3:00", "3:15"), "4:00", "4:15", 2)
    different = [DifferentKey(CHANGED, b"1:%d" % n, 10, _micros("4:00") + n * 60_000_000) for n in range(15)]
    times = Times(WHOLE, {minute: n for minute, n in slipped.items() if n}, merges=False)
    (found,) = findings(DAY, times, KeysFound(KEY, different, 20, complete=True), None)
    assert (found.kind, found.start, found.end, found.rows) == (CHANGED, at("4:00"), at("4:15"), 150)
    kinds = [one.kind for one in findings(DAY, times, KeysFound(KEY, different, 20), None)]
    assert kinds == [MISSING, DUPLICATE, CHANGED]


def test_where_only_a_part_of_the_keys_was_read_counts_tell_the_rest() -> None:
    times = Times(WHOLE, without(WHOLE, "3:00", "5:00"), merges=False)
    some = [DifferentKey(MISSING, b"1:x", 1, _micros("4:00")), DifferentKey(MISSING, b"1:y", 1, _micros("9:00"))]
    first, second = findings(DAY, times, KeysFound(KEY, some, 20), None)
    assert (first.start, first.end, first.rows, first.sample_keys) == (at("3:00"), at("5:00"), 1200, (("x",),))
    assert (second.start, second.rows, second.sample_keys) == (at("9:00"), 1, (("y",),))


@pytest.mark.parametrize("samples", [0, 1, 3, 1000])
def test_so_many_keys_are_named_in_turn(samples: int) -> None:
    different = [
        DifferentKey(MISSING, b"1:%d" % number, 1, _micros(f"{hour}:00"))
        for hour in range(5)
        for number in range(hour + 1)
    ]
    found = findings(DAY, Times(WHOLE, WHOLE, merges=False), KeysFound(KEY, different, samples), None)
    named = [len(one.sample_keys) for one in found]
    assert named == {0: [0] * 5, 1: [1, 0, 0, 0, 0], 3: [1, 1, 1, 0, 0]}.get(samples, [1, 2, 3, 4, 5])


def test_rows_of_one_cycle_that_are_twice_or_foreign_are_no_cycle_written_twice() -> None:
    """Of a hundred rows fifty are there twice, and fifty others are its own: the numbers look like two copies."""
    start = at("3:00")
    times = Times({start: 100}, {start: 200}, merges=False)
    different = [DifferentKey(DUPLICATE, b"1:c", 50, _micros("3:00")), DifferentKey(EXTRA, b"1:e", 50, _micros("3:00"))]
    found = findings(DAY, times, KeysFound(KEY, different, 20, complete=True), None)
    assert {(one.kind, one.rows, one.explanation) for one in found} == {(DUPLICATE, 50, None), (EXTRA, 50, None)}


def test_of_sampled_keys_that_is_said() -> None:
    times = Times(WHOLE, WHOLE, merges=True)
    keys = KeysFound(KEY, [DifferentKey(MISSING, b"1:x", 1, _micros("3:00"))], 20, one_in=16)
    (found,) = findings(DAY, times, keys, at("23:59"))
    assert found.evidence == "the offload's watermark is 2026-02-17T23:59:00Z; one 16th of the keys was compared"


def test_a_year_is_looked_at_in_steps_that_it_has_not_too_many_of() -> None:
    window = Window(START, START + timedelta(days=365))
    rows_of_year = {START + timedelta(hours=3 * n): 2 for n in range(8 * 365)}
    lost = START + timedelta(days=100)
    (found,) = findings(window, Times(rows_of_year, rows_of_year | {lost: 1}, merges=False), None, None)
    assert (found.start, found.end, found.rows) == (lost, lost + CYCLE, 1)


# --- files


def bad(name: str, first: str | None = None, last: str | None = None, content: str = "data") -> BadFile:
    times = (None if text is None else at(text) + timedelta(seconds=30) for text in (first, last))
    return BadFile(f"s3://w/{name}", "", content, FileFault.MISSING, 10, 100, None, None, "", *times)


def test_bad_files_of_one_time_are_a_finding_with_what_clickhouse_still_holds_of_it() -> None:
    assert findings_of_files(DAY, (), WHOLE) == ()
    files = (
        bad("b", "10:20", "10:29"),
        bad("a", "10:15", "10:22"),
        bad("c", "23:59", "24:05"),
        bad("d", "-1:0", "0:0"),
    )
    found = findings_of_files(DAY, files, WHOLE)
    assert [(one.start, one.end, one.rows, one.clickhouse, one.evidence) for one in found] == [
        (DAY.start, at("0:01"), 10, 10, "1 file; ClickHouse holds 10 rows of that time"),
        (at("10:15"), at("10:30"), 20, 150, "2 files; ClickHouse holds 150 rows of that time"),
        (at("23:59"), DAY.end, 10, 10, "1 file; ClickHouse holds 10 rows of that time"),
    ]
    assert {(one.kind, one.explanation) for one in found} == {(FindingKind.FILE, Explanation.BAD_FILE)}
    assert [one.files for one in found] == [("s3://w/d",), ("s3://w/a", "s3://w/b"), ("s3://w/c",)]


def test_bad_files_whose_time_is_not_known_are_a_finding_of_the_window() -> None:
    known, unknown = findings_of_files(DAY, (bad("v", content="position_deletes"), bad("a", "10:15", "10:22")), None)
    assert (known.start, known.end, known.rows, known.files) == (at("10:15"), at("10:23"), 10, ("s3://w/a",))
    assert (unknown.start, unknown.end, unknown.rows, unknown.clickhouse) == (DAY.start, DAY.end, 0, None)
    assert unknown.evidence == "1 file"


def test_bounds_at_the_end_of_time_are_cut_to_the_window() -> None:
    file = replace(bad("a"), first=START + timedelta(hours=3), last=datetime.max.replace(tzinfo=UTC))
    (found,) = findings_of_files(DAY, (file,), WHOLE)
    assert (found.start, found.end) == (at("3:00"), DAY.end)
    early = replace(file, first=datetime.min.replace(tzinfo=UTC))
    (found,) = findings_of_files(DAY, (early,), WHOLE)
    assert (found.start, found.end, found.clickhouse) == (DAY.start, DAY.end, 14_400)


def test_of_more_files_than_are_named_that_is_said() -> None:
    (found,) = findings_of_files(DAY, [bad(f"{n}", "3:00", "3:05") for n in range(60)], None)
    assert (found.rows, len(found.files), found.evidence) == (600, 50, "60 files, 50 of them named")


def test_of_many_bad_files_the_last_findings_are_one() -> None:
    files = [bad(f"{n:03}", f"{n // 10}:{n % 10 * 5}", f"{n // 10}:{n % 10 * 5}") for n in range(120)]
    found = findings_of_files(DAY, files, WHOLE)
    assert len(found) == MOST_FINDINGS
    assert sum(one.rows for one in found) == 1200
    assert all(len(one.files) <= MOST_FINDINGS for one in found)


def test_files_that_can_not_be_read_are_a_finding_of_the_window_whether_they_are_known_or_not() -> None:
    found = finding_of_unreadable(DAY, ("s3://w/a",), WHOLE)
    assert (found.kind, found.start, found.end, found.rows) == (FindingKind.FILE, DAY.start, DAY.end, 0)
    assert (found.files, found.clickhouse, found.explanation) == (("s3://w/a",), 14400, Explanation.BAD_FILE)
    assert found.evidence == "1 file; ClickHouse holds 14400 rows of that time"
    unknown = finding_of_unreadable(DAY, (), None)
    assert (unknown.files, unknown.evidence) == ((), "files that are not known")
