"""The port `Lakehouse` on a Spark session: prefetch, inspect, compact, expire and count, through Iceberg's Java API.

What is worth doing is decided in the core; how a session is kept alive is in adapters/spark.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import structlog
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.commit_gate import CommitGate
from icekeeper.adapters.iceberg.expiry import expire_snapshots
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.metadata import files_named
from icekeeper.adapters.iceberg.misplaced import explained
from icekeeper.adapters.iceberg.planner import planner_options
from icekeeper.adapters.iceberg.proof.files import prove_files, prove_replaced, require_snapshot
from icekeeper.adapters.iceberg.proof.footers import Footers
from icekeeper.adapters.iceberg.rewrite import rewriting
from icekeeper.adapters.iceberg.rows import counting, keys
from icekeeper.adapters.iceberg.tables import Tables
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.stacks import CallTimedOut
from icekeeper.core.audit.keys import ColumnType, KeyQuery, KeyRows
from icekeeper.core.audit.proof import FilesProof
from icekeeper.core.audit.records import Fingerprint, LakehouseCount
from icekeeper.core.calendar import Window
from icekeeper.core.errors import IcekeeperError, TransientError
from icekeeper.core.policy import CompactPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Slice
from icekeeper.core.tables.planning import may_interest_planner
from icekeeper.core.tables.state import RUN_ID_PROPERTY, DeletedFiles, FileGroup, TableState
from icekeeper.night.ports import BeforeCommit

T = TypeVar("T")
log = structlog.get_logger(__name__)

# Metadata is read in milliseconds; a store that needs minutes for it is down.
METADATA_TIMEOUT = timedelta(minutes=2)
# How many tables are prefetched at once, and how long that may take: the others are read by their own tasks.
PREFETCH_THREADS = 12
PREFETCH_S = 10.0
# The planner holds every file in the heap: a larger table is not prefetched.
PREFETCH_MAX_FILES = 12_000


class IcebergLakehouse:
    """The port `Lakehouse`. Tables are named `namespace.table`, without the catalog's name."""

    def __init__(self, engine: SparkEngine, catalog: str) -> None:
        self._engine = engine
        self._catalog = catalog
        self._jvm: IcebergJvm | None = None
        self._tables = Tables(catalog)
        self._footers = Footers(engine.options.state_dir)
        # One pool for all prefetches: PySpark gives every thread a connection, and keeps it.
        self._prefetchers = ThreadPoolExecutor(PREFETCH_THREADS, thread_name_prefix="prefetch")
        self._unfinished: list[Future[None]] = []

    async def close(self) -> None:
        """Ends the threads of prefetches. One that hangs is left behind."""
        self._prefetchers.shutdown(wait=False, cancel_futures=True)

    async def prefetch(self, policies: Sequence[TablePolicy]) -> None:
        def read(jvm: IcebergJvm, policy: TablePolicy) -> None:
            # A handle of its own, kept when all is read: the table's task may come before that.
            table, at = policy.name, time.monotonic()
            handle = self._tables.load(jvm, table)
            files = jvm.total_data_files(handle)
            if files is None or files > PREFETCH_MAX_FILES:
                return
            state = self._tables.state(jvm, table, handle, policy.compact.target_file_size)
            if may_interest_planner(state, policy.compact):
                self._tables.groups(jvm, table, handle, policy.compact)
            self._tables.keep(jvm, table, handle, at)

        def work(jvm: IcebergJvm) -> None:
            self._unfinished = [future for future in self._unfinished if not future.done()]
            if self._unfinished:  # whatever they wait for, more of them would wait, too
                return
            futures = [self._prefetchers.submit(read, jvm, policy) for policy in policies]
            done, unfinished = wait(futures, PREFETCH_S)
            self._unfinished = [future for future in unfinished if not future.cancel()]
            errors = [str(error) for future in done if (error := future.exception()) is not None]
            (log.warning if unfinished else log.debug)(
                "tables_prefetched", tables=len(futures), unfinished=len(unfinished), errors=errors
            )

        await self._run(work, METADATA_TIMEOUT, jobs=False)

    async def inspect(self, table: str, target_file_size: int) -> TableState:
        def work(jvm: IcebergJvm) -> TableState:
            return self._tables.state(jvm, table, self._tables.handle(jvm, table), target_file_size)

        return await self._read(work, table)

    async def file_groups(self, table: str, policy: CompactPolicy) -> tuple[FileGroup, ...]:
        def work(jvm: IcebergJvm) -> tuple[FileGroup, ...]:
            return self._tables.groups(jvm, table, self._tables.handle(jvm, table), policy)

        return await self._read(work, table)

    async def compact(
        self,
        table: str,
        policy: CompactPolicy,
        part: Slice,
        run_id: UUID,
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> bool:
        def work(jvm: IcebergJvm, handle: Any) -> bool:
            options = planner_options(policy)
            if part.max_files is not None:
                options["max-files-to-rewrite"] = str(part.max_files)
            selected = None
            if part.partitions:
                selected = self._tables.selected(jvm, table, handle, policy, part)
                if selected is None:
                    return False
            with rewriting(jvm, handle, part, policy.sort_by) as action:
                for key, value in options.items():
                    action.option(key, value)
                if selected is not None:
                    action.filter(selected)
                result = action.snapshotProperty(RUN_ID_PROPERTY, str(run_id)).execute()
            log.info(
                "files_rewritten",
                how=part.how,
                rewritten=result.rewrittenDataFilesCount(),
                added=result.addedDataFilesCount(),
                failed=result.failedDataFilesCount(),
                bytes=result.rewrittenBytesCount(),
            )
            return bool(result.rewrittenDataFilesCount())

        return await self._commit(work, timeout, table, before_commit)

    async def expire(
        self,
        table: str,
        snapshot_ids: tuple[int, ...],
        retain_last: int,
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> DeletedFiles:
        def work(jvm: IcebergJvm, handle: Any) -> DeletedFiles:
            named = files_named(self._tables.history(jvm, table, handle))
            return expire_snapshots(jvm, table, handle, snapshot_ids, retain_last, named)

        return await self._commit(work, timeout, table, before_commit)

    async def count(
        self,
        table: str,
        timestamp: str,
        window: Window,
        timeout: timedelta,
        snapshot_id: int | None = None,
        *,
        every_value: bool = False,
    ) -> LakehouseCount:
        def current(jvm: IcebergJvm) -> int | None:
            return jvm.current_id(self._tables.handle(jvm, table))

        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout.total_seconds()
        at = snapshot_id if snapshot_id is not None else await self._read(current, table, at_most=timeout)
        if at is None:
            return counting.count_of_nothing(self._tables, table, timestamp, window)

        def work(jvm: IcebergJvm) -> LakehouseCount:
            return counting.count_window(jvm, self._tables, table, timestamp, window, at, every_value=every_value)

        return await self._read_rows(work, timedelta(seconds=max(0.0, deadline - loop.time())), table, at)

    async def prove_files(self, table: str, timestamp: str, window: Window, timeout: timedelta) -> FilesProof:
        def work(jvm: IcebergJvm) -> FilesProof:
            return prove_files(jvm, self._tables, self._footers, table, timestamp, window)

        return await self._run(work, timeout, table, jobs=False)

    async def prove_replaced(self, table: str, snapshot_id: int, timeout: timedelta) -> FilesProof:
        def work(jvm: IcebergJvm) -> FilesProof:
            return prove_replaced(jvm, self._tables, self._footers, table, snapshot_id)

        return await self._run(work, timeout, table, jobs=False)

    async def count_at(self, table: str, snapshot_id: int, timeout: timedelta) -> int:
        return await self._run(lambda jvm: counting.count_all(jvm, self._tables, table, snapshot_id), timeout, table)

    async def count_by_minute(
        self, table: str, timestamp: str, window: Window, snapshot_id: int | None, timeout: timedelta
    ) -> Mapping[datetime, int]:
        if snapshot_id is None:
            return {}

        def work(jvm: IcebergJvm) -> dict[datetime, int]:
            return counting.count_minutes(jvm, self._tables, table, timestamp, window, snapshot_id)

        return await self._read_rows(work, timeout, table, snapshot_id)

    async def column_types(self, table: str, columns: Iterable[str]) -> Mapping[str, ColumnType]:
        def work(jvm: IcebergJvm) -> dict[str, ColumnType]:
            handle = self._tables.handle(jvm, table)
            words = {column: jvm.column_type(handle, column) for column in columns}
            return {column: keys.column_type(word) for column, word in words.items() if word is not None}

        return await self._read(work, table)

    async def fingerprints(
        self,
        table: str,
        timestamp: str,
        window: Window,
        snapshot_id: int,
        query: KeyQuery,
        bits: int,
        timeout: timedelta,
    ) -> Mapping[int, Fingerprint]:
        def work(jvm: IcebergJvm) -> dict[int, Fingerprint]:
            columns = query.key.iceberg_columns
            with counting.rows_of(jvm, self._tables, table, timestamp, window, snapshot_id, columns) as rows:
                return keys.fingerprints(jvm.spark, rows, query, bits)

        return await self._read_rows(work, timeout, table, snapshot_id)

    async def key_rows(
        self, table: str, timestamp: str, window: Window, snapshot_id: int, query: KeyQuery, timeout: timedelta
    ) -> Mapping[bytes, KeyRows]:
        def work(jvm: IcebergJvm) -> dict[bytes, KeyRows]:
            columns = query.key.iceberg_columns
            with counting.rows_of(jvm, self._tables, table, timestamp, window, snapshot_id, columns) as rows:
                return keys.key_rows(jvm.spark, rows, timestamp, query)

        return await self._read_rows(work, timeout, table, snapshot_id)

    # --- the session

    async def _commit(
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
            return work(jvm, handle)

        if gate is None:
            return await self._run(guarded, timeout, table)
        call = asyncio.ensure_future(self._run(guarded, timeout, table))
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            gate.close()
            call.cancel()
            await asyncio.wait([call])
            raise
        except IcekeeperError as exc:
            raise (gate.refusal or exc) from exc.__cause__

    async def _read(self, work: Callable[[IcebergJvm], T], table: str, at_most: timedelta = timedelta.max) -> T:
        """Work on metadata alone. What blocks it is down: TransientError with its reason, if that is known."""
        try:
            return await self._run(work, min(METADATA_TIMEOUT, at_most), table, jobs=False)
        except CallTimedOut as exc:
            if exc.blocked_on is None:
                raise
            text = f"reading its metadata was {exc.args[0]}"
            raise TransientError(text, reason=exc.blocked_on, where=table) from exc

    async def _read_rows(self, work: Callable[[IcebergJvm], T], timeout: timedelta, table: str, snapshot_id: int) -> T:
        """Work that reads rows of a snapshot; its error names the files that can't be read."""
        mark = self._engine.log.mark()
        try:
            return await self._run(work, timeout, table)
        except IcekeeperError as exc:
            if exc.reason is Reason.FILE_MISSING:  # its files may be missing rightly
                await self._read(lambda jvm: require_snapshot(jvm, self._tables, table, snapshot_id), table)
            raise counting.naming_files(exc, self._engine.log.all_since(mark)) from exc.__cause__

    async def _run(
        self, work: Callable[[IcebergJvm], T], timeout: timedelta, where: str | None = None, *, jobs: bool = True
    ) -> T:
        def with_jvm(spark: SparkSession) -> T:
            # Once for each session: py4j asks the JVM for every part of every class's name.
            if self._jvm is None or self._jvm.spark is not spark:
                jvm = IcebergJvm(spark)
                jvm.open_catalog(self._catalog)
                self._jvm = jvm
            with explained(self._jvm, self._catalog, where):
                return work(self._jvm)

        return await self._engine.run(with_jvm, timeout=timeout, where=where, jobs=jobs)
