"""The worker on a real spool: slots and orders, what ends them early, what is owed at the start. Time is injected."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

import pytest
import structlog
import yaml
from structlog.typing import EventDict

from icekeeper.adapters.ledger.store import PostgresLedger
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.enums import NIGHT, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import Cancelled, PermanentError, TransientError
from icekeeper.core.events import Event, RunEnded, RunStarted, TaskStarted
from icekeeper.core.history import PastRun
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunOpening, RunReport
from icekeeper.execution import logging as logging_setup
from icekeeper.execution.execute import make_order
from icekeeper.execution.lock import RunLockHeld, run_lock
from icekeeper.execution.log_files import flush
from icekeeper.execution.wiring import Services, build, spark_options
from icekeeper.night.order import Order
from icekeeper.scheduling import pause
from icekeeper.scheduling.reload import Configuration
from icekeeper.scheduling.worker import LEASE_CHECK_S, RETRY_S, Worker
from icekeeper.settings import Settings, load
from tests.unit.builders import DAY, HOUR, SLOT
from tests.unit.fakes import ManualClock, Step, World

E = TypeVar("E", bound=Event)
A, B = "cold.a", "cold.b"
MINUTE = timedelta(minutes=1)


class Timer:
    """A sleep that lasts until the clock is moved past its end."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._sleepers: list[tuple[datetime, asyncio.Event]] = []

    async def sleep(self, seconds: float) -> None:
        sleeper = (self._clock() + timedelta(seconds=seconds), asyncio.Event())
        self._sleepers.append(sleeper)
        try:
            await sleeper[1].wait()
        finally:
            self._sleepers.remove(sleeper)

    @property
    def asleep(self) -> bool:
        return bool(self._sleepers)

    def advance(self, by: timedelta) -> None:
        self._clock.advance(by)
        for until, over in self._sleepers:
            if until <= self._clock():
                over.set()


class Engine:
    """Stands for the Spark session: a change of its options lasts as long as the test wants."""

    def __init__(self) -> None:
        self.recycled = asyncio.Event()
        self.recycled.set()
        self.crash: Exception | None = None

    async def use(self, options: object) -> None:
        await self.recycled.wait()
        if self.crash is not None:
            raise self.crash


@dataclass
class Ledger:
    """The ledger as the worker uses it: what other hosts ran, and which task a run is at."""

    runs: tuple[PastRun, ...] = ()
    error: Exception | None = None
    marks: list[tuple[Stage | None, str | None]] = field(default_factory=list)
    opened: set[UUID] = field(default_factory=set)
    slow: asyncio.Event | None = None
    sending: int = 0
    asked = False
    answer: asyncio.Event | None = None

    async def past_runs(self, since: datetime) -> tuple[PastRun, ...]:
        self.asked = True
        if self.answer is not None:
            await self.answer.wait()
        if self.error is not None:
            raise self.error
        return tuple(run for run in self.runs if run.slot >= since)

    async def last_slot(self) -> datetime | None:
        return max((run.slot for run in self.runs), default=None)

    async def open_run(self, opening: RunOpening) -> None:
        self.opened.add(opening.run_id)

    async def mark_in_flight(self, run_id: UUID, stage: Stage | None, table: str | None) -> None:
        self.sending += 1
        try:
            if self.slow is not None:
                await self.slow.wait()
            if run_id in self.opened:  # else there is no row to mark
                self.marks.append((stage, table))
        finally:
            self.sending -= 1


class Disk(Spool):
    """The real spool on a disk that can be full, or slow at reading a slot's runs."""

    full = False
    slow: asyncio.Event | None = None
    waiting_for_it = 0

    async def close_run(self, report: RunReport) -> None:
        await self._delay()
        if self.full:
            raise PermanentError("no space left", reason=Reason.DISK_LOW)
        await super().close_run(report)

    async def slot_runs(self, slot: datetime) -> tuple[PastRun, ...]:
        await self._delay()
        return await super().slot_runs(slot)

    async def _delay(self) -> None:
        if self.slow is not None:
            self.waiting_for_it += 1
            await self.slow.wait()


