"""Keeps what the ledger knows of the last nights at hand, for scrapes and pages that must not wait for PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from icekeeper.adapters.ledger.recent import PostgresRecent
from icekeeper.core.errors import IcekeeperError
from icekeeper.scheduling.leadership import Leadership
from icekeeper.scheduling.reload import Configuration
from icekeeper.status.metrics import Metrics

log = structlog.get_logger(__name__)

# How far back days are missed that no audit has seen.
SKIPPED = timedelta(days=400)
# An acknowledgement, or a night of another host, shows at most this long afterwards.
REFRESH_S = 60.0


async def read_nights(configuration: Configuration, leadership: Leadership, metrics: Metrics) -> None:
    """Reads the last nights, open findings, certificates, holds and, on a standby, whether another host leads."""
    services = configuration.services
    tables = [policy.name for policy in services.settings.policies()]
    await services.installation.settled()
    await leadership.find_leader()
    past = await PostgresRecent(services.postgres, services.installation).past(tables)
    # After the past, so that these hold the open findings of every run that is in it.
    findings = services.findings
    open_days, open_rows = await findings.open_days(tables), await findings.open_rows(tables)
    now, settings = services.ports.clock(), services.settings
    # The night of a slot may take so long.
    expected = settings.schedule.calendar().audited_days((now - SKIPPED).date(), now - settings.run.max_duration)
    certified = await services.certificates.of_tables(tables, now, expected)
    metrics.add_history(past, open_days, open_rows, certified)
    try:
        await services.holds.keep()
    except IcekeeperError as exc:  # of this one table, or of state_dir: the rest is known
        log.warning("holds_not_kept", error=str(exc), advice=exc.reason.advice)


class LedgerPoller:
    """Reads in the background, at the end of a run and when a scrape finds the last answer old. There is no timer."""

    def __init__(
        self, read: Callable[[], Awaitable[None]], on_answer: Callable[[bool], None], refresh_s: float = REFRESH_S
    ) -> None:
        """`read` raises IcekeeperError where PostgreSQL does not answer. `on_answer`: whether it did."""
        self._read = read
        self._on_answer = on_answer
        self._refresh_s = refresh_s
        self._read_at: float | None = None
        self._reading: asyncio.Task[None] | None = None
        self._again = False
        self._failed = False
        self._closed = False

    def ledger_used(self, answered: bool) -> None:
        """Another component has used the ledger. Where it answered, there may be something new to read."""
        self._on_answer(answered)
        if answered:
            self.refresh()

    def refresh_if_old(self) -> None:
        """Reads again where the last answer is old. The first time is the startup's."""
        if self._read_at is not None and asyncio.get_running_loop().time() - self._read_at >= self._refresh_s:
            self.refresh()

    def refresh(self) -> None:
        """Reads again. While that is under way it is repeated afterwards: its answer may be older than this call."""
        if self._closed:  # a scrape during the shutdown: the connections are closed, too
            return
        self._again = self._reading is not None and not self._reading.done()
        if not self._again:
            self._reading = asyncio.create_task(self._refresh())

    async def settled(self, seconds: float) -> None:
        """Returns when nothing is being read, at the latest after so many seconds."""
        if self._reading is not None:
            await asyncio.wait([self._reading], timeout=seconds)

    async def close(self) -> None:
        """Cancels what is under way. Nothing is read afterwards."""
        self._closed = True
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def _refresh(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            self._read_at = asyncio.get_running_loop().time()
            try:
                await self._read()
            except IcekeeperError as exc:
                if not self._failed:  # once: a server may be away for a whole night
                    log.warning("ledger_not_read", error=str(exc), advice=exc.reason.advice)
                self._failed = True
            else:
                self._failed = False
            self._on_answer(not self._failed)
