"""Commits to a Hadoop catalog that ask first, in the instant in which they would land. What is asked: night/stages.

Such a catalog commits by checking that a version is free and then renaming a file to it: of two processes that do so at
once one may lose its commit although both had succeeded. Iceberg calls a LockManager around these two
steps; the one of this module asks whether the other writer is at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

from pyspark.java_gateway import ensure_callback_server_started

from icekeeper.adapters.iceberg.jvm import HADOOP_OPERATIONS, IcebergJvm
from icekeeper.core.errors import IcekeeperError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.night.ports import BeforeCommit


class CommitGate:
    """Lets the commits of one call pass while the other writer is idle. Made in the event loop."""

    def __init__(self, before_commit: BeforeCommit) -> None:
        """`before_commit` is awaited in the event loop; what it raises refuses the commit."""
        self._before_commit = before_commit
        self._loop = asyncio.get_running_loop()
        self._asking: asyncio.Task[None] | None = None
        self._refusal: IcekeeperError | None = None

    @property
    def refusal(self) -> IcekeeperError | None:
        """Why a commit was refused; None where none was."""
        return self._refusal

    def guard(self, jvm: IcebergJvm, table: Any) -> None:
        """Commits to this table ask from now on. Of another catalog than Hadoop's they don't."""
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
        text = "the commit waited for the offload until the call ended; nothing was committed"
        self._refusal = self._refusal or TransientError(text, reason=Reason.OFFLOAD_RUNNING)
        if self._asking is not None:
            self._asking.cancel()

    def _may_commit(self) -> bool:
        """In a thread that the JVM waits for. Iceberg tries a refused commit again: that is refused at once."""
        if self._refusal is None:
            try:
                asyncio.run_coroutine_threadsafe(self._ask(), self._loop).result()
            except IcekeeperError as exc:
                self._refusal = exc
            except CancelledError:
                self._loop.call_soon_threadsafe(self.close)
                return False
        return self._refusal is None

    async def _ask(self) -> None:
        if self._refusal is not None:
            raise self._refusal
        self._asking = asyncio.ensure_future(self._before_commit())
        try:
            await self._asking
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
