"""A connection whose end is noticed: the one that holds the lease. For all else: pool.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from icekeeper.adapters.postgres.pool import FOREIGN_ERRORS, Target, translated
from icekeeper.core.errors import TransientError
from icekeeper.core.reasons import Reason

ANSWER_S = 5.0
CLOSE_S = 2.0


class WatchedSession:
    """One connection with one query at a time, each with a timeout. A query that times out closes it."""

    def __init__(self, connection: Any, target: Target) -> None:
        self._connection = connection
        self._target = target
        self._querying = False

    @property
    def ended(self) -> bool:
        return bool(self._connection.is_closed())

    def on_end(self, callback: Callable[[WatchedSession], None]) -> None:
        """Has `callback` called when the connection ends between two queries. During one, the query raises instead."""
        self._connection.add_termination_listener(lambda _: None if self._querying else callback(self))

    async def query(self, sql: str, *values: object, timeout: float = ANSWER_S) -> Any:
        """The first row; None where there is none."""
        answer = asyncio.ensure_future(self._connection.fetchrow(sql, *values))
        self._querying = True
        try:
            # Not asyncpg's timeout or a cancellation: both open another connection to cancel the statement, and wait.
            await asyncio.wait([answer], timeout=timeout)
            if not answer.done():
                raise TransientError("does not answer", reason=Reason.LEDGER_DOWN, where=str(self._target))
            return answer.result()
        except FOREIGN_ERRORS as exc:
            raise translated(exc, self._target) from exc
        finally:
            if not answer.done() or answer.cancelled() or answer.exception() is not None:
                self._connection.terminate()
                await asyncio.gather(answer, return_exceptions=True)
            self._querying = False

    async def close(self) -> None:
        try:
            await self._connection.close(timeout=CLOSE_S)
        except FOREIGN_ERRORS:
            self._connection.terminate()
