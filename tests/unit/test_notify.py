"""Notifications: sent once each, retried until accepted, given up in the end; on a real spool, with time injected."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.audit.days import PastAudit, past_days
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import NIGHT, AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import PastTask, RunHistory
from icekeeper.core.runs import RunOpening, RunReport, StageResult
from icekeeper.scheduling.notifier import GIVE_UP, Notifier, Result
from icekeeper.scheduling.targets import configured_targets
from icekeeper.settings import Settings
from tests.unit.builders import DAY, HOUR, SLOT, result
from tests.unit.reports import AUDIT
from tests.unit.test_changes import BASE

A, B = "json://me:geheim@127.0.0.1:1/a", "json://127.0.0.1:1/b"


class Post:
    """A service that takes messages while it is up."""

    def __init__(self) -> None:
        self.up = True
        self.slow: set[str] = set()
        self.taken: list[tuple[str, str, str]] = []
        self.tried = 0
        self.came = asyncio.Event()

    def to(self, url: str) -> _Box:
        return _Box(self, url)


class _Box:
    def __init__(self, post: Post, url: str) -> None:
        self._post, self._url = post, url

    async def send(self, title: str, body: str, kind: str, timeout_s: float) -> None:
        self._post.tried += 1
        for _ in range(10 if self._url in self._post.slow else 0):  # the others come to their end before it
            await asyncio.sleep(0)
        if not self._post.up:
            raise TransientError("500")
        self._post.taken.append((self._url, kind, title))
        self._post.came.set()


class World:
    """A spool, a clock, a service, and a teller that can be made anew as after a restart."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.now = SLOT + timedelta(hours=1)
        self.post = Post()
        self.results: list[Result] = []
        self.ledger: list[PastTask] = []
        self.ledger_ends: dict[tuple[Stage, str], datetime] = {}
        self.days: dict[tuple[str, datetime], PastAudit] = {}
        self.notify: list[dict[str, Any]] = [{"url": A}]
        self.spool: Spool
        self.teller: Notifier

    async def restart(self) -> None:
        await self.spool.close()
        await self.start()

    async def start(self) -> None:
        self.spool = await Spool.open(self.state_dir, clock=lambda: self.now)
        self.teller = Notifier(
            self.spool,
            self.settings,
            lambda: self.now,
            asyncio.sleep,
            self.results.append,
            lambda: RunHistory(tasks=tuple(self.ledger), not_held=self.ledger_ends, days=self.days),
            opened=self.post.to,
        )

    async def tell(self) -> None:
        await self.teller.judge()
        await self.teller.deliver()

    def settings(self) -> Settings:
        return Settings.model_validate({**BASE, "notify": self.notify, "http": {"url": "https://ice.example.com"}})

    async def night(
        self,
        outcome: RunOutcome,
        slot: datetime = SLOT,
        trigger: Trigger = Trigger.SCHEDULE,
        tasks: tuple[StageResult, ...] = (),
        audits: tuple[AuditResult, ...] = (),
    ) -> RunReport:
        opening = RunOpening(uuid4(), slot, trigger, slot, "hash", NIGHT, ("cold.a",), "ice1")
        await self.spool.open_run(opening)
        report = RunReport(opening.run_id, slot, trigger, outcome, slot, self.now, "hash", tasks, audits)
        await self.spool.close_run(report)
        return report

    @property
    def titles(self) -> list[str]:
        return [title.removeprefix("icekeeper: ") for _, _, title in self.post.taken]


async def disk_full(*_: object) -> None:
    raise PermanentError("no space left")


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.start()
    yield made
    await made.spool.close()


async def test_a_failed_night_is_notified_once_however_often_it_is_read_and_across_restarts(world: World) -> None:
    await world.night(RunOutcome.FAILED)
    await world.tell()
    await world.tell()
    await world.restart()
    await world.tell()
    assert world.titles == ["failed, slot 2026-02-18 02:00 UTC"]
    assert world.results == ["delivered"]


async def test_the_same_state_night_after_night_tells_each_and_then_the_recovery(world: World) -> None:
    for number, outcome in enumerate([RunOutcome.PARTIAL, RunOutcome.FAILED, RunOutcome.SUCCESS, RunOutcome.SUCCESS]):
        world.now = SLOT + number * DAY + timedelta(hours=1)
        await world.night(outcome, SLOT + number * DAY)
        await world.tell()
    assert world.titles == [
        "partial, slot 2026-02-18 02:00 UTC",
        "failed, slot 2026-02-19 02:00 UTC",
        "recovered, slot 2026-02-20 02:00 UTC",
    ]


