"""Ships what waits in the spool's outbox to the ledger, and retries until it is there. What waits: outbox.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol
from uuid import UUID

import structlog

from icekeeper.adapters.records import from_json
from icekeeper.adapters.spool.outbox import OutboxRecord, UnshippedLog
from icekeeper.adapters.spool.spool import Spool
from icekeeper.adapters.waiting import wait_for_event
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.history import ConfigLoad
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunOpening, RunReport
from icekeeper.night.ports import Sleep

FIRST_RETRY_S = 5.0
LAST_RETRY_S = 60.0
# A command that runs beside the daemon puts its records into the same file, and can't wake the shipper.
_POLL_S = 60.0
# A run's log lines are stored in batches of this size, and given up after so many attempts while PostgreSQL answers.
LINES_AT_ONCE = 500
LOG_ATTEMPTS = 5

Logs = Sequence[Mapping[str, Any]]
log = structlog.get_logger(__name__)


class LedgerSink(Protocol):
    """What the shipper needs of the ledger. Each call stores all or nothing; storing it again changes nothing."""

    async def open_run(self, opening: RunOpening) -> None:
        """Stores a run that is under way."""

    async def close_run(self, report: RunReport, opening: RunOpening | None = None) -> None:
        """Stores a run that ended."""

    async def record_load(self, load: ConfigLoad) -> None:
        """Stores a reading of the configuration."""

    async def last_line(self, run_id: UUID) -> int:
        """The number of the last log line that is stored of a run; 0 where there is none."""

    async def store_lines(self, run_id: UUID, first: int, lines: Logs) -> None:
        """Stores log lines of a run that is stored; `first` is the number of the first."""

    async def answers(self) -> bool:
        """Whether it is there at all."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """The result of one pass: records shipped, records quarantined, and the error that stopped the rest."""

    records: int = 0
    quarantined: int = 0
    error: IcekeeperError | None = None


class Shipper:
    """One per process; several processes may ship the same record, as the ledger stores it once all the same."""

    def __init__(
        self,
        spool: Spool,
        ledger: Callable[[], LedgerSink],
        logs_of: Callable[[UUID], Logs],
        *,
        sleep: Sleep = asyncio.sleep,
        on_answer: Callable[[bool], None] = lambda answers: None,
    ) -> None:
        """`ledger` is called for each pass, as a reload may change it. `on_answer`: whether PostgreSQL did."""
        self._outbox = spool.outbox
        self._ledger = ledger
        self._logs_of = logs_of
        self._sleep = sleep
        self._on_answer = on_answer
        self._due = asyncio.Event()
        self._one_pass = asyncio.Lock()
        self._stopped_by: IcekeeperError | None = None
        self._outbox.on_put(self.wake)

    def wake(self) -> None:
        """Starts the next pass at once: there is something to ship, or PostgreSQL may be back."""
        self._due.set()

    async def run(self) -> None:
        """Never returns: ships whenever something is queued, and retries while PostgreSQL is away."""
        retry = FIRST_RETRY_S
        while True:
            self._due.clear()
            if (await self.ship()).error is None:
                retry = FIRST_RETRY_S
                await wait_for_event(self._due, _POLL_S, self._sleep)
            else:
                await wait_for_event(self._due, retry, self._sleep)
                retry = min(2 * retry, LAST_RETRY_S)

    async def ship(self) -> Shipped:
        """One pass over everything that waits, oldest first; log lines last. Its result has the error, if any."""
        async with self._one_pass:
            done = Shipped()
            try:
                ledger = self._ledger()
                done = await self._ship_records(ledger)
                if done.error is None or await ledger.answers():
                    error = await self._ship_logs(ledger)
                    done = replace(done, error=done.error or error)
            except IcekeeperError as exc:
                done = replace(done, error=exc)
            except Exception as exc:  # a bug must not end the shipping for good: it is logged and tried again
                log.exception("shipping_failed")
                done = replace(done, error=PermanentError(f"{type(exc).__name__}: {exc}"))
            self._log_change(done)
            return done

    async def ship_within(self, seconds: float) -> IcekeeperError | None:
        """One pass within a time limit; the error that stopped it, None where everything was shipped."""
        try:
            async with asyncio.timeout(seconds):
                return (await self.ship()).error
        except TimeoutError:
            return TransientError("PostgreSQL takes too long to take the run's records", reason=Reason.LEDGER_DOWN)

    # --- records

    async def _ship_records(self, ledger: LedgerSink) -> Shipped:
        records = refused = last = 0
        error: IcekeeperError | None = None
        while (record := await self._outbox.next_record(last)) is not None:
            last = record.number
            try:
                delivered = await self._delivered(ledger, record)
            except TransientError as exc:
                error = error or exc
                if not await ledger.answers():
                    break
                continue  # it is this record's own, like a timeout: those behind it needn't wait for it
            except IcekeeperError as exc:
                error = exc
                break
            records, refused = records + delivered, refused + (not delivered)
        return Shipped(records, refused, error)

    async def _delivered(self, ledger: LedgerSink, record: OutboxRecord) -> bool:
        """False: it was quarantined. Raises errors that are not about this very record."""
        try:
            await self._deliver(ledger, record)
        except IcekeeperError as exc:
            # The reason shows what it is about: see postgres.translated.
            if not isinstance(exc, PermanentError) or exc.reason is not Reason.UNEXPECTED:
                self._on_answer(False)
                raise
            self._on_answer(True)
            problem = str(exc)
        except Exception as exc:  # an unforeseen error holds up this record only
            problem = f"{type(exc).__name__}: {exc}"
        else:
            self._on_answer(True)
            # A crash before this: it is delivered once more, which changes nothing.
            await self._outbox.mark_shipped(record)
            return True
        await self._outbox.quarantine(record, problem)
        log.error("record_quarantined", kind=record.kind, id=str(record.id), error=problem)
        return False

    async def _deliver(self, ledger: LedgerSink, record: OutboxRecord) -> None:
        if record.load is not None:
            await ledger.record_load(from_json(ConfigLoad, record.load))
            return
        opening = None if record.opening is None else from_json(RunOpening, record.opening)
        if record.report is not None:
            await ledger.close_run(from_json(RunReport, record.report), opening)
        elif opening is not None:
            await ledger.open_run(opening)
        else:
            raise ValueError("the spool has no longer what it is about")

    # --- log lines

    async def _ship_logs(self, ledger: LedgerSink) -> IcekeeperError | None:
        """Stores the log lines of shipped runs, each run from where an earlier attempt ended; the first error."""
        error: IcekeeperError | None = None
        for waiting in await self._outbox.unshipped_logs():
            lines = await asyncio.to_thread(self._logs, waiting.run_id)
            try:
                for first in range(await ledger.last_line(waiting.run_id), len(lines), LINES_AT_ONCE):
                    await ledger.store_lines(waiting.run_id, first + 1, lines[first : first + LINES_AT_ONCE])
            except IcekeeperError as exc:
                about_the_lines = exc.reason is Reason.UNEXPECTED or isinstance(exc, TransientError)
                if not about_the_lines or not await ledger.answers():
                    return error or exc
                if not await self._gave_up(waiting, exc):
                    error = error or exc
                    continue
            except Exception as exc:  # an unforeseen error holds up these lines only
                self._log_given_up(waiting, exc)
            await self._outbox.settle_log(waiting.run_id)
        return error

    async def _gave_up(self, waiting: UnshippedLog, error: IcekeeperError) -> bool:
        """Counts the failed attempt; True where it was the last one."""
        if isinstance(error, TransientError) and waiting.attempts + 1 < LOG_ATTEMPTS:
            await self._outbox.count_log_attempt(waiting.run_id)
            return False
        self._log_given_up(waiting, error)
        return True

    def _log_given_up(self, waiting: UnshippedLog, error: Exception) -> None:
        about, attempts = str(waiting.run_id), waiting.attempts + 1
        log.error("run_logs_given_up", about=about, attempts=attempts, error=str(error) or type(error).__name__)

    def _logs(self, run_id: UUID) -> Logs:
        try:
            return self._logs_of(run_id)
        except (OSError, ValueError) as exc:  # the run itself is worth more than its lines
            log.warning("run_logs_not_read", about=str(run_id), error=str(exc))
            return ()

    def _log_change(self, done: Shipped) -> None:
        """One line when shipping stops, or stops for another reason, and one when it goes on."""
        before, self._stopped_by, error = self._stopped_by, done.error, done.error
        if error is not None and (before is None or before.reason is not error.reason):
            log.warning("shipping_stopped", reason=error.reason, error=str(error))
        elif error is None and before is not None:
            log.info("shipping_resumed", records=done.records)
