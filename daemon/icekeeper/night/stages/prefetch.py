"""ClickHouse's count of the next table, while Iceberg's side of this one is counted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from icekeeper.core.audit.records import SourceCount
from icekeeper.core.calendar import Window
from icekeeper.core.errors import DeadlineExceeded, TransientError
from icekeeper.night.ports import Clock, SourceCounter

# A count that was ready earlier is made anew: what came late meanwhile would look like a surplus of Iceberg's.
FRESH = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class CountRequest:
    """A count, as `SourceCounter.count` is asked for it; `timeout` makes no other count of it."""

    source: str
    timestamp: str
    window: Window
    final: bool | None


@dataclass(slots=True)
class _Begun:
    asked: CountRequest
    counting: asyncio.Task[SourceCount]
    ended_at: datetime | None = None


class PrefetchedCounts:
    """The port `SourceCounter` by way of another. The count after the next one begins when that has come.

    So the server has one count of ours at a time, and ClickHouse's side of a table is counted before Iceberg's either
    way: a late row is never taken for a missing one.
    """

    def __init__(self, source: SourceCounter, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._next: tuple[CountRequest, timedelta] | None = None
        self._begun: _Begun | None = None

    def then(self, asked: CountRequest, timeout: timedelta) -> None:
        """What will be asked for after the next count. `end` ends it where nobody asks."""
        self._next = asked, timeout

    async def end(self) -> None:
        """Ends what nobody asked for."""
        begun, self._begun, self._next = self._begun, None, None
        if begun is not None:
            begun.counting.cancel()
            await asyncio.wait([begun.counting])

    async def count(
        self, source: str, timestamp: str, window: Window, final: bool | None, timeout: timedelta
    ) -> SourceCount:
        """What was begun, where it is this very count and fresh; a new one otherwise, or where that failed for now."""
        asked, since = CountRequest(source, timestamp, window, final), self._clock()
        counted = await self._ahead(asked, since)
        if counted is None:
            left = max(timedelta(0), timeout - (self._clock() - since))
            counted = await self._source.count(source, timestamp, window, final, left)
        if self._next is not None and self._begun is None:
            self._begin(*self._next)
        return counted

    async def count_by_hour(
        self, source: str, timestamp: str, window: Window, final: bool, timeout: timedelta
    ) -> Mapping[datetime, int]:
        """As the other one counts."""
        return await self._source.count_by_hour(source, timestamp, window, final, timeout)

    def _begin(self, asked: CountRequest, timeout: timedelta) -> None:
        count = self._source.count(asked.source, asked.timestamp, asked.window, asked.final, timeout)
        begun = _Begun(asked, asyncio.ensure_future(count))
        begun.counting.add_done_callback(lambda _: self._ended(begun))
        self._begun, self._next = begun, None

    async def _ahead(self, asked: CountRequest, now: datetime) -> SourceCount | None:
        begun = self._begun
        if begun is None or begun.asked != asked:
            return None
        self._begun = None
        if begun.ended_at is None or now - begun.ended_at <= FRESH:
            try:
                return await begun.counting
            except DeadlineExceeded:
                raise  # it had all its time
            except TransientError:
                pass
        return None

    def _ended(self, begun: _Begun) -> None:
        begun.ended_at = self._clock()
        if not begun.counting.cancelled():
            begun.counting.exception()  # seen, so that Python does not complain where nobody asks for it