def settings_of(place: Path, *tables: str, **blocks: Any) -> Settings:
    """Settings of a host whose servers are down."""
    path = place / "icekeeper.yaml"
    document = {
        "catalog": {"name": "k2", "type": "hadoop", "warehouse": str(place / "lake")},
        "clickhouse": {"url": "http://127.0.0.1:1", "database": "k2"},
        "postgres": {"dsn": "postgresql://icekeeper@127.0.0.1:1/icekeeper"},
        "tables": [{"name": name, "audit": False} for name in tables],
        "state_dir": str(place / "state"),
    }
    path.write_text(yaml.safe_dump(document | blocks))
    return load(path)


class Host:
    """A host with a worker. `restart` is another process on the same disk."""

    def __init__(self, place: Path, **blocks: Any) -> None:
        self.settings = settings_of(place, A, B, **blocks)
        self.settings.state_dir.mkdir(exist_ok=True)
        self.world, self.engine, self.ledger = World(), Engine(), Ledger()
        self.clock, self.timer = self.world.clock, Timer(self.world.clock)
        for policy in self.settings.policies():
            self.world.add(policy)
        self.leads = True
        self.events: list[Event] = []
        self.no_runs = 0
        self._terms: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        engine = SparkEngine(spark_options(self.settings))
        built = build(self.settings, engine, clock=self.clock)
        self.services: Services = replace(
            built,
            ports=self.world.ports,
            engine=cast(SparkEngine, self.engine),
            ledger=cast(PostgresLedger, self.ledger),
        )
        self.spool = cast(Disk, await Disk.open(self.settings.state_dir, clock=self.clock))
        self.worker = Worker(
            cast(
                Configuration, SimpleNamespace(services=self.services, settings=self.settings, borrowed=self.borrowed)
            ),
            self.spool,
            self.events.append,
            self.clock,
            lambda: self.leads,
            self._count_no_run,
            self.timer.sleep,
        )

    def _count_no_run(self) -> None:
        self.no_runs += 1

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[Services]:
        yield self.services

    def begin_term(self) -> asyncio.Task[None]:
        self._terms.append(asyncio.create_task(self.worker.run()))
        return self._terms[-1]

    async def end_term(self) -> None:
        await self.worker.stop()
        for term in self._terms:
            term.cancel()
        await asyncio.gather(*self._terms, return_exceptions=True)
        self._terms.clear()

    async def close(self) -> None:
        await self.end_term()
        await self.spool.close()

    async def restart(self) -> None:
        """The process dies, and another one starts."""
        await self.close()
        self.events.clear()
        await self.start()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                for term in self._terms:
                    if term.done():
                        term.result()
                await asyncio.sleep(0)

    def seen(self, kind: type[E]) -> list[E]:
        return [event for event in self.events if isinstance(event, kind)]

    def reports(self) -> list[RunReport]:
        return [event.report for event in self.seen(RunEnded)]

    async def ended(self, runs: int = 1) -> list[RunReport]:
        """The reports of so many runs, as soon as they have ended."""
        await self.until(lambda: len(self.reports()) >= runs and not self.worker.busy)
        return self.reports()

    async def waits(self) -> None:
        """Returns when the worker sleeps until some instant."""
        await self.until(lambda: self.timer.asleep)

    def hang(self, table: str = A) -> asyncio.Event:
        """Has the compaction of a table hang until the event is set."""
        goes_on = asyncio.Event()
        self.world.lakehouse.script("compact", table, Step(until=goes_on))
        return goes_on

    async def hangs(self) -> None:
        await self.until(self.world.lakehouse.entered.is_set)
        self.world.lakehouse.entered.clear()

    def order(self, services: Services) -> Order:
        return make_order(services.settings, SLOT, Trigger.MANUAL, stages=(Stage.COMPACT,))

    def log_files(self) -> list[Path]:
        flush()
        return list((self.settings.state_dir / "runs").glob("*"))


