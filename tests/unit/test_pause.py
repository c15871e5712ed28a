"""The pause: what its end may be written like, what its file may hold, and what becomes of the slots under it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.typing import EventDict

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.enums import RunOutcome, Trigger
from icekeeper.core.events import RunEnded
from icekeeper.core.resuming import too_old
from icekeeper.scheduling import pause
from icekeeper.scheduling.pause import Pause
from icekeeper.scheduling.slots import Slots
from icekeeper.status.gauges import DaemonState
from icekeeper.status.metrics import Metrics
from tests.unit.builders import daemon_metrics, table_policy
from tests.unit.reports import REPORT

NOW = datetime(2026, 2, 28, 5, 30, tzinfo=UTC)
SLOT = datetime(2026, 2, 28, 2, tzinfo=UTC)
HALF_A_DAY = timedelta(hours=12)


def held(until: datetime | None, note: str = "moving the warehouse") -> Pause:
    return Pause("ann", "host1", NOW, until, note)


# --- its end, as people write it


@pytest.mark.parametrize(
    ("text", "until"),
    [
        ("2026-03-01T06:00Z", datetime(2026, 3, 1, 6, tzinfo=UTC)),
        ("2026-03-01T06:00+02:00", datetime(2026, 3, 1, 4, tzinfo=UTC)),
        ("2026-03-01 06:00", datetime(2026, 3, 1, 6, tzinfo=UTC)),
        ("2026-03-01", datetime(2026, 3, 1, tzinfo=UTC)),
        ("06:00", datetime(2026, 2, 28, 6, tzinfo=UTC)),
        ("6:00Z", datetime(2026, 2, 28, 6, tzinfo=UTC)),
        (" 8h ", datetime(2026, 2, 28, 13, 30, tzinfo=UTC)),
        ("1d12h", datetime(2026, 3, 1, 17, 30, tzinfo=UTC)),
    ],
)
def test_an_end_is_an_instant_a_day_a_time_today_or_a_duration(text: str, until: datetime) -> None:
    assert pause.parse_until(text, NOW) == until


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("05:30", "05:30 UTC has passed today; tomorrow's is 2026-03-01T05:30Z"),
        ("2026-02-28", "2026-02-28T00:00Z lies in the past"),
        ("2020-01-01T00:00Z", "lies in the past"),
        ("0001-01-01T00:00+05:00", "is not 8h or 2d"),
        ("25:00", "is not 8h or 2d"),
        ("tomorrow", "is not 8h or 2d from now, 06:00"),
        ("9999d", "at most 3650d"),
        ("", "is not 8h"),
    ],
)
def test_an_end_that_is_none_or_past_says_what_is_allowed(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pause.parse_until(text, NOW)


# --- its file


def test_a_pause_is_kept_until_it_ends_or_is_ended(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    assert pause.in_force(state_dir, NOW) is None
    assert pause.notice(state_dir, NOW) is None
    until = NOW + timedelta(hours=1)
    pause.write(state_dir, held(until))
    assert pause.in_force(state_dir, NOW) == held(until)
    assert pause.in_force(state_dir, until) is None
    assert pause.notice(state_dir, until) is None
    shown = "the nights are paused until 2026-02-28T06:30Z by ann on host1 at 2026-02-28T05:30Z: moving the warehouse."
    assert (pause.notice(state_dir, NOW) or "").startswith(shown)
    pause.write(state_dir, held(None, note=""))
    assert str(pause.in_force(state_dir, until)) == "paused without end by ann on host1 at 2026-02-28T05:30Z"
    assert [path.name for path in state_dir.iterdir()] == ["pause.json"]
    pause.remove(state_dir)
    pause.remove(state_dir)
    assert pause.in_force(state_dir, NOW) is None


def test_its_file_is_for_the_daemon_to_read_by_whatever_user_it_was_written(tmp_path: Path) -> None:
    pause.write(tmp_path, held(None))
    path = tmp_path / "pause.json"
    assert path.stat().st_mode & 0o777 == 0o644
    assert json.loads(path.read_text()) == {
        "by": "ann", "host": "host1", "since": "2026-02-28T05:30:00Z", "until": None, "note": "moving the warehouse",
    }  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '{"until": "soon"}', '{"until": 5}', '{"until": "0001-01-01T00:00+05:00"}', "\udcff"],
)
def test_a_file_that_cannot_be_read_counts_as_a_pause_and_can_be_removed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pause.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    found = pause.in_force(tmp_path, NOW)
    assert found is not None
    assert found.problem is not None
    assert found.since is not None  # when it was written
    assert "pause.json can't be read" in str(found)
    assert "icekeeper unpause" in str(found)
    pause.remove(tmp_path)
    assert pause.in_force(tmp_path, NOW) is None


def test_a_file_written_by_hand_needs_nothing_but_its_end(tmp_path: Path) -> None:
    path = tmp_path / "pause.json"
    path.write_text('{"until": "2026-03-01T06:00Z", "ticket": 7}')
    written = datetime(2026, 2, 28, 5, tzinfo=UTC)
    os.utime(path, (written.timestamp(), written.timestamp()))
    found = pause.in_force(tmp_path, NOW)
    assert str(found) == "paused until 2026-03-01T06:00Z by unknown on unknown at 2026-02-28T05:00Z"
    path.write_text("{}")
    assert pause.in_force(tmp_path, NOW) is not None


# --- what it means for slots


@pytest.mark.parametrize(
    ("until", "message"),
    [
        (SLOT, "runs as ever"),
        (SLOT + timedelta(hours=2), "waits and runs at its end"),
        (SLOT + HALF_A_DAY, "will be missed: the pause ends later than schedule.catch_up (12h) allows"),
        (None, "it runs if the pause ends before 2026-02-28T14:00Z, else it is missed"),
    ],
)
def test_a_pause_reports_what_becomes_of_the_next_slot(until: datetime | None, message: str) -> None:
    shown = pause.outlook(held(until), SLOT, HALF_A_DAY)
    assert "2026-02-28T02:00Z" in shown
    assert message in shown


def test_a_slot_is_too_old_from_catch_up_on() -> None:
    second = timedelta(seconds=1)
    assert not too_old(SLOT, SLOT + HALF_A_DAY - second, HALF_A_DAY)
    assert too_old(SLOT, SLOT + HALF_A_DAY, HALF_A_DAY)


async def test_slots_that_wait_for_a_pause_are_caught_up_and_reported_once(
    tmp_path: Path, logs: list[EventDict]
) -> None:
    spool = await Spool.open(tmp_path)
    slots = Slots(spool)
    first, second = SLOT, SLOT + timedelta(minutes=15)
    await slots.put(second, Trigger.SCHEDULE)
    await slots.put(first, Trigger.SCHEDULE)
    logs.clear()
    for _ in range(3):
        slots.hold(held(None))
        assert slots.open == {first: Trigger.CATCH_UP, second: Trigger.CATCH_UP}
    assert sorted(line["slot"] for line in logs) == [first.isoformat(), second.isoformat()]
    assert {(line["event"], line["log_level"]) for line in logs} == {("slot_paused", "warning")}
    await spool.close()


def test_the_end_of_a_pause_is_not_slept_through() -> None:
    assert pause.poll_after_s(held(NOW + timedelta(seconds=2)), NOW) == 2
    assert pause.poll_after_s(held(NOW - timedelta(seconds=2)), NOW) == 0
    assert pause.poll_after_s(held(NOW + timedelta(days=2)), NOW) == pause.POLL_S


# --- what Prometheus sees


def test_a_pause_is_in_the_metrics_from_the_first_scrape() -> None:
    now: list[Pause | None] = [None]
    metrics = daemon_metrics(lambda: DaemonState(pause=now[0]))
    assert paused(metrics) == [0, 0]
    now[0] = held(None)
    assert paused(metrics) == [1, 0]
    now[0] = held(NOW)
    assert paused(metrics) == [1, NOW.timestamp()]


def paused(metrics: Metrics) -> list[float]:
    lines = dict(line.rsplit(" ", 1) for line in metrics.exposition().decode().splitlines() if line[0] != "#")
    return [float(lines[f"icekeeper_{name}"]) for name in ("paused", "paused_until_timestamp_seconds")]


def test_a_missed_slot_is_counted_and_takes_nothing_away_that_is_known_of_tables() -> None:
    metrics = daemon_metrics(lambda: DaemonState(policies=(table_policy(REPORT.tasks[0].table),)))
    metrics.observe(RunEnded(REPORT))
    before = metrics.exposition().decode()
    metrics.observe(RunEnded(replace(REPORT, outcome=RunOutcome.MISSED, tasks=(), audits=())))
    after = metrics.exposition().decode()
    assert 'icekeeper_runs_total{outcome="missed"} 1.0' in after
    assert 'icekeeper_last_run_outcome{outcome="missed"} 1.0' in after
    tables = [line for line in before.splitlines() if line.startswith(("icekeeper_table_", "icekeeper_audit_"))]
    assert len(tables) > 5
    assert set(tables) <= set(after.splitlines())