async def test_an_interrupted_run_is_notified_by_the_one_that_resumes_it(world: World) -> None:
    first = (replace(result(TaskOutcome.FAILED, reason=Reason.STORAGE_DOWN), error="lost"),)
    await world.night(RunOutcome.INTERRUPTED, tasks=first)
    await world.tell()
    assert not world.titles
    await world.night(RunOutcome.PARTIAL, trigger=Trigger.RESUME)
    await world.tell()
    assert world.titles == ["partial, slot 2026-02-18 02:00 UTC"]


def held(slot: datetime, table: str = "cold.a", reason: Reason = Reason.OFFLOAD_RUNNING) -> StageResult:
    return replace(result(TaskOutcome.HELD, table=table, reason=reason), started_at=slot)


async def held_nights(world: World, *days: int, outcome: RunOutcome = RunOutcome.SUCCESS) -> None:
    """Nights on which the same compaction is held, each judged when it ended."""
    for day in days:
        slot = SLOT + day * DAY
        world.now = slot + HOUR
        await world.night(outcome, slot, tasks=(held(slot),))
        await world.tell()


async def test_a_stage_that_is_held_is_notified_on_the_third_night_and_once_also_across_restarts(world: World) -> None:
    await held_nights(world, 0, 1)
    assert not world.titles
    await world.restart()
    await held_nights(world, 2, 3, 4)
    assert world.titles == ["held 3 nights in a row, slot 2026-02-20 02:00 UTC"]
    assert [kind for _, kind, _ in world.post.taken] == ["held"]


async def test_a_stage_that_had_its_turn_is_notified_anew_when_it_is_held_again(world: World) -> None:
    await held_nights(world, 0, 1, 2)
    world.now = SLOT + 3 * DAY + HOUR
    await world.night(
        RunOutcome.SUCCESS, SLOT + 3 * DAY, tasks=(replace(result(TaskOutcome.DONE), started_at=SLOT + 3 * DAY),)
    )
    await held_nights(world, 4, 5, 6)
    assert [title[-20:] for title in world.titles] == ["2026-02-20 02:00 UTC", "2026-02-24 02:00 UTC"]


async def test_an_operators_run_that_did_the_work_begins_the_count_anew(world: World) -> None:
    await held_nights(world, 0, 1)
    by_hand = replace(result(TaskOutcome.DONE), started_at=world.now)
    await world.night(RunOutcome.SUCCESS, SLOT, Trigger.MANUAL, (by_hand,))
    await held_nights(world, 2, 3)
    assert not world.titles
    await held_nights(world, 4)
    assert len(world.titles) == 1


async def test_of_a_resumed_slot_the_resuming_run_notifies_of_what_is_held(world: World) -> None:
    await held_nights(world, 0, 1)
    slot = SLOT + 2 * DAY
    world.now = slot + HOUR
    await world.night(RunOutcome.INTERRUPTED, slot, tasks=(held(slot),))
    await world.tell()
    assert not world.titles
    await world.night(RunOutcome.SUCCESS, slot, Trigger.RESUME, (held(slot + HOUR),))
    await world.tell()
    assert world.titles == ["held 3 nights in a row, slot 2026-02-20 02:00 UTC"]


async def test_a_task_of_a_newer_version_costs_no_message_of_later_nights(world: World) -> None:
    await held_nights(world, 0)
    with closing(sqlite3.connect(world.state_dir / "spool.db", isolation_level=None)) as db:
        db.execute("UPDATE runs SET report = replace(report, '\"offload_running\"', '\"of_a_newer_version\"')")
    with capture_logs() as logs:
        await held_nights(world, 1, outcome=RunOutcome.FAILED)
    assert world.titles == ["failed, slot 2026-02-19 02:00 UTC"]
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["run_not_understood"]
    await held_nights(world, 2, 3)
    assert world.titles[-1] == "held 3 nights in a row, slot 2026-02-21 02:00 UTC"


