"""How many days of each table wait for an operator, as the daemon knows it. What a finding is lives elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping

import structlog

from daemon.core.errors import IcekeeperError

log = structlog.get_logger(__name__)

# An acknowledgement shows in the metric this long afterwards, at the scrape after the next.
REFRESH_S = 60.0


class OpenFindings:
    """Days with open findings by table. Asking goes on behind whoever wants to know: they get the last answer.

    There is no timer: the question is asked when a run has ended, and when a scrape finds the last answer old.
    """

    def __init__(
        self,
        tables: Callable[[], Iterable[str]],
        ask: Callable[[Iterable[str]], Awaitable[Mapping[str, int]]],
        told: Callable[[bool], None],
        refresh_s: float = REFRESH_S,
    ) -> None:
        """`ask` answers for tables and raises IcekeeperError; `told` hears whether it could."""
        self._tables = tables
        self._ask = ask
        self._told = told
        self._refresh_s = refresh_s
        self._days: Mapping[str, int] = {}
        self._asked_at: float | None = None
        self._asking: asyncio.Task[None] | None = None
        self._failed = False

    def days(self) -> dict[str, int]:
        """The last answer, 0 for a table without any; asks anew behind the caller where it is old."""
        if self._asked_at is not None and asyncio.get_running_loop().time() - self._asked_at >= self._refresh_s:
            self.refresh()
        return {table: self._days.get(table, 0) for table in self._tables()}

    def refresh(self) -> None:
        """Asks, behind the caller, unless that is under way."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._refresh())

    async def close(self) -> None:
        """Gives up a question under way."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait([self._asking])

    async def _refresh(self) -> None:
        self._asked_at = asyncio.get_running_loop().time()
        try:
            self._days = await self._ask(tuple(self._tables()))
        except IcekeeperError as exc:
            if not self._failed:  # a server that is away for a night needs one line, not five hundred
                log.warning("findings_not_read", error=str(exc), advice=exc.reason.advice)
            self._failed = True
        else:
            self._failed = False
        self._told(not self._failed)