@pytest.fixture
async def make_host(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    made: list[Host] = []

    async def make(**blocks: Any) -> Host:
        host = Host(tmp_path, **blocks)
        await host.start()
        made.append(host)
        return host

    yield make
    for host in made:
        host.spool.slow = None
        await host.close()


@pytest.fixture
async def host(make_host: Callable[..., Any]) -> Host:
    return cast(Host, await make_host())


def past(
    slot: datetime = SLOT,
    outcome: RunOutcome | None = None,
    trigger: Trigger = Trigger.SCHEDULE,
    in_flight: tuple[Stage, str] | None = None,
) -> PastRun:
    return PastRun(uuid4(), slot, trigger, slot, outcome, "another-host", in_flight=in_flight)


# --- slots


async def test_a_slot_is_run_when_it_is_due_and_closed_by_its_run(host: Host) -> None:
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    [report] = await host.ended()
    assert (report.outcome, report.trigger, report.slot) == (RunOutcome.SUCCESS, Trigger.SCHEDULE, SLOT)
    assert host.worker.slots.open == {}
    assert await host.spool.open_slots() == ()
    assert host.no_runs == 1


async def test_a_slot_put_while_an_older_one_is_closed_ends_nothing(host: Host) -> None:
    """The newer slot answers for the older one's day: one is missed in the same pass in which the other gets due."""
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    host.spool.slow = asyncio.Event()
    host.begin_term()
    host.spool.slow.set()
    await host.ended()
    host.clock.advance(20 * HOUR)
    host.spool.slow, host.spool.waiting_for_it = asyncio.Event(), 0
    await host.worker.slots.put(SLOT + 2 * HOUR, Trigger.SCHEDULE)  # past schedule.catch_up
    await host.until(lambda: host.spool.waiting_for_it)  # its runs are being read
    await host.worker.slots.put(SLOT + 20 * HOUR, Trigger.SCHEDULE)
    host.spool.slow.set()
    reports = await host.ended(3)
    assert [(report.slot, report.outcome) for report in reports[1:]] == [
        (SLOT + 2 * HOUR, RunOutcome.MISSED),
        (SLOT + 20 * HOUR, RunOutcome.SUCCESS),
    ]


async def test_a_run_closes_its_slot_though_the_term_ends_before_the_services_are_given_back(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    closing = asyncio.Event()

    @asynccontextmanager
    async def replaced_meanwhile() -> AsyncIterator[Services]:
        yield host.services
        closing.set()  # a reload has replaced them: their connections take long to close
        await asyncio.Event().wait()

    monkeypatch.setattr(host.worker._configuration, "borrowed", replaced_meanwhile)
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await closing.wait()
    await host.end_term()
    assert [report.outcome for report in host.reports()] == [RunOutcome.SUCCESS]
    assert host.worker.slots.open == {}


async def test_a_slot_waits_where_a_command_holds_the_run_lock_and_is_tried_again(
    host: Host, logs: list[EventDict]
) -> None:
    with run_lock(host.settings.state_dir):
        host.begin_term()
        await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
        await host.waits()
        assert [line["event"] for line in logs if line["log_level"] == "warning"][-1] == "slot_waits"
    assert host.reports() == []
    host.timer.advance(timedelta(seconds=RETRY_S))
    [report] = await host.ended()
    assert report.outcome is RunOutcome.SUCCESS


async def test_a_bug_in_a_run_does_not_end_the_worker_and_the_slot_is_resumed(
    host: Host, logs: list[EventDict]
) -> None:
    host.engine.crash = RuntimeError("a bug")
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.waits()
    assert any(line["event"] == "slot_crashed" for line in logs)
    assert (host.worker.busy, host.no_runs) == (False, 1)
    host.engine.crash = None
    host.timer.advance(timedelta(seconds=RETRY_S))
    [report] = await host.ended()
    assert (report.outcome, report.trigger) == (RunOutcome.SUCCESS, Trigger.RESUME)


async def test_a_pause_file_on_a_disk_that_hangs_holds_up_the_worker_and_not_the_loop(host: Host) -> None:
    fifo = host.settings.state_dir / "pause.json"
    os.mkfifo(fifo)  # who reads it waits until there is a writer

    def write_it() -> None:
        with fifo.open("w") as file:
            fifo.unlink()
            file.write("{}")

    too_late = threading.Timer(10, write_it)
    too_late.start()
    try:
        host.begin_term()
        await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
        writers = list[int]()

        def is_being_read() -> bool:
            with suppress(OSError):  # ENXIO: no reader waits yet
                writers.append(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
            return bool(writers)

        await host.until(is_being_read)
        assert host.seen(RunStarted) == []
        fifo.unlink()
        os.write(writers[0], b'{"until": "2026-01-01T00:00:00Z"}')
        os.close(writers[0])
        await host.ended()
    finally:
        too_late.cancel()


async def test_a_slot_waits_for_the_end_of_a_pause_and_is_caught_up(host: Host) -> None:
    until = SLOT + HOUR
    pause.write(host.settings.state_dir, pause.Pause("ann", "host", SLOT, until, "moving"))
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.waits()
    assert host.worker.slots.open == {SLOT: Trigger.CATCH_UP}
    host.timer.advance(HOUR)
    [report] = await host.ended()
    assert (report.trigger, report.started_at) == (Trigger.CATCH_UP, until)


async def test_a_slot_waits_for_an_overdue_answer_of_the_lease_and_runs_as_soon_as_that_is_there(
    host: Host, logs: list[EventDict]
) -> None:
    host.leads = False
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    for _ in range(3):
        await host.waits()
        host.timer.advance(timedelta(seconds=LEASE_CHECK_S))
    await host.waits()
    assert host.events == []
    assert [line["event"] for line in logs if line["log_level"] != "debug"] == []
    host.leads = True
    host.timer.advance(timedelta(seconds=LEASE_CHECK_S))
    [report] = await host.ended()
    assert report.outcome is RunOutcome.SUCCESS


async def test_a_slot_that_is_too_old_is_not_recorded_as_missed_while_the_lease_does_not_answer(host: Host) -> None:
    host.leads = False
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    host.clock.advance(2 * DAY)
    await host.waits()
    assert host.events == []
    host.leads = True
    host.timer.advance(timedelta(seconds=LEASE_CHECK_S))
    [report] = await host.ended()
    assert report.outcome is RunOutcome.MISSED


# --- its end before its time


async def test_a_run_that_an_operator_cancels_ends_as_cancelled_and_its_slot_is_closed(host: Host) -> None:
    host.hang()
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.hangs()
    run_id = host.seen(RunStarted)[0].opening.run_id
    assert not host.worker.cancel(uuid4())
    assert host.worker.cancel(run_id)
    assert host.worker.cancel(run_id), "again, while it ends: it ends once"
    [report] = await host.ended()
    assert (report.outcome, report.tasks[-1].reason) == (RunOutcome.CANCELLED, Reason.CANCELLED)
    assert not host.worker.cancel(run_id)
    await host.restart()
    host.begin_term()
    await host.until(lambda: not host.worker.busy)
    assert host.worker.slots.open == {}


async def test_a_run_that_has_ended_can_not_be_cancelled_while_its_end_is_recorded(host: Host) -> None:
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.until(lambda: bool(host.seen(RunStarted)))
    host.spool.slow = asyncio.Event()
    await host.until(lambda: host.spool.waiting_for_it > 0)
    [ended] = host.seen(RunEnded)
    cancelled = host.worker.cancel(ended.report.run_id)
    host.spool.slow.set()
    assert not cancelled
    [report] = await host.ended()
    assert report.outcome is RunOutcome.SUCCESS


async def test_a_run_that_is_stopped_ends_as_interrupted_and_the_next_term_resumes_it(host: Host) -> None:
    host.hang()
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.hangs()
    await host.end_term()
    assert [report.outcome for report in host.reports()] == [RunOutcome.INTERRUPTED]
    assert set(host.worker.slots.open) == {SLOT}
    host.begin_term()
    reports = await host.ended(2)
    assert (reports[1].outcome, reports[1].trigger) == (RunOutcome.SUCCESS, Trigger.RESUME)


async def test_an_operators_cancel_counts_though_the_daemon_stops_at_the_same_time(host: Host) -> None:
    host.hang()
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.hangs()
    host.worker.cancel(host.seen(RunStarted)[0].opening.run_id)
    await host.end_term()
    assert [report.outcome for report in host.reports()] == [RunOutcome.CANCELLED]


async def test_a_daemon_that_leads_no_longer_begins_no_further_task(host: Host) -> None:
    goes_on = host.hang()
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.hangs()
    host.leads = False
    goes_on.set()
    [report] = await host.ended()
    assert (report.outcome, [task.table for task in report.tasks]) == (RunOutcome.INTERRUPTED, [A])
    assert set(host.worker.slots.open) == {SLOT}


async def test_a_run_that_was_begun_three_times_and_never_ended_is_given_up(host: Host) -> None:
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    for trigger in (Trigger.SCHEDULE, Trigger.RESUME, Trigger.RESUME):
        opening = RunOpening(uuid4(), SLOT, trigger, SLOT, "hash", NIGHT, (A, B), "here")
        await host.spool.open_run(opening)
        await host.spool.mark_in_flight(opening.run_id, Stage.COMPACT, A)
    await host.restart()
    host.begin_term()
    [report] = await host.ended()
    assert report.outcome is RunOutcome.FAILED
    assert [(task.table, task.reason) for task in report.tasks] == [(A, Reason.PROCESS_DIED)]
    assert [run.outcome for run in await host.spool.slot_runs(SLOT)].count(RunOutcome.INTERRUPTED) == 3


async def test_a_task_that_the_process_died_at_twice_is_failed_and_the_others_are_done(host: Host) -> None:
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    for trigger in (Trigger.SCHEDULE, Trigger.RESUME):
        opening = RunOpening(uuid4(), SLOT, trigger, SLOT, "hash", NIGHT, (A, B), "here")
        await host.spool.open_run(opening)
        await host.spool.mark_in_flight(opening.run_id, Stage.COMPACT, A)
    await host.restart()
    host.begin_term()
    [report] = await host.ended()
    compacted = {task.table: (task.outcome, task.reason) for task in report.tasks if task.stage is Stage.COMPACT}
    assert compacted == {A: (TaskOutcome.FAILED, Reason.PROCESS_DIED), B: (TaskOutcome.DONE, None)}


# --- what is owed


async def test_the_first_start_owes_nothing_and_the_next_one_what_came_due_meanwhile(host: Host) -> None:
    host.clock.now = SLOT - HOUR
    host.begin_term()
    while await host.spool.accounted_until() != host.clock():
        pass
    assert host.reports() == []
    host.clock.advance(2 * DAY + 2 * HOUR)
    await host.restart()
    host.begin_term()
    reports = await host.ended(3)
    assert [(report.slot, report.outcome) for report in reports] == [
        (SLOT, RunOutcome.MISSED),
        (SLOT + DAY, RunOutcome.MISSED),
        (SLOT + 2 * DAY, RunOutcome.SUCCESS),
    ]
    assert reports[2].trigger is Trigger.CATCH_UP


async def test_a_slot_that_another_host_has_done_is_not_run_again(make_host: Callable[..., Any]) -> None:
    host: Host = await make_host(replicas=True)
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.worker.slots.put(SLOT - DAY, Trigger.SCHEDULE)
    host.clock.advance(HOUR)
    host.ledger.runs = (past(SLOT - DAY, RunOutcome.PARTIAL), past(SLOT, RunOutcome.INTERRUPTED))
    host.begin_term()
    [report] = await host.ended()
    assert (report.slot, report.trigger) == (SLOT, Trigger.RESUME)


async def test_a_run_that_died_on_another_host_is_settled_and_resumed(make_host: Callable[..., Any]) -> None:
    host: Host = await make_host(replicas=True)
    dead = past(in_flight=(Stage.COMPACT, A))
    host.ledger.runs = (dead,)
    host.begin_term()
    [report] = await host.ended()
    assert (report.outcome, report.trigger) == (RunOutcome.SUCCESS, Trigger.RESUME)
    settled = {run.run_id: run.outcome for run in await host.spool.slot_runs(SLOT)}
    assert settled[dead.run_id] is RunOutcome.INTERRUPTED


@pytest.mark.parametrize("replicas", [True, False])
async def test_without_an_answer_of_the_ledger_only_a_daemon_without_replicas_goes_on(
    make_host: Callable[..., Any], replicas: bool
) -> None:
    host: Host = await make_host(replicas=replicas)
    host.ledger.error = TransientError("away", reason=Reason.LEDGER_DOWN)
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    term = host.begin_term()
    if replicas:
        with pytest.raises(TransientError, match="does not say which slots are done"):
            await term
        assert host.events == []
    else:
        await host.ended()


async def test_a_lost_spool_takes_the_newest_slot_from_the_ledger_though_an_older_one_is_open_there(
    host: Host, logs: list[EventDict]
) -> None:
    host.clock.advance(HOUR)
    host.ledger.runs = (past(SLOT - DAY, RunOutcome.INTERRUPTED), past(SLOT, RunOutcome.SUCCESS))
    host.begin_term()
    [report] = await host.ended()
    assert report.slot == SLOT - DAY
    assert [line for line in logs if line["event"] == "slot_found_due"] == []


async def test_a_slot_that_comes_due_while_the_ledger_is_asked_stays_accounted_for(host: Host) -> None:
    host.clock.now = SLOT - timedelta(minutes=1)
    host.ledger.answer = asyncio.Event()
    host.begin_term()
    await host.until(lambda: host.ledger.asked)
    host.clock.advance(timedelta(minutes=2))
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    host.ledger.answer.set()
    [report] = await host.ended()
    assert (report.slot, report.trigger) == (SLOT, Trigger.SCHEDULE)
    assert await host.spool.accounted_until() == host.clock()


async def test_a_full_disk_does_not_keep_a_daemon_from_resuming_what_died_on_another_host(
    make_host: Callable[..., Any],
) -> None:
    host: Host = await make_host(replicas=True)
    host.ledger.runs = (past(in_flight=(Stage.COMPACT, A)),)
    host.spool.full = True
    host.begin_term()
    [report] = await host.ended()
    assert (report.outcome, report.trigger) == (RunOutcome.SUCCESS, Trigger.RESUME)
    host.spool.full = False


# --- what the disk can't take


async def test_a_run_that_the_disk_cant_take_is_recorded_once_it_can(host: Host, logs: list[EventDict]) -> None:
    host.begin_term()
    host.spool.full = True
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.ended()
    await host.waits()
    assert (host.worker.unrecorded, host.worker.slots.open) == (1, {})
    host.spool.full = False
    host.timer.advance(timedelta(seconds=RETRY_S))
    await host.until(lambda: host.worker.unrecorded == 0)
    assert len(host.reports()) == 1
    assert [run.outcome for run in await host.spool.slot_runs(SLOT)] == [RunOutcome.SUCCESS]
    assert [line["event"] for line in logs].count("run_recorded_late") == 1


async def test_two_that_record_a_late_run_at_once_end_nothing(host: Host) -> None:
    term = host.begin_term()
    host.spool.full = True
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.ended()
    await host.waits()
    host.spool.full, host.spool.slow = False, asyncio.Event()
    host.timer.advance(timedelta(seconds=RETRY_S))
    await host.until(lambda: host.spool.waiting_for_it)  # the loop records it
    ordered = asyncio.create_task(host.worker.order(host.order, host.events.append))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    host.spool.slow.set()
    assert (await ordered).report.outcome is RunOutcome.SUCCESS
    assert host.worker.unrecorded == 0
    assert not term.done()


# --- orders


async def test_an_order_runs_beside_the_slots_one_at_a_time(host: Host) -> None:
    goes_on = host.hang()
    host.begin_term()
    heard: list[Event] = []
    first = asyncio.create_task(host.worker.order(host.order, heard.append))
    await host.hangs()
    run_id = next(event.opening.run_id for event in heard if isinstance(event, RunStarted))
    with pytest.raises(RunLockHeld, match=str(run_id)):
        await host.worker.order(host.order, heard.append)
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    goes_on.set()
    done = await first
    assert (done.report.trigger, done.report.outcome) == (Trigger.MANUAL, RunOutcome.SUCCESS)
    reports = await host.ended(2)
    assert [report.trigger for report in reports] == [Trigger.MANUAL, Trigger.SCHEDULE]
    assert heard[-1] == RunEnded(done.report)


async def test_a_dry_order_leaves_nothing_behind(host: Host) -> None:
    logging_setup.configure("info", "json", host.settings.state_dir, console_level="error")
    try:
        heard: list[Event] = []
        done = await host.worker.order(host.order, heard.append, record=False)
        assert host.log_files() == []
        await host.worker.order(host.order, heard.append)
        assert len(host.log_files()) == 1
    finally:
        logging_setup.configure("info", "json", None)
        structlog.reset_defaults()
    assert done.report.outcome is RunOutcome.SUCCESS
    assert RunEnded(done.report) in heard
    assert RunEnded(done.report) not in host.events
    assert [run.run_id for run in await host.spool.unfinished()] == []


async def test_an_order_that_meets_another_processs_lock_is_refused_and_leaves_no_log_file(host: Host) -> None:
    logging_setup.configure("info", "json", host.settings.state_dir, console_level="error")
    try:
        with run_lock(host.settings.state_dir), pytest.raises(RunLockHeld):
            await host.worker.order(host.order, host.events.append)
        assert host.log_files() == []
    finally:
        logging_setup.configure("info", "json", None)
        structlog.reset_defaults()
    assert not host.worker.busy


async def test_an_order_is_refused_where_the_daemon_does_not_lead(host: Host) -> None:
    host.leads = False
    with pytest.raises(Cancelled):
        await host.worker.order(host.order, host.events.append)
    assert (host.events, host.worker.busy) == ([], False)


async def test_an_order_has_begun_while_the_session_takes_its_settings_over_and_can_be_cancelled(host: Host) -> None:
    host.engine.recycled.clear()
    ordered = asyncio.create_task(host.worker.order(host.order, host.events.append))
    await host.until(lambda: host.seen(RunStarted))
    assert host.worker.cancel(host.seen(RunStarted)[0].opening.run_id)
    report = (await ordered).report
    assert (report.outcome, report.tasks) == (RunOutcome.CANCELLED, ())
    assert host.world.calls == []


# --- what a standby is told


async def test_in_flight_marks_are_sent_one_at_a_time_and_the_latest_is_the_last(make_host: Callable[..., Any]) -> None:
    host: Host = await make_host(replicas=True)
    host.ledger.slow = asyncio.Event()
    compaction, expiry = host.hang(), asyncio.Event()
    host.world.lakehouse.script("expire", A, Step(until=expiry))
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.hangs()
    await host.until(lambda: host.ledger.sending)  # the ledger is slow with the first mark
    compaction.set()
    await host.hangs()
    assert [event.table for event in host.seen(TaskStarted)] == [A, B, A]
    assert (host.ledger.sending, host.ledger.marks) == (1, [])
    host.ledger.slow.set()
    await host.until(lambda: not host.ledger.sending)
    assert host.ledger.marks == [(Stage.COMPACT, A), (Stage.EXPIRE, A)]
    expiry.set()
    await host.ended()


async def test_the_first_task_is_marked_though_the_shipper_has_not_stored_the_run_yet(
    make_host: Callable[..., Any],
) -> None:
    host: Host = await make_host(replicas=True)
    goes_on = host.hang()
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    await host.hangs()
    await host.until(lambda: host.ledger.marks)
    assert host.ledger.marks == [(Stage.COMPACT, A)]
    goes_on.set()
    await host.ended()


async def test_a_run_ends_though_the_ledger_does_not_answer_its_marks(make_host: Callable[..., Any]) -> None:
    host: Host = await make_host(replicas=True)
    host.ledger.slow = asyncio.Event()
    host.begin_term()
    await host.worker.slots.put(SLOT, Trigger.SCHEDULE)
    [report] = await host.ended()
    assert report.outcome is RunOutcome.SUCCESS
    await host.until(lambda: not host.ledger.sending)
    assert host.ledger.marks == []