async def test_nights_that_are_judged_late_are_judged_as_they_were(world: World) -> None:
    await held_nights(world, 0, 1)
    for day, took in ((2, 3 * HOUR), (3, HOUR)):
        slot = SLOT + day * DAY
        world.now = slot + took
        await world.night(RunOutcome.SUCCESS, slot, tasks=(held(slot),))
    await world.tell()
    assert world.titles == ["held 3 nights in a row, slot 2026-02-20 02:00 UTC"]


async def counted_nights(world: World, counts: dict[int, tuple[int, int]], *, seen: bool = True) -> None:
    """Nights after which each side has so many rows of the day, judged when it ended; `seen`: the history has it."""
    for day, (clickhouse, iceberg) in counts.items():
        slot = SLOT + day * DAY
        world.now = slot + HOUR
        audit = replace(
            AUDIT,
            iceberg_table="cold.a",
            slot=slot,
            run_timestamp=world.now,
            window_start=AUDIT.window_start + (slot.date() - AUDIT.slot.date()),
            window_end=AUDIT.window_end + (slot.date() - AUDIT.slot.date()),
            ch_row_count=clickhouse,
            iceberg_row_count=iceberg,
            status=AuditStatus.OK,
        )
        await world.night(RunOutcome.SUCCESS, slot, audits=(audit,))
        if seen:
            world.days.update(past_days([audit]))
        await world.tell()


async def test_a_source_that_is_empty_is_notified_on_the_third_day_and_once(world: World) -> None:
    await counted_nights(world, {0: (0, 9), 1: (0, 9)})
    assert not world.titles
    await world.restart()
    await counted_nights(world, {2: (0, 9), 3: (0, 9)})
    assert world.titles == ["source empty 3 days in a row, slot 2026-02-20 02:00 UTC"]
    assert [kind for _, kind, _ in world.post.taken] == ["source_empty"]
    await counted_nights(world, {4: (9, 9), 5: (0, 9), 6: (0, 9), 7: (0, 9)})
    assert len(world.titles) == 2, "it had rows in between"


async def test_the_third_empty_day_counts_whether_or_not_the_history_has_it_yet(world: World) -> None:
    await counted_nights(world, {0: (0, 9), 1: (0, 0), 2: (0, 9)})
    await counted_nights(world, {3: (0, 9)}, seen=False)
    assert world.titles == ["source empty 3 days in a row, slot 2026-02-21 02:00 UTC"], (
        "a day without rows says nothing"
    )


def in_ledger(day: int) -> PastTask:
    """The same compaction, held by a night of any host."""
    at = SLOT + day * DAY
    return PastTask(uuid4(), at, Stage.COMPACT, "cold.a", TaskOutcome.HELD, Reason.OFFLOAD_RUNNING, at)


async def test_nights_of_another_host_count_too_once_the_ledger_has_them(world: World) -> None:
    world.ledger = [in_ledger(0), in_ledger(1)]
    await held_nights(world, 2)
    assert world.titles == ["held 3 nights in a row, slot 2026-02-20 02:00 UTC"]
    world.ledger.append(in_ledger(2))  # its own nights come from there, too, and count once
    await held_nights(world, 3)
    assert len(world.titles) == 1


async def test_work_that_another_host_did_before_it_held_the_same_night_begins_the_count_anew(world: World) -> None:
    world.ledger = [in_ledger(0), in_ledger(1)]  # of a night, the ledger has the last task of each stage
    world.ledger_ends = {(Stage.COMPACT, "cold.a"): SLOT + DAY - HOUR}
    await held_nights(world, 2)
    assert not world.titles
    await held_nights(world, 3)
    assert len(world.titles) == 1


async def test_one_message_says_both_that_a_night_was_partial_and_what_is_held(world: World) -> None:
    world.notify = [{"url": A}, {"url": B, "on": ["held"]}]
    await held_nights(world, 0, 1)
    await held_nights(world, 2, outcome=RunOutcome.PARTIAL)
    assert [(url, kind) for url, kind, _ in world.post.taken] == [(A, "partial"), (B, "held")]


async def test_only_observing_is_not_notified(world: World) -> None:
    for day in range(5):
        slot = SLOT + day * DAY
        world.now = slot + HOUR
        await world.night(RunOutcome.SUCCESS, slot, tasks=(held(slot, reason=Reason.OBSERVING),))
        await world.tell()
    assert not world.titles


