"""ClickHouse's count of the next table, while Spark is busy with this one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from daemon.core.errors import TransientError
from daemon.core.model import SourceCount, Window
from daemon.ports import Clock, SourceCounter

# A count that was ready earlier is made anew: what came late meanwhile would look like a surplus of Iceberg's.
FRESH = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class _Asked:
    source: str
    timestamp: str
    window: Window
    final: bool | None


@dataclass(slots=True)
class _Begun:
    counting: asyncio.Future[SourceCount]
    ended_at: datetime | None = None


class CountsAhead:
    """The port `SourceCounter` by way of another, counts of which may be under way before they are asked for.

    ClickHouse's side is counted before Iceberg's either way, so that a late row is never taken for a missing one.
    """

    def __init__(self, source: SourceCounter, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._begun: dict[_Asked, _Begun] = {}

    def begin(self, source: str, timestamp: str, window: Window, final: bool | None, timeout: timedelta) -> None:
        """Starts what `count` will be asked. Called in the loop; `end` ends it where nobody asks."""
        begun = _Begun(asyncio.ensure_future(self._source.count(source, timestamp, window, final, timeout)))
        begun.counting.add_done_callback(lambda _: self._ended(begun))
        self._begun[_Asked(source, timestamp, window, final)] = begun

    def end(self) -> None:
        """Ends what nobody asked for."""
        for begun in self._begun.values():
            begun.counting.cancel()
        self._begun.clear()

    async def count(
        self, source: str, timestamp: str, window: Window, final: bool | None, timeout: timedelta
    ) -> SourceCount:
        """What was begun, where it is this very count and fresh; a new one otherwise, or where that failed for now."""
        since = self._clock()
        begun = self._begun.pop(_Asked(source, timestamp, window, final), None)
        if begun is not None and (begun.ended_at is None or since - begun.ended_at <= FRESH):
            with suppress(TransientError):
                return await begun.counting
        left = max(timedelta(0), timeout - (self._clock() - since))
        return await self._source.count(source, timestamp, window, final, left)

    async def count_by_hour(
        self, source: str, timestamp: str, window: Window, final: bool, timeout: timedelta
    ) -> Mapping[datetime, int]:
        """As the other one counts."""
        return await self._source.count_by_hour(source, timestamp, window, final, timeout)

    def _ended(self, begun: _Begun) -> None:
        begun.ended_at = self._clock()
        if not begun.counting.cancelled():
            begun.counting.exception()  # seen, so that Python does not complain where nobody asks for it
