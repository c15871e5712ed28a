"""The shipper: takes what waits in the spool to the ledger, for as long as that takes. What waits: spool.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import structlog

from icekeeper.adapters.records import from_json
from icekeeper.adapters.spool.spool import OutboxRecord, Spool
from icekeeper.adapters.waiting import wait_for_event
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.history import ConfigLoad
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunOpening, RunReport
from icekeeper.night.ports import Sleep

FIRST_RETRY_S = 5.0
LAST_RETRY_S = 60.0
# A command that runs beside the daemon puts its records into the same file, and can't wake it.
_LOOK_S = 60.0

Logs = tuple[Mapping[str, Any], ...]
log = structlog.get_logger(__name__)


class LedgerSink(Protocol):
    """What the shipper needs of the ledger. Each call stores all or nothing; storing it again changes nothing."""

    async def open_run(self, opening: RunOpening) -> None:
        """A run that is under way."""

    async def close_run(self, report: RunReport, logs: Logs = (), opening: RunOpening | None = None) -> None:
        """A run that ended, with its log lines."""

    async def record_load(self, load: ConfigLoad) -> None:
        """A reading of the configuration."""

    async def answers(self) -> bool:
        """Whether it is there at all."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """What became of all that waited: how many records went, how many were set aside, and what stopped the rest."""

    records: int = 0
    quarantined: int = 0
    error: IcekeeperError | None = None


class Shipper:
    """One per process; several processes may ship the same record, for the ledger has it once all the same."""

    def __init__(
        self,
        spool: Spool,
        ledger: Callable[[], LedgerSink],
        logs_of: Callable[[UUID], Logs],
        *,
        sleep: Sleep = asyncio.sleep,
        on_answer: Callable[[bool], None] = lambda answers: None,
    ) -> None:
        """`ledger` is asked for each pass, as a reload may change it. `on_answer`: whether PostgreSQL did."""
        self._spool = spool
        self._ledger = ledger
        self._logs_of = logs_of
        self._sleep = sleep
        self._on_answer = on_answer
        self._due = asyncio.Event()
        self._one_pass = asyncio.Lock()
        self._stopped_by: IcekeeperError | None = None
        spool.on_put(self.wake)

    def wake(self) -> None:
        """There is something to ship, or reason to believe that PostgreSQL is back: it is tried at once."""
        self._due.set()

    async def run(self) -> None:
        """Ships for ever: whenever something is put, and again and again while PostgreSQL is away."""
        retry = FIRST_RETRY_S
        while True:
            self._due.clear()
            if (await self.ship()).error is None:
                retry = FIRST_RETRY_S
                await wait_for_event(self._due, _LOOK_S, self._sleep)
            else:
                await wait_for_event(self._due, retry, self._sleep)
                retry = min(2 * retry, LAST_RETRY_S)

    async def ship(self) -> Shipped:
        """One pass over everything that waits, oldest first. Raises nothing of ours: `error` says what stopped it."""
        async with self._one_pass:
            records = refused = 0
            error: IcekeeperError | None = None
            try:
                ledger, last = self._ledger(), 0
                while (record := await self._spool.next_record(last)) is not None:
                    last = record.number
                    try:
                        delivered = await self._delivered(ledger, record)
                    except TransientError as exc:
                        error = error or exc
                        if not await ledger.answers():
                            break
                        continue  # it is this record's own, like a timeout: those behind it needn't wait for it
                    records, refused = records + delivered, refused + (not delivered)
            except IcekeeperError as exc:
                error = exc
            except Exception as exc:  # a mistake of ours must not end the shipping for good: it is told and tried again
                log.exception("shipping_failed")
                error = PermanentError(f"{type(exc).__name__}: {exc}")
            self._tell(error, records)
            return Shipped(records, refused, error)

    async def ship_within(self, seconds: float) -> IcekeeperError | None:
        """One pass, for who can't wait for longer; what stands in the way of it, None where all went."""
        try:
            async with asyncio.timeout(seconds):
                return (await self.ship()).error
        except TimeoutError:
            return TransientError("PostgreSQL takes too long to take the run's records", reason=Reason.LEDGER_DOWN)

    async def _delivered(self, ledger: LedgerSink, record: OutboxRecord) -> bool:
        """False: it was set aside. Raises what is not about this very record."""
        try:
            await self._deliver(ledger, record)
        except IcekeeperError as exc:
            # The reason tells whom it is about: see postgres.translated.
            if not isinstance(exc, PermanentError) or exc.reason is not Reason.UNEXPECTED:
                self._on_answer(False)
                raise
            self._on_answer(True)
            problem = str(exc)
        except Exception as exc:  # one that nobody foresaw holds up this record, and not those behind it
            problem = f"{type(exc).__name__}: {exc}"
        else:
            self._on_answer(True)
            # A crash before this: it is delivered once more, which changes nothing.
            await self._spool.mark_shipped(record)
            return True
        await self._spool.quarantine(record, problem)
        log.error("record_quarantined", kind=record.kind, id=str(record.id), error=problem)
        return False

    async def _deliver(self, ledger: LedgerSink, record: OutboxRecord) -> None:
        if record.load is not None:
            await ledger.record_load(from_json(ConfigLoad, record.load))
            return
        opening = None if record.opening is None else from_json(RunOpening, record.opening)
        if record.report is not None:
            logs = await asyncio.to_thread(self._logs, record.id)
            await ledger.close_run(from_json(RunReport, record.report), logs, opening)
        elif opening is not None:
            await ledger.open_run(opening)
        else:
            raise ValueError("the spool has no longer what it is about")

    def _logs(self, run_id: UUID) -> Logs:
        try:
            return self._logs_of(run_id)
        except (OSError, ValueError) as exc:  # the run itself is worth more than its lines
            log.warning("run_logs_not_read", about=str(run_id), error=str(exc))
            return ()

    def _tell(self, error: IcekeeperError | None, records: int) -> None:
        """One line when shipping stops, or stops for another reason, and one when it goes on."""
        before, self._stopped_by = self._stopped_by, error
        if error is not None and (before is None or before.reason is not error.reason):
            log.warning("shipping_stopped", reason=error.reason, error=str(error))
        elif error is None and before is not None:
            log.info("shipping_resumed", records=records)