async def test_manual_runs_are_not_notified(world: World) -> None:
    await world.night(RunOutcome.FAILED, trigger=Trigger.MANUAL)
    await world.tell()
    assert not world.titles


async def test_slots_that_were_missed_together_are_notified_together(world: World) -> None:
    for number in range(5):
        await world.night(RunOutcome.MISSED, SLOT - number * DAY)
    await world.tell()
    assert world.titles == ["missed, 5 slots, the last 2026-02-18 02:00 UTC"]


@pytest.mark.parametrize("pass_between", [True, False])
async def test_slots_that_a_later_one_of_the_day_answers_for_are_neither_notified_nor_recovered_from(
    world: World, pass_between: bool
) -> None:
    # Hourly slots, down for three of them: the newest one is run for all.
    await world.night(RunOutcome.SUCCESS, SLOT - HOUR)
    for number in range(3):
        await world.spool.put_slot(SLOT + number * HOUR, Trigger.CATCH_UP)
    for number in range(2):
        await world.night(RunOutcome.MISSED, SLOT + number * HOUR, Trigger.CATCH_UP)
    if pass_between:
        await world.tell()
    await world.night(RunOutcome.SUCCESS, SLOT + 2 * HOUR, Trigger.CATCH_UP)
    await world.tell()
    assert not world.titles


async def test_where_the_newest_slot_of_the_day_is_missed_too_it_is_notified_and_recovered_from(world: World) -> None:
    await world.spool.put_slot(SLOT + HOUR, Trigger.CATCH_UP)
    await world.night(RunOutcome.MISSED)
    await world.tell()
    assert not world.titles
    await world.night(RunOutcome.MISSED, SLOT + HOUR, Trigger.CATCH_UP)
    await world.tell()
    await world.night(RunOutcome.SUCCESS, SLOT + DAY)
    await world.tell()
    assert world.titles == ["missed, slot 2026-02-18 03:00 UTC", "recovered, slot 2026-02-19 02:00 UTC"]


async def test_each_receiver_hears_what_it_asked_for(world: World) -> None:
    world.notify = [{"url": A, "on": ["failed"]}, {"url": B, "on": ["recovered"]}]
    await world.night(RunOutcome.FAILED, SLOT - DAY)
    await world.night(RunOutcome.SUCCESS)
    await world.tell()
    assert [(url, kind) for url, kind, _ in world.post.taken] == [(A, "failed"), (B, "recovered")]


async def test_a_receiver_that_is_down_is_tried_again_later_and_after_a_restart(world: World) -> None:
    world.post.up = False
    await world.night(RunOutcome.FAILED)
    with capture_logs() as lines:
        await world.tell()
        await world.tell()  # it is not due yet
        assert world.post.tried == 1
        world.now += timedelta(seconds=31)
        await world.restart()
        await world.tell()
    assert world.post.tried == 2
    assert [line["event"] for line in lines] == ["notification_not_delivered"], "said once"
    assert "geheim" not in str(lines)
    world.post.up = True
    world.now += timedelta(minutes=2)
    await world.tell()
    await world.tell()
    assert world.titles == ["failed, slot 2026-02-18 02:00 UTC"]


async def test_after_a_day_it_is_given_up_logged_and_counted(world: World) -> None:
    world.post.up = False
    await world.night(RunOutcome.FAILED)
    with capture_logs() as lines:
        for _ in range(200):
            await world.tell()
            world.now += timedelta(minutes=10)
    assert world.results == ["failed"]
    assert 40 < world.post.tried < 70
    assert [line["event"] for line in lines] == ["notification_not_delivered", "notification_given_up"]
    assert lines[-1]["log_level"] == "error"


async def test_it_is_known_since_when_the_oldest_message_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.tell()
    assert world.teller.oldest is None
    world.post.up, first = False, world.now
    await world.night(RunOutcome.FAILED, SLOT - DAY)
    await world.tell()
    world.now += timedelta(minutes=5)
    await world.night(RunOutcome.FAILED)
    await world.tell()
    await world.restart()
    await world.tell()
    assert world.teller.oldest == first
    world.post.up, world.now = True, world.now + timedelta(minutes=5)
    with monkeypatch.context() as full:
        full.setattr(world.spool.notifications, "settle", disk_full)
        with pytest.raises(PermanentError):
            await world.tell()
    assert world.teller.oldest is None, "it was taken, whatever the disk knows"
    await world.tell()
    assert world.teller.oldest is None


