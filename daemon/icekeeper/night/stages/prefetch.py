"""ClickHouse's count of the next table, while Iceberg's side of this one is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from icekeeper.core.audit.keys import Key
from icekeeper.core.audit.records import SourceCount
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import Window
from icekeeper.core.errors import DeadlineExceeded, TransientError
from icekeeper.night.ports import Clock, SourceCounter

# An older count is made anew: rows that came late meanwhile would look like a surplus of Iceberg's.
FRESH = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class CountRequest:
    """The arguments of `SourceCounter.count` that make a count the same one; its timeout does not."""

    source: Source
    window: Window
    final: bool | None
    key: Key | None = None


@dataclass(slots=True)
class _RunningCount:
    request: CountRequest
    began_at: datetime
    counting: asyncio.Task[SourceCount]
    ended_at: datetime | None = None


class PrefetchedCounts:
    """The port `SourceCounter` over another one: a prefetched count begins as soon as the next count is done.

    So the server has one count at a time, and ClickHouse's side of a table is still counted before Iceberg's: a late
    row is never taken for a missing one.
    """

    def __init__(self, source: SourceCounter, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._next: tuple[CountRequest, timedelta] | None = None
        self._begun: _RunningCount | None = None

    def prefetch(self, request: CountRequest, timeout: timedelta) -> None:
        """Begins this count after the next one; `end` cancels it where it was not used."""
        self._next = request, timeout

    async def end(self) -> None:
        """Cancels what was prefetched and not used."""
        begun, self._begun, self._next = self._begun, None, None
        if begun is not None:
            begun.counting.cancel()
            await asyncio.wait([begun.counting])

    async def count(
        self, source: Source, window: Window, final: bool | None, timeout: timedelta, key: Key | None = None
    ) -> SourceCount:
        """The prefetched count, where it is the same one and fresh; else, or where that failed for now, a new one."""
        request, since = CountRequest(source, window, final, key), self._clock()
        counted = await self._ahead(request, since)
        if counted is None:
            left = max(timedelta(0), timeout - (self._clock() - since))
            counted = replace(await self._source.count(source, window, final, left, key), began_at=since)
        if self._next is not None and self._begun is None:
            self._begin(*self._next)
        return counted

    async def count_by_minute(
        self, source: Source, window: Window, final: bool, timeout: timedelta, *, dates: bool = False
    ) -> Mapping[datetime, int]:
        """Not prefetched."""
        return await self._source.count_by_minute(source, window, final, timeout, dates=dates)

    async def newest(self, source: Source, window: Window, timeout: timedelta) -> datetime | None:
        """Not prefetched."""
        return await self._source.newest(source, window, timeout)

    def _begin(self, request: CountRequest, timeout: timedelta) -> None:
        count = self._source.count(request.source, request.window, request.final, timeout)
        begun = _RunningCount(request, self._clock(), asyncio.ensure_future(count))
        begun.counting.add_done_callback(lambda _: self._ended(begun))
        self._begun, self._next = begun, None

    async def _ahead(self, request: CountRequest, now: datetime) -> SourceCount | None:
        begun = self._begun
        if begun is None or begun.request != request:
            return None
        self._begun = None
        if begun.ended_at is None or now - begun.ended_at <= FRESH:
            try:
                return replace(await begun.counting, began_at=begun.began_at)
            except DeadlineExceeded:
                raise  # it had all its time
            except TransientError:
                pass
        return None

    def _ended(self, begun: _RunningCount) -> None:
        begun.ended_at = self._clock()
        if not begun.counting.cancelled():
            begun.counting.exception()  # retrieved, or Python would warn where it is not used
