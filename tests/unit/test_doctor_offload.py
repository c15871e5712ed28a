"""The doctor's view of the offload: what it warns of, and that it is quiet where all is well."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from icekeeper.core.offload import OffloadRhythm, OffloadState
from icekeeper.core.tables.state import Snapshot
from icekeeper.doctor.check import Level
from icekeeper.doctor.offload import Source, no_table, offload_checks, usual_gap

NOW = datetime(2026, 2, 18, 2, 7, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
RHYTHM = OffloadRhythm()
UNKNOWN = "when the offload writes is not known, and this catalog may lose commits of two writers at once"
STOPPED_ADVICE = "Check whether the offload runs, and its log: by offload.every a cycle begins every 15 min."


def source(
    status: str,
    *,
    mark: timedelta | None = 10 * MINUTE,
    updated: timedelta | None = None,
    success: timedelta | None = None,
    gap: timedelta | None = None,
    name: str = "a",
) -> Source:
    """A source whose watermark, status and last success are so old."""
    mark_at, updated_at, success_at = (None if age is None else NOW - age for age in (mark, updated, success))
    return Source(name, OffloadState(mark_at, status, updated_at, success_at, 50 * timedelta(seconds=1)), gap)


def texts(*sources: Source) -> list[str]:
    return [check.text for check in offload_checks("marks", sources, RHYTHM, NOW) if check.level is not Level.OK]


@pytest.mark.parametrize(
    "healthy",
    [
        pytest.param(source("success", updated=6 * MINUTE, success=6 * MINUTE), id="trades come all the time"),
        pytest.param(
            source("running", mark=26 * HOUR, updated=6 * MINUTE, success=26 * HOUR, gap=DAY),
            id="candles of days: the watermark is a candle's start, and the last cycles brought no rows",
        ),
        pytest.param(source("running", mark=2 * HOUR, updated=6 * MINUTE, success=HOUR, gap=HOUR), id="hourly candles"),
        pytest.param(source("running", updated=6 * MINUTE, success=9 * DAY), id="a young table: no rhythm yet"),
        pytest.param(source("running", updated=31 * MINUTE, success=HOUR), id="a cycle is about to begin"),
        pytest.param(source("success", success=HOUR), id="an older table without updated_at"),
        pytest.param(source("success", success=3 * DAY, gap=DAY), id="as late as it may be"),
        pytest.param(source("success", mark=40 * DAY), id="a table that says no more than its watermark"),
    ],
)
def test_a_healthy_offload_is_one_line(healthy: Source) -> None:
    (check,) = offload_checks("marks", [healthy], RHYTHM, NOW)
    assert (check.level, check.text) == (Level.OK, "marks has a working offload of 1 source")


@pytest.mark.parametrize(
    ("ill", "text"),
    [
        (Source("a", None), "marks has no watermark of a"),
        (Source("a", None, one_writer=True), f"marks has no watermark of a: {UNKNOWN}"),
        (source("initialized", mark=None, updated=MINUTE), "marks has no watermark of a"),
        (source("initialized", updated=MINUTE), "marks has no watermark of a"),
        (
            source("running", updated=-HOUR),
            "marks.updated_at of a is ahead of this host's clock: when a cycle began is not known",
        ),
        (source("failed", updated=MINUTE), "the offload of a has failed, its watermark is 2026-02-18T01:57:00Z"),
        (
            source("running", updated=31 * MINUTE + timedelta(seconds=1)),
            "the offload's status of a is running since 2026-02-18T01:35Z, and no cycle has begun after it",
        ),
        (source("success", updated=DAY), "the offload has begun no cycle of a since 2026-02-17T02:07Z"),
        (
            source("running", updated=MINUTE, success=3 * HOUR + MINUTE, gap=HOUR),
            "the offload has brought no row of a since 2026-02-17T23:06Z; usually rows come every 1 h",
        ),
        (
            source("success", updated=MINUTE, success=HOUR + MINUTE, gap=15 * MINUTE),
            "the offload has brought no row of a since 2026-02-18T01:06Z; usually rows come every 15 min",
        ),
        (
            source("success", success=HOUR + MINUTE),
            "the offload has brought no row of a since 2026-02-18T01:06Z; usually rows come every 15 min",
        ),
    ],
)
def test_an_offload_that_is_ill_is_one_warning(ill: Source, text: str) -> None:
    assert texts(ill) == [text]


def test_without_the_offloads_table_only_a_catalog_of_one_writer_is_in_danger() -> None:
    assert no_table("marks", one_writer=False).level is Level.OK
    check = no_table("marks", one_writer=True)
    assert (check.level, check.text) == (Level.WARNING, f"there is no table marks: {UNKNOWN}")


def test_sources_that_have_stopped_alike_share_a_line_and_are_not_called_late_as_well() -> None:
    stopped = [source("running", updated=age, success=DAY, gap=MINUTE, name=name) for name, age in NAMES.items()]
    (check,) = offload_checks("marks", stopped, RHYTHM, NOW)
    assert "of a, b is running since 2026-02-17T22:07Z" in check.text
    assert check.advice == STOPPED_ADVICE


NAMES = {"a": HOUR, "b": 4 * HOUR}


def appends(*hours: float, operation: str = "append") -> list[Snapshot]:
    return [Snapshot(number, None, NOW + hour * HOUR, operation) for number, hour in enumerate(hours)]


def test_the_usual_gap_is_the_median_between_appends() -> None:
    assert usual_gap([*appends(0, 1, 2, 3, 30), *appends(0.5, 1.5, operation="replace")]) == HOUR
    assert usual_gap(appends(3, 0, 1)) == 1.5 * HOUR
    assert usual_gap(appends(0, 1)) is None
    assert usual_gap([]) is None