async def test_a_message_for_a_receiver_that_is_configured_no_longer_is_dropped(world: World) -> None:
    world.post.up = False
    await world.night(RunOutcome.FAILED)
    await world.tell()
    world.notify, world.now = [], world.now + timedelta(minutes=5)
    await world.tell()
    assert world.results == ["failed"]


async def test_runs_that_ended_without_a_target_or_long_ago_are_not_notified_later(world: World) -> None:
    world.notify = []
    await world.night(RunOutcome.FAILED)
    await world.tell()
    world.notify = [{"url": A}]
    await world.night(RunOutcome.FAILED, SLOT - DAY)
    world.now += GIVE_UP
    await world.tell()
    assert not world.titles


async def test_a_url_that_was_put_right_gets_what_waits_for_its_file(world: World, tmp_path: Path) -> None:
    world.notify = [{"url": A, "url_file": "slack"}]
    world.post.up = False
    await world.night(RunOutcome.FAILED)
    await world.tell()
    world.notify, world.post.up, world.now = [{"url": B, "url_file": "slack"}], True, world.now + timedelta(minutes=5)
    await world.tell()
    assert [url for url, _, _ in world.post.taken] == [B]
    assert "geheim" not in (tmp_path / "spool.db").read_bytes().decode("latin-1")


async def test_a_spool_from_before_there_were_messages_is_taken_as_it_is(tmp_path: Path) -> None:
    world = World(tmp_path)
    await world.start()
    report = await world.night(RunOutcome.FAILED)
    await world.spool.close()
    with sqlite3.connect(tmp_path / "spool.db") as db:
        db.execute("DROP TABLE told")
        db.execute("DROP TABLE notices")
    db.close()
    await world.start()
    assert [run.run_id for run in await world.spool.slot_runs(SLOT)] == [report.run_id]
    await world.tell()
    assert world.titles == ["failed, slot 2026-02-18 02:00 UTC"]
    assert not world.spool.corrupt_files()
    await world.spool.close()


async def test_what_was_taken_and_could_not_be_written_down_is_not_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.notify = [{"url": A}, {"url": B}]
    world.post.slow = {B}
    await world.night(RunOutcome.FAILED, SLOT - DAY)
    await world.night(RunOutcome.PARTIAL)
    with monkeypatch.context() as full, capture_logs() as lines:
        full.setattr(world.spool.notifications, "settle", disk_full)
        for _ in range(3):
            with pytest.raises(PermanentError, match="no space left"):
                await world.tell()
            assert len(world.post.taken) == 4, "the one behind it too, and the slower receiver's, before it is raised"
    assert [line["event"] for line in lines] == ["notification_delivered"] * 4
    assert not world.results
    await world.tell()
    await world.restart()
    await world.tell()
    assert len(world.post.taken) == world.post.tried == 4
    assert world.results == ["delivered"] * 4


async def test_a_message_given_up_that_could_not_be_written_down_is_logged_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.post.up = False
    await world.night(RunOutcome.FAILED)
    await world.tell()
    world.now += GIVE_UP
    with monkeypatch.context() as full, capture_logs() as lines:
        full.setattr(world.spool.notifications, "settle", disk_full)
        for _ in range(3):
            with pytest.raises(PermanentError):
                await world.tell()
    assert [line["event"] for line in lines] == ["notification_given_up"]
    await world.tell()
    assert world.results == ["failed"]
    assert world.post.tried == 2


async def test_pruning_takes_the_messages_of_its_runs_along(world: World) -> None:
    report = await world.night(RunOutcome.FAILED)
    await world.tell()
    record = await world.spool.outbox.next_record()
    assert record is not None
    assert record.id == report.run_id
    await world.spool.outbox.mark_shipped(record)
    world.now += 31 * DAY
    assert await world.spool.prune(world.now - 30 * DAY) == 1
    await world.restart()
    with sqlite3.connect(world.state_dir / "spool.db") as db:
        assert db.execute("SELECT (SELECT count(*) FROM told), (SELECT count(*) FROM notices)").fetchone() == (0, 0)
    db.close()


