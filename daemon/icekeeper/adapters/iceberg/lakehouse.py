"""The port `Lakehouse` on a Spark session: prefetch, inspect, compact, expire and count, through Iceberg's Java API.

What is worth doing is decided in the core; how a session is kept alive is in adapters/spark.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import structlog

from icekeeper.adapters.iceberg.calls import METADATA_TIMEOUT, SessionCalls
from icekeeper.adapters.iceberg.commits.properties import set_properties
from icekeeper.adapters.iceberg.copying.row_groups import Copied, copy_row_groups
from icekeeper.adapters.iceberg.deleting.files import expire_and_delete, switched_off
from icekeeper.adapters.iceberg.deleting.kept import KeptPaths
from icekeeper.adapters.iceberg.expiry import expire_snapshots
from icekeeper.adapters.iceberg.jvm import IcebergJvm
from icekeeper.adapters.iceberg.metadata import files_named
from icekeeper.adapters.iceberg.planner import planner_options
from icekeeper.adapters.iceberg.proof.files import prove_files, prove_replaced
from icekeeper.adapters.iceberg.proof.footers import Footers
from icekeeper.adapters.iceberg.proof.rewrites import read_content, read_rewrite
from icekeeper.adapters.iceberg.proof.tags import add_tag, remove_tags
from icekeeper.adapters.iceberg.rewrite import rewrite
from icekeeper.adapters.iceberg.rows import counting, keys
from icekeeper.adapters.iceberg.tables import Tables, require_same_spec
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.audit.keys import ColumnType, KeyQuery, KeyRows
from icekeeper.core.audit.proof import FilesProof
from icekeeper.core.audit.records import Fingerprint, LakehouseCount
from icekeeper.core.calendar import Window
from icekeeper.core.policy import CompactPolicy, TablePolicy
from icekeeper.core.tables.content import Content
from icekeeper.core.tables.plan import Rewrite, Slice
from icekeeper.core.tables.planning import may_interest_planner
from icekeeper.core.tables.rewrites import Rewritten
from icekeeper.core.tables.state import ROW_GROUPS_PROPERTY, RUN_ID_PROPERTY, DeletedFiles, FileGroup, TableState
from icekeeper.night.lakehouse import BeforeCommit

T = TypeVar("T")
log = structlog.get_logger(__name__)

# How many tables are prefetched at once, and how long that may take: the others are read by their own tasks.
PREFETCH_THREADS = 12
PREFETCH_S = 10.0
# The planner holds every file in the heap: a larger table is not prefetched.
PREFETCH_MAX_FILES = 12_000


class IcebergLakehouse:
    """The port `Lakehouse`. Tables are named `namespace.table`, without the catalog's name."""

    def __init__(self, engine: SparkEngine, catalog: str) -> None:
        self._tables = Tables(catalog)
        self._calls = SessionCalls(engine, catalog, self._tables)
        self._footers = Footers(engine.options.state_dir)
        self._kept = KeptPaths(engine.options.state_dir)
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
                self._tables.fitting(jvm, self._footers, table, handle, policy.compact)
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

        await self._calls.run(work, METADATA_TIMEOUT, jobs=False)

    async def inspect(self, table: str, target_file_size: int) -> TableState:
        def work(jvm: IcebergJvm) -> TableState:
            return self._tables.state(jvm, table, self._tables.handle(jvm, table), target_file_size)

        return await self._calls.read(work, table)

    async def file_groups(self, table: str, policy: CompactPolicy) -> tuple[FileGroup, ...]:
        def plan(jvm: IcebergJvm) -> tuple[FileGroup, ...]:
            return self._tables.groups(jvm, table, self._tables.handle(jvm, table), policy)

        def compare(jvm: IcebergJvm) -> tuple[FileGroup, ...]:
            return self._tables.fitting(jvm, self._footers, table, self._tables.handle(jvm, table), policy)

        groups = await self._calls.read(plan, table)
        if not any(group.gains for group in groups):
            return groups
        # Of a backlog that was never seen many footers are to be read.
        return await self._calls.run(compare, policy.limits.timeout, table, jobs=False)

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
            require_same_spec(table, handle, part)
            selected = None
            if part.partitions:
                selected = self._tables.selected(jvm, table, handle, policy, part)
                if selected is None:
                    return False
            self._tables.require_fitting(jvm, self._footers, table, handle, policy, part)
            copied = Copied()
            properties = {RUN_ID_PROPERTY: str(run_id)}
            if part.how is Rewrite.COPY:
                copied = copy_row_groups(jvm, table, handle, options, selected, properties, self._kept)
                if not copied.refused:
                    return bool(copied.files)
                properties[ROW_GROUPS_PROPERTY] = copied.refused
            rewritten = rewrite(jvm, handle, part, policy.sort_by, options, selected, properties)
            return bool(rewritten or copied.files)

        return await self._calls.commit(work, timeout, table, before_commit)

    async def expire(
        self,
        table: str,
        snapshot_ids: tuple[int, ...],
        retain_last: int,
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> DeletedFiles:
        def work(jvm: IcebergJvm, handle: Any) -> DeletedFiles:
            named, until = files_named(self._tables.history(jvm, table, handle)), time.time() + timeout.total_seconds()
            expiry = partial(expire_snapshots, jvm, table, handle, snapshot_ids, retain_last, named)
            return expire_and_delete(jvm, table, handle, snapshot_ids, expiry, self._kept, until, self._calls.log)

        return await self._calls.commit(work, timeout, table, before_commit)

    def kept_files(self, table: str, table_id: str) -> int:
        return self._kept.count(table_id)

    async def delete_switch(self, table: str) -> str:
        return await self._calls.read(lambda jvm: switched_off(self._tables.handle(jvm, table)), table)

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
        at = snapshot_id if snapshot_id is not None else await self._calls.read(current, table, at_most=timeout)
        if at is None:
            return counting.count_of_nothing(self._tables, table, timestamp, window)

        def work(jvm: IcebergJvm) -> LakehouseCount:
            return counting.count_window(jvm, self._tables, table, timestamp, window, at, every_value=every_value)

        return await self._calls.read_rows(work, timedelta(seconds=max(0.0, deadline - loop.time())), table, at)

    async def prove_files(
        self, table: str, timestamp: str, window: Window, timeout: timedelta, at: int | None = None, whole: bool = True
    ) -> FilesProof:
        def work(jvm: IcebergJvm) -> FilesProof:
            return prove_files(jvm, self._tables, self._footers, table, timestamp, window, at, whole)

        return await self._calls.run(work, timeout, table, jobs=False)

    async def prove_replaced(self, table: str, snapshot_id: int, timeout: timedelta) -> FilesProof:
        def work(jvm: IcebergJvm) -> FilesProof:
            return prove_replaced(jvm, self._tables, self._footers, table, snapshot_id)

        return await self._calls.run(work, timeout, table, jobs=False)

    async def rewritten(self, table: str, snapshot_id: int, timeout: timedelta) -> Rewritten:
        def work(jvm: IcebergJvm) -> Rewritten:
            return read_rewrite(jvm, self._tables, table, snapshot_id)

        return await self._calls.read(work, table, at_most=timeout)

    async def content(
        self, table: str, snapshot_id: int, partitions: Sequence[str], by_column: bool, timeout: timedelta
    ) -> Content:
        def work(jvm: IcebergJvm) -> Content:
            return read_content(jvm, self._tables, table, snapshot_id, partitions, by_column=by_column)

        return await self._calls.read_rows(work, timeout, table, snapshot_id)

    async def tag(
        self,
        table: str,
        name: str,
        snapshot_id: int,
        until: datetime,
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> None:
        def work(jvm: IcebergJvm, handle: Any) -> None:
            add_tag(handle, name, snapshot_id, until)

        await self._calls.commit(work, timeout, table, before_commit)

    async def untag(
        self, table: str, prefix: str, timeout: timedelta, before_commit: BeforeCommit | None = None
    ) -> tuple[str, ...]:
        def work(jvm: IcebergJvm, handle: Any) -> tuple[str, ...]:
            return remove_tags(handle, prefix)

        return await self._calls.commit(work, timeout, table, before_commit)

    async def set_properties(
        self,
        table: str,
        properties: Mapping[str, str | None],
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> bool:
        def work(jvm: IcebergJvm, handle: Any) -> bool:
            return set_properties(handle, properties)

        return await self._calls.commit(work, timeout, table, before_commit)

    async def count_at(self, table: str, snapshot_id: int, timeout: timedelta) -> int:
        return await self._calls.run(
            lambda jvm: counting.count_all(jvm, self._tables, table, snapshot_id), timeout, table
        )

    async def count_by_minute(
        self,
        table: str,
        timestamp: str,
        window: Window,
        snapshot_id: int | None,
        timeout: timedelta,
        *,
        dates: bool = False,
    ) -> Mapping[datetime, int]:
        if snapshot_id is None:
            return {}

        def work(jvm: IcebergJvm) -> dict[datetime, int]:
            return counting.count_minutes(jvm, self._tables, table, timestamp, window, snapshot_id, dates=dates)

        return await self._calls.read_rows(work, timeout, table, snapshot_id)

    async def column_types(self, table: str, columns: Iterable[str]) -> Mapping[str, ColumnType]:
        def work(jvm: IcebergJvm) -> dict[str, ColumnType]:
            handle = self._tables.handle(jvm, table)
            words = {column: jvm.column_type(handle, column) for column in columns}
            return {column: keys.column_type(word) for column, word in words.items() if word is not None}

        return await self._calls.read(work, table)

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

        return await self._calls.read_rows(work, timeout, table, snapshot_id)

    async def key_rows(
        self, table: str, timestamp: str, window: Window, snapshot_id: int, query: KeyQuery, timeout: timedelta
    ) -> Mapping[bytes, KeyRows]:
        def work(jvm: IcebergJvm) -> dict[bytes, KeyRows]:
            columns = query.key.iceberg_columns
            with counting.rows_of(jvm, self._tables, table, timestamp, window, snapshot_id, columns) as rows:
                return keys.key_rows(jvm.spark, rows, timestamp, query)

        return await self._calls.read_rows(work, timeout, table, snapshot_id)
