"""Asking the ledger again and again, behind those who must not wait. What it is asked, and what for: supervisor.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from icekeeper.core.errors import IcekeeperError

log = structlog.get_logger(__name__)

# What others did to the ledger (an acknowledgement, a night of another host) is known this long afterwards.
REFRESH_S = 60.0


class LedgerPoller:
    """Asks behind whoever wants to know: they get what the last answer was.

    There is no timer: the question is asked when a run has ended, and when a scrape finds the last answer old.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[None]], told: Callable[[bool], None], refresh_s: float = REFRESH_S
    ) -> None:
        """`ask` takes what it is answered, and raises IcekeeperError; `told` hears whether it could."""
        self._ask = ask
        self._told = told
        self._refresh_s = refresh_s
        self._asked_at: float | None = None
        self._asking: asyncio.Task[None] | None = None
        self._again = False
        self._failed = False
        self._closed = False

    def look(self) -> None:
        """Asks anew, behind the caller, where the last answer is old. The first question is the start's."""
        if self._asked_at is not None and asyncio.get_running_loop().time() - self._asked_at >= self._refresh_s:
            self.refresh()

    def refresh(self) -> None:
        """Asks, behind the caller. Where that is under way it is asked once more: the answer may be of before."""
        if self._closed:  # a scrape during the stop: what would be asked is closed, too
            return
        self._again = self._asking is not None and not self._asking.done()
        if not self._again:
            self._asking = asyncio.create_task(self._refresh())

    async def answered(self, seconds: float) -> None:
        """Returns when no question is under way, at the latest after so many seconds."""
        if self._asking is not None:
            await asyncio.wait([self._asking], timeout=seconds)

    async def close(self) -> None:
        """Gives up a question under way, and asks no other."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _refresh(self) -> None:
        self._again = True
        while self._again:
            self._again = False
            self._asked_at = asyncio.get_running_loop().time()
            try:
                await self._ask()
            except IcekeeperError as exc:
                if not self._failed:  # a server that is away for a night needs one line, not five hundred
                    log.warning("ledger_not_read", error=str(exc), advice=exc.reason.advice)
                self._failed = True
            else:
                self._failed = False
            self._told(not self._failed)