async def test_it_goes_on_side_by_side_with_the_nights_and_survives_its_own_mistakes(world: World) -> None:
    broken = [True]

    def settings() -> Settings:
        if broken.pop() if broken else False:
            raise RuntimeError("a bug")
        return world.settings()

    async def soon(seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.01))

    teller = Notifier(world.spool, settings, lambda: world.now, soon, world.results.append, opened=world.post.to)
    running = asyncio.create_task(teller.run())
    await world.night(RunOutcome.FAILED)
    async with asyncio.timeout(10):
        await world.post.came.wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert world.titles == ["failed, slot 2026-02-18 02:00 UTC"]


def test_a_target_is_named_by_its_file_or_by_its_scheme_and_a_digest_never_by_its_url() -> None:
    notify = [
        {"url": A},
        {"url": B, "url_file": "/run/x", "on": ["failed"]},
        {"url": B, "url_file": "/run/x", "on": []},
        {"url": A, "on": ["recovered"]},
    ]
    found = configured_targets(Settings.model_validate({**BASE, "notify": notify}))
    inline, file = found
    assert re.fullmatch("json-[0-9a-f]{8}", inline)
    assert file == "/run/x"
    assert found["/run/x"].on == {"failed"}
    assert found[inline].on == {"failed", "partial", "held", "source_empty", "recovered"}, (
        "listed twice, it gets each message once"
    )


async def test_a_waiting_message_keeps_its_inline_target_when_a_reload_reorders_the_list(world: World) -> None:
    world.notify = [{"url": A}, {"url": B, "on": ["recovered"]}]
    world.post.up = False
    await world.night(RunOutcome.FAILED)
    await world.tell()
    world.notify = [{"url": B, "on": ["recovered"]}, {"url": A}]
    world.post.up, world.now = True, world.now + timedelta(minutes=5)
    await world.tell()
    assert [url for url, _, _ in world.post.taken] == [A]


async def test_a_waiting_message_is_not_sent_to_the_target_that_took_the_place_of_its_own(world: World) -> None:
    world.post.up = False
    await world.night(RunOutcome.FAILED)
    await world.tell()
    world.notify, world.post.up, world.now = [{"url": B}], True, world.now + timedelta(minutes=5)
    with capture_logs() as lines:
        await world.tell()
    assert not world.post.taken
    assert [(line["event"], line["why"]) for line in lines] == [
        ("notification_dropped", "its target is no longer configured")
    ]


async def test_messages_queued_by_0_1_under_a_place_in_the_list_go_to_the_targets_of_the_first_start(
    world: World,
) -> None:
    world.notify = [{"url": A}, {"url": B}]
    world.post.up = False
    await world.night(RunOutcome.FAILED)
    await world.tell()
    with sqlite3.connect(world.state_dir / "spool.db") as db:
        first, second = (row[0] for row in db.execute("SELECT receiver FROM notices ORDER BY number"))
        db.execute("UPDATE notices SET receiver = 'notify[0]' WHERE receiver = ?", (first,))
        db.execute("UPDATE notices SET receiver = 'notify[1]' WHERE receiver = ?", (second,))
        db.execute("UPDATE notices SET due_at = queued_at")
    db.close()
    await world.restart()
    await world.tell()  # they are not accepted yet: the second pass must not go by the place any more
    world.notify, world.post.up, world.now = [{"url": B}, {"url": A}], True, world.now + timedelta(minutes=5)
    await world.tell()
    assert sorted(url for url, _, _ in world.post.taken) == sorted([A, B])
    with sqlite3.connect(world.state_dir / "spool.db") as db:
        assert [row[0] for row in db.execute("SELECT receiver FROM notices ORDER BY number")] == [first, second]
    db.close()


async def test_a_message_queued_by_0_1_under_a_place_that_is_not_in_the_list_is_dropped_and_logged(
    world: World,
) -> None:
    world.post.up = False
    await world.night(RunOutcome.FAILED)
    await world.tell()
    with sqlite3.connect(world.state_dir / "spool.db") as db:
        db.execute("UPDATE notices SET receiver = 'notify[3]'")
    db.close()
    world.post.up, world.now = True, world.now + timedelta(minutes=5)
    await world.restart()
    with capture_logs() as lines:
        await world.tell()
    assert not world.post.taken
    assert [(line["event"], line["target"]) for line in lines] == [("notification_dropped", "notify[3]")]
