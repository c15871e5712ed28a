"""What the shipper does with a ledger that answers, is away, or refuses. The real one: integration/test_spool.py."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from structlog.typing import EventDict

from icekeeper.adapters.spool.shipper import LINES_AT_ONCE, LOG_ATTEMPTS, Logs, Shipped, Shipper
from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.history import ConfigLoad
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunOpening, RunReport
from tests.unit.builders import DAY, HOUR, SLOT
from tests.unit.test_spool import load, opening, report

AWAY = TransientError("does not answer", reason=Reason.LEDGER_DOWN, where="PostgreSQL")
CLOSED = PermanentError("refused role", reason=Reason.ACCESS_DENIED, where="PostgreSQL")
REFUSED = PermanentError("refused it: check constraint", where="PostgreSQL")


@dataclass
class LedgerSink:
    """Takes what it gets, or raises what it is told to: for all, or for one id."""

    got: list[tuple[Any, ...]] = field(default_factory=list)
    away: Exception | None = None
    refuses: dict[UUID, Exception] = field(default_factory=dict)
    tries: int = 0
    lines: dict[UUID, list[Any]] = field(default_factory=dict)
    batches: list[tuple[int, int]] = field(default_factory=list)
    lines_fail: list[Exception | None] = field(default_factory=list)

    async def open_run(self, opening: RunOpening) -> None:
        self._take(opening.run_id, opening)

    async def close_run(self, report: RunReport, opening: RunOpening | None = None) -> None:
        self._take(report.run_id, report, opening)

    async def record_load(self, load: ConfigLoad) -> None:
        self._take(load.load_id, load)

    async def last_line(self, run_id: UUID) -> int:
        return len(self.lines.get(run_id, []))

    async def store_lines(self, run_id: UUID, first: int, lines: Logs) -> None:
        self.batches.append((first, len(lines)))
        if problem := self.away or (self.lines_fail.pop(0) if self.lines_fail else None):
            raise problem
        assert first == len(self.lines.setdefault(run_id, [])) + 1
        self.lines[run_id] += lines

    async def answers(self) -> bool:
        return self.away is None

    def _take(self, record_id: UUID, *record: Any) -> None:
        self.tries += 1
        if problem := self.away or self.refuses.get(record_id):
            raise problem
        self.got.append(record)


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    opened = await Spool.open(tmp_path)
    yield opened
    await opened.close()


@pytest.fixture
def ledger() -> LedgerSink:
    return LedgerSink()


LINES: Logs = ({"event": "run_started"},)


def shipper(spool: Spool, ledger: LedgerSink, **options: Any) -> Shipper:
    return Shipper(spool, lambda: ledger, lambda run_id: LINES, **options)


async def test_a_record_that_always_times_out_holds_up_none_behind_it(spool: Spool, ledger: LedgerSink) -> None:
    slow, quick = load(), load()
    await spool.record_load(slow)
    await spool.record_load(quick)
    ledger.refuses[slow.load_id] = TransientError("no answer in time", reason=Reason.LEDGER_DOWN)
    shipped = await shipper(spool, ledger).ship()
    assert (shipped.records, shipped.quarantined, shipped.error) == (1, 0, ledger.refuses[slow.load_id])
    assert ledger.got == [(quick,)]
    assert (await spool.outbox.waiting()).records == 1
    del ledger.refuses[slow.load_id]
    assert await shipper(spool, ledger).ship() == Shipped(1)


async def test_everything_goes_oldest_first_and_a_run_that_ended_with_its_opening(
    spool: Spool, ledger: LedgerSink
) -> None:
    ended, under_way, missed, read = opening(), opening(slot=SLOT + DAY), opening(slot=SLOT - DAY), load()
    await spool.open_run(ended)
    await spool.open_run(under_way)
    await spool.record_load(read)
    await spool.close_run(report(missed))
    await spool.close_run(report(ended))
    assert await shipper(spool, ledger).ship() == Shipped(records=4)
    assert ledger.got == [(report(ended), ended), (under_way,), (read,), (report(missed), None)]
    assert ledger.lines == {ended.run_id: [*LINES], missed.run_id: [*LINES]}
    assert await shipper(spool, ledger).ship() == Shipped()


async def test_a_refused_record_is_quarantined_and_reported_and_the_rest_flows_on(
    spool: Spool, ledger: LedgerSink, logs: list[EventDict]
) -> None:
    runs = [opening(slot=SLOT + n * DAY) for n in range(4)]
    for begun in runs:
        await spool.open_run(begun)
    # Nobody foresaw the second, and it is no reason to hold up the others either.
    ledger.refuses = {runs[0].run_id: REFUSED, runs[2].run_id: OverflowError("int too big")}
    answers: list[bool] = []
    assert await shipper(spool, ledger, on_answer=answers.append).ship() == Shipped(records=2, quarantined=2)
    assert [opening for (opening,) in ledger.got] == [runs[1], runs[3]]
    assert [(aside.id, aside.error) for aside in await spool.outbox.quarantined()] == [
        (runs[0].run_id, str(REFUSED)),
        (runs[2].run_id, "OverflowError: int too big"),
    ]
    assert [(line["event"], line["log_level"]) for line in logs] == [("record_quarantined", "error")] * 2
    assert all(answers)

    ledger.refuses = {}
    assert await shipper(spool, ledger).ship() == Shipped()
    await spool.outbox.retry_quarantined()
    assert await shipper(spool, ledger).ship() == Shipped(records=2)


@pytest.mark.parametrize("problem", [AWAY, CLOSED])
async def test_a_ledger_that_takes_nothing_is_not_asked_for_each_record(
    spool: Spool, ledger: LedgerSink, problem: IcekeeperError
) -> None:
    for n in range(3):
        await spool.open_run(opening(slot=SLOT + n * DAY))
    ledger.away = problem
    answers: list[bool] = []
    assert await shipper(spool, ledger, on_answer=answers.append).ship() == Shipped(error=problem)
    assert (ledger.tries, answers) == (1, [False])
    assert (await spool.outbox.waiting()).records == 3


async def test_a_record_that_can_not_be_read_is_set_aside(spool: Spool, ledger: LedgerSink) -> None:
    begun = opening()
    instant = SLOT.isoformat(timespec="microseconds")
    text = json.dumps({"run_id": str(begun.run_id), "slot": "yesterday"})
    await spool._file.write(
        lambda db: db.execute_insert(
            "INSERT INTO runs (run_id, slot, trigger, started_at, opening) VALUES (?, ?, 'schedule', ?, ?)",
            (str(begun.run_id), instant, instant, text),
        )
    )
    await spool._file.write(
        lambda db: db.execute_insert(
            "INSERT INTO outbox (kind, id, changed_at) VALUES ('run', ?, ?), ('run', ?, ?)",
            (str(begun.run_id), instant, str(opening().run_id), instant),
        )
    )
    assert await shipper(spool, ledger).ship() == Shipped(quarantined=2)
    unreadable, nothing = await spool.outbox.quarantined()
    assert "slot" in unreadable.error
    assert "no longer" in nothing.error


async def test_a_run_is_worth_more_than_its_log_lines(spool: Spool, ledger: LedgerSink, logs: list[EventDict]) -> None:
    def unreadable(run_id: UUID) -> Logs:
        raise PermissionError(13, "Permission denied")

    begun = opening()
    await spool.close_run(report(begun))
    assert await Shipper(spool, lambda: ledger, unreadable).ship() == Shipped(records=1)
    assert (ledger.got, ledger.lines) == ([(report(begun), None)], {})
    assert [line["event"] for line in logs] == ["run_logs_not_read"]


async def test_many_log_lines_are_stored_in_batches_and_go_on_where_an_attempt_ended(
    spool: Spool, ledger: LedgerSink, logs: list[EventDict]
) -> None:
    begun, read = opening(), load()
    many: Logs = [{"n": number} for number in range(2 * LINES_AT_ONCE + 1)]
    slow = TransientError("no answer in time", reason=Reason.LEDGER_DOWN)
    ledger.lines_fail = [None, slow]
    await spool.close_run(report(begun))
    await spool.record_load(read)
    ship = Shipper(spool, lambda: ledger, lambda run_id: many).ship
    assert await ship() == Shipped(records=2, error=slow)
    assert ledger.got == [(report(begun), None), (read,)], "the records are not held up"
    assert await spool.outbox.unshipped_runs() == {begun.run_id}
    assert await ship() == Shipped()
    assert ledger.lines[begun.run_id] == many
    assert ledger.batches == [(1, 500), (501, 500), (501, 500), (1001, 1)]
    assert await spool.outbox.unshipped_runs() == frozenset()
    assert [line["event"] for line in logs] == ["shipping_stopped", "shipping_resumed"]


async def test_log_lines_that_can_not_be_stored_are_given_up_after_some_attempts_and_that_is_logged(
    spool: Spool, ledger: LedgerSink, logs: list[EventDict]
) -> None:
    begun, other = opening(), opening(slot=SLOT + DAY)
    await spool.close_run(report(begun))
    await spool.close_run(report(other))
    slow = TransientError("no answer in time", reason=Reason.LEDGER_DOWN)
    ledger.lines_fail = [slow, None, slow, slow, slow, slow]
    for attempt in range(1, LOG_ATTEMPTS):
        assert (await shipper(spool, ledger).ship()).error is slow, attempt
    assert await shipper(spool, ledger).ship() == Shipped()
    assert await shipper(spool, ledger).ship() == Shipped()
    assert ledger.lines == {other.run_id: [*LINES]}
    given_up = [line for line in logs if line["event"] == "run_logs_given_up"]
    assert [(line["about"], line["attempts"], line["log_level"]) for line in given_up] == [
        (str(begun.run_id), LOG_ATTEMPTS, "error")
    ]


@pytest.mark.parametrize("problem", [REFUSED, OverflowError("int too big")])
async def test_log_lines_that_postgresql_refuses_are_given_up_at_once(
    spool: Spool, ledger: LedgerSink, logs: list[EventDict], problem: Exception
) -> None:
    ledger.lines_fail = [problem]
    await spool.close_run(report(opening()))
    assert await shipper(spool, ledger).ship() == Shipped(records=1)
    assert await shipper(spool, ledger).ship() == Shipped()
    assert [line["event"] for line in logs] == ["run_logs_given_up"]


@pytest.mark.parametrize("problem", [AWAY, CLOSED])
async def test_an_outage_or_a_missing_right_is_no_attempt_of_the_log_lines(
    spool: Spool, ledger: LedgerSink, problem: IcekeeperError
) -> None:
    begun = opening()
    await spool.close_run(report(begun))
    ledger.lines_fail = [problem] * (LOG_ATTEMPTS + 1)

    async def answers() -> bool:
        return problem is CLOSED

    ledger.answers = answers  # type: ignore[method-assign]
    for _ in range(LOG_ATTEMPTS + 1):
        assert (await shipper(spool, ledger).ship()).error is problem
    assert await shipper(spool, ledger).ship() == Shipped()
    assert ledger.lines == {begun.run_id: [*LINES]}


async def test_a_spool_that_fails_is_reported_by_the_pass_and_ends_nothing(spool: Spool, ledger: LedgerSink) -> None:
    await spool.close()
    done = await shipper(spool, ledger).ship()
    assert isinstance(done.error, PermanentError)
    assert "spool.db" in str(done.error)


async def test_a_mistake_of_ours_does_not_end_the_shipping(
    spool: Spool, ledger: LedgerSink, logs: list[EventDict]
) -> None:
    def broken() -> LedgerSink:
        raise KeyError("ledger")

    await spool.open_run(opening())
    done = await Shipper(spool, broken, lambda run_id: LINES).ship()
    assert "KeyError" in str(done.error)
    assert [line["event"] for line in logs] == ["shipping_failed", "shipping_stopped"]
    assert await shipper(spool, ledger).ship() == Shipped(records=1)


# --- for ever


class Waits:
    """The sleep of a shipper: notes how long it would be, and lasts until it is let go on."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self._turns: asyncio.Queue[None] = asyncio.Queue()
        self._begun: asyncio.Queue[None] = asyncio.Queue()

    async def sleep(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self._begun.put_nowait(None)
        await self._turns.get()

    async def begun(self) -> None:
        async with asyncio.timeout(10):
            await self._begun.get()

    async def over(self) -> None:
        self._turns.put_nowait(None)
        await self.begun()


async def test_while_postgresql_is_away_it_is_asked_ever_more_rarely_and_reported_once(
    spool: Spool, ledger: LedgerSink, logs: list[EventDict]
) -> None:
    begun, waits, answers = opening(), Waits(), []  # type: ignore[var-annotated]
    await spool.open_run(begun)
    ledger.away = AWAY
    running = asyncio.create_task(shipper(spool, ledger, sleep=waits.sleep, on_answer=answers.append).run())
    await waits.begun()
    for _ in range(6):
        await waits.over()
    assert waits.seconds == [5, 10, 20, 40, 60, 60, 60]
    ledger.away = None
    await waits.over()
    assert ledger.got == [(begun,)]
    ledger.away = AWAY
    await spool.close_run(report(begun))  # wakes it
    await waits.begun()
    assert waits.seconds[-2:] == [60, 5]  # it looks again now and then, and begins anew with 5
    assert [line["event"] for line in logs] == ["shipping_stopped", "shipping_resumed", "shipping_stopped"]
    assert answers == [False] * 7 + [True, False]
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_what_is_put_while_postgresql_is_away_has_it_asked_at_once(spool: Spool, ledger: LedgerSink) -> None:
    waits = Waits()
    ledger.away = AWAY
    running = asyncio.create_task(shipper(spool, ledger, sleep=waits.sleep).run())
    await waits.begun()
    await spool.record_load(replace(load(), at=SLOT - HOUR))
    await waits.begun()
    assert ledger.tries == 1
    ledger.away = None
    await spool.record_load(load())
    await waits.begun()
    assert len(ledger.got) == 2
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
