"""Commits to a Hadoop catalog that ask first, in the instant in which they would land. What is asked: night/stages.

Such a catalog commits by checking that a version is free and then renaming a file to it: of two processes that do so at
once one may lose its commit although Iceberg reports both as done. Iceberg calls a LockManager around these two steps;
the one of this module asks whether the other writer is at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError
from datetime import timedelta
from typing import Any

from pyspark.java_gateway import ensure_callback_server_started

from icekeeper.adapters.iceberg.jvm import HADOOP_OPERATIONS, IcebergJvm
from icekeeper.core.errors import IcekeeperError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.night.lakehouse import BeforeCommit

# A commit's wait ends so long before the call's timeout; the other writer has at least so long to answer.
_GIVE_UP_S = 5.0
_ANSWER_S = 2.0


class CommitGate:
    """Lets the commits of one call pass while the other writer is idle. Made in the event loop."""

    def __init__(self, before_commit: BeforeCommit, timeout: timedelta) -> None:
        """`before_commit` is awaited in the event loop; what it raises refuses the commit.

        `timeout` is the engine's for the call: a commit that waits can't be interrupted from outside, so its wait ends
        a little earlier.
        """
        self._before_commit = before_commit
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._give_up_at = self._loop.time()
        self._asking: asyncio.Task[None] | None = None
        self._closed = False
        # Why a commit was refused; None where none was, whatever else ended the call.
        self.refusal: IcekeeperError | None = None

    def guard(self, jvm: IcebergJvm, table: Any) -> None:
        """Commits to this table ask from now on. Of another catalog than Hadoop's they don't."""
        self._give_up_at = self._loop.time() + self._timeout.total_seconds() - _GIVE_UP_S
        operations = table.operations()
        if not jvm.java_class(HADOOP_OPERATIONS).isInstance(operations):
            return
        # The JVM calls back to a port on the loopback.
        ensure_callback_server_started(jvm.spark.sparkContext._gateway)  # type: ignore[no-untyped-call]
        lock_manager = jvm.java_class(HADOOP_OPERATIONS).getDeclaredField("lockManager")
        lock_manager.setAccessible(True)
        lock_manager.set(operations, _LockManager(self._may_commit))

    def close(self) -> None:
        """In the event loop: refuses what is asked from now on, and what waits for its answer."""
        self._closed = True
        if self._asking is not None:
            self._asking.cancel()

    def _may_commit(self) -> bool:
        """In a thread that the JVM waits for. Iceberg tries a refused commit again: that is refused at once."""
        if self.refusal is None:
            try:
                asyncio.run_coroutine_threadsafe(self._ask(), self._loop).result()
            except IcekeeperError as exc:
                self.refusal = exc
            except (CancelledError, TimeoutError):
                text = "its commit waited for the offload until the call ended; nothing was committed"
                self.refusal = TransientError(text, reason=Reason.OFFLOAD_RUNNING)
        return self.refusal is None

    async def _ask(self) -> None:
        if self._closed:
            raise asyncio.CancelledError
        self._asking = asyncio.current_task()
        try:
            # At the end of the call an idle writer can still say so.
            async with asyncio.timeout_at(max(self._give_up_at, self._loop.time() + _ANSWER_S)):
                await self._before_commit()
        finally:
            self._asking = None


class _LockManager:
    """org.apache.iceberg.LockManager, as py4j calls it."""

    def __init__(self, may_commit: Callable[[], bool]) -> None:
        self._may_commit = may_commit

    def acquire(self, entity_id: str, owner_id: str) -> bool:
        """False fails the commit as a conflict, which cleans up after itself."""
        return self._may_commit()

    def release(self, entity_id: str, owner_id: str) -> bool:
        return True

    def initialize(self, properties: Any) -> None:
        """There are no properties."""

    def close(self) -> None:
        """Nothing is kept open."""

    class Java:
        implements = ("org.apache.iceberg.LockManager",)
