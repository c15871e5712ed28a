"""Calls into a session for a catalog's tables: commits, reads of metadata or rows. What they do: lakehouse.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import structlog
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.commit_gate import CommitGate
from icekeeper.adapters.iceberg.commits.careful import careful, is_rest
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.misplaced import explained
from icekeeper.adapters.iceberg.probe import read_byte
from icekeeper.adapters.iceberg.proof.files import require_snapshot
from icekeeper.adapters.iceberg.rows import counting
from icekeeper.adapters.iceberg.tables import Tables
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.stacks import CallTimedOut
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.night.lakehouse import BeforeCommit

T = TypeVar("T")
log = structlog.get_logger(__name__)

# Metadata is read in milliseconds; a store that needs minutes for it is down.
METADATA_TIMEOUT = timedelta(minutes=2)


class SessionCalls:
    """Runs work in the thread of the session, with Iceberg in its JVM."""

    def __init__(self, engine: SparkEngine, catalog: str, tables: Tables) -> None:
        self.log = engine.log
        self._engine = engine
        self._catalog = catalog
        self._tables = tables
        self._jvm: IcebergJvm | None = None
        # The session, and the last two tables on which work has succeeded in it, the last one at the end.
        self._worked: tuple[SparkSession, dict[str, Any]] | None = None

    async def commit(
        self,
        work: Callable[[IcebergJvm, Any], T],
        timeout: timedelta,
        table: str,
        before_commit: BeforeCommit | None,
    ) -> T:
        """Work that commits to the table it is given; in a Hadoop catalog each commit awaits `before_commit` first."""
        gate = None if before_commit is None else CommitGate(before_commit, timeout)

        def guarded(jvm: IcebergJvm) -> T:
            handle = self._tables.handle(jvm, table)
            if gate is not None:
                gate.guard(jvm, handle)
            return work(jvm, careful(jvm, handle))

        if gate is None:
            return await self.run(guarded, timeout, table)
        call = asyncio.ensure_future(self.run(guarded, timeout, table))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            gate.close()
            call.cancel()
            await asyncio.wait([call])
            raise
        except IcekeeperError as exc:
            raise (gate.refusal or exc) from exc.__cause__

    async def read(self, work: Callable[[IcebergJvm], T], table: str, at_most: timedelta = timedelta.max) -> T:
        """Work on metadata alone. What blocks it is down: TransientError with its reason, if that is known."""
        try:
            return await self.run(work, min(METADATA_TIMEOUT, at_most), table, jobs=False)
        except CallTimedOut as exc:
            if exc.blocked_on is None:
                raise
            text = f"reading its metadata was {exc.args[0]}"
            raise TransientError(text, reason=exc.blocked_on, where=table) from exc

    async def read_rows(self, work: Callable[[IcebergJvm], T], timeout: timedelta, table: str, snapshot_id: int) -> T:
        """Work that reads rows of a snapshot; its error names the files that can't be read."""
        mark = self.log.mark()
        try:
            return await self.run(work, timeout, table)
        except IcekeeperError as exc:
            if exc.reason is Reason.FILE_MISSING:  # its files may be missing rightly
                await self.read(lambda jvm: require_snapshot(jvm, self._tables, table, snapshot_id), table)
            raise counting.naming_files(exc, self.log.all_since(mark)) from exc.__cause__

    async def run(
        self, work: Callable[[IcebergJvm], T], timeout: timedelta, where: str | None = None, *, jobs: bool = True
    ) -> T:
        def with_jvm(spark: SparkSession) -> T:
            # Once for each session: py4j asks the JVM for every part of every class's name.
            if self._jvm is None or self._jvm.spark is not spark:
                jvm = IcebergJvm(spark)
                jvm.open_catalog(self._catalog)
                self._jvm = jvm
            with explained(self._jvm, self._catalog, where):
                result = work(self._jvm)
            if where is not None:
                self._note_success(self._jvm, where)
            return result

        try:
            return await self._engine.run(with_jvm, timeout=timeout, where=where, jobs=jobs)
        except PermanentError as exc:
            if exc.reason is not Reason.ACCESS_DENIED:
                raise
            if not (await self._engine.has_fresh_secrets() or await self._is_session_refused(where)):
                raise
            raise await self._engine.renewed_for(exc) from exc.__cause__

    def _note_success(self, jvm: IcebergJvm, table: str) -> None:
        known = self._worked[1] if self._worked is not None and self._worked[0] is jvm.spark else {}
        others = [(name, handle) for name, handle in known.items() if name != table][-1:]
        self._worked = jvm.spark, {**dict(others), table: self._tables.last(jvm, table) or known.get(table)}

    async def _is_session_refused(self, where: str | None) -> bool:
        """After a refusal: whether what worked before in this session is refused now, too. Otherwise it is the table's.

        Tried is another table than the one that was refused, where there is one: from the catalog and from the store.
        """
        if self._worked is None:
            return False
        spark, tables = self._worked
        table = next((name for name in tables if name != where), where)
        assert table is not None  # there is one at least

        def read(now: SparkSession) -> None:
            if now is not spark or self._jvm is None:  # a new session, of which nothing is known
                return
            # The store first, by what is known: loading a table whose store refuses takes a minute and a half.
            if (known := tables[table]) is not None and not is_rest(self._jvm, known):
                read_byte(known.io(), str(known.operations().current().metadataFileLocation()))
            handle = self._tables.load(self._jvm, table)
            snapshot = handle.currentSnapshot()
            if snapshot is not None:
                read_byte(handle.io(), str(snapshot.manifestListLocation()))

        try:
            await self._engine.run(read, timeout=METADATA_TIMEOUT, where=table, jobs=False)
        except IcekeeperError as exc:
            log.info("refusal_examined", table=table, error=str(exc))
            return exc.reason is Reason.ACCESS_DENIED
        return False
