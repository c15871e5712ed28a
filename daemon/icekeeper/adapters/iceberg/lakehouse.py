"""The lakehouse on top of the session: inspect, compact, expire and count, by Iceberg's own Java API through py4j.

What is worth doing is decided in the core; how a session is kept alive is `spark.py`'s business.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import structlog
from pyspark.sql import SparkSession

from icekeeper.adapters.iceberg.expiry import expire_snapshots
from icekeeper.adapters.iceberg.jvm import IcebergJvm, Partition
from icekeeper.adapters.iceberg.metadata import files_named, parse_history, parse_metadata
from icekeeper.adapters.iceberg.names import quoted
from icekeeper.adapters.iceberg.rewrite import rewriting
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.stacks import CallTimedOut
from icekeeper.core.audit.records import LakehouseCount
from icekeeper.core.calendar import Window
from icekeeper.core.errors import TransientError
from icekeeper.core.policy import CompactPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Slice
from icekeeper.core.tables.planning import may_interest_planner
from icekeeper.core.tables.state import RUN_ID_PROPERTY, DeletedFiles, FileGroup, Snapshot, TableState

T = TypeVar("T")
log = structlog.get_logger(__name__)

# Metadata is read in milliseconds; a store that needs minutes for it is down.
METADATA_TIMEOUT = timedelta(minutes=2)
# So long a loaded table is used again, between stages and steps: later, what the catalog lent it may have expired.
LOADED_S = 60.0
# So many tables are looked at ahead at once; what takes longer than this is left to its turn, which has a deadline.
LOOKERS = 12
LOOK_AHEAD_S = 10.0
# The planner holds every file in the heap: a larger table is looked at alone, at its turn.
LOOK_AHEAD_MAX_FILES = 12_000


@dataclass(frozen=True, slots=True)
class _Files:
    """What a scan of a snapshot's manifests told; a snapshot never changes, so it is read once."""

    snapshot_id: int
    partitions: tuple[tuple[int, ...], ...]
    manifests: int


@dataclass(frozen=True, slots=True)
class _Loaded:
    """A table as it was loaded: its Java object, and the session in whose JVM that lives."""

    spark: SparkSession
    handle: Any
    at: float


@dataclass(frozen=True, slots=True)
class _Read:
    """What a version of a table's metadata says; it never changes, so it is read once."""

    version: str
    target_file_size: int
    state: TableState


@dataclass(frozen=True, slots=True)
class _Planned:
    """What the planner would rewrite of a version of a table; the partitions live in the JVM of a session."""

    version: str
    policy: CompactPolicy
    groups: tuple[FileGroup, ...]
    spark: SparkSession
    partitions: Mapping[str, Partition]


_DEFAULTS = {
    # Spark's cache of tables expires after access: a session that looks every night would stay stale for ever.
    "cache-enabled": "false",
    # As many threads as cores would send bulk deletes; they wait for the store, and cores have no part in it.
    "s3.delete.num-threads": "8",
    # A compaction reads a table's manifests four times (inspect, plan, rewrite, commit), and they never change.
    "io.manifest.cache-enabled": "true",
}


def catalog_conf(name: str, properties: Mapping[str, str]) -> dict[str, str]:
    """The Spark settings that make an Iceberg catalog known under a name."""
    prefix = f"spark.sql.catalog.{name}"
    settings = {f"{prefix}.{key}": value for key, value in {**_DEFAULTS, **properties}.items()}
    return {prefix: "org.apache.iceberg.spark.SparkCatalog", **settings}


class IcebergLakehouse:
    """The port `Lakehouse`. Tables are named `namespace.table`; the catalog's name is put before them here."""

    def __init__(self, engine: SparkEngine, catalog: str) -> None:
        self._engine = engine
        self._catalog = catalog
        self._jvm: IcebergJvm | None = None
        self._loaded: dict[str, _Loaded] = {}
        self._states: dict[str, _Read] = {}
        self._files: dict[str, _Files] = {}
        self._planned: dict[str, _Planned] = {}
        # Not made anew for each look: PySpark gives every thread a connection, and keeps that.
        self._lookers = ThreadPoolExecutor(LOOKERS, thread_name_prefix="look")
        self._late: list[Future[None]] = []

    async def prefetch(self, policies: Sequence[TablePolicy]) -> None:
        def look(jvm: IcebergJvm, policy: TablePolicy) -> None:
            # A handle of its own, shown when all is read: the table's turn may come before that.
            table, at = policy.name, time.monotonic()
            handle = jvm.load(self._name(table))
            files = jvm.total_data_files(handle)
            if files is None or files > LOOK_AHEAD_MAX_FILES:
                return
            if may_interest_planner(
                self._inspected(jvm, table, handle, policy.compact.target_file_size), policy.compact
            ):
                self._groups(jvm, table, handle, policy.compact)
            self._loaded[table] = _Loaded(jvm.spark, handle, at)

        def work(jvm: IcebergJvm) -> None:
            self._late = [one for one in self._late if not one.done()]
            if self._late:  # whatever they wait for, more of them would wait, too
                return
            looks = [self._lookers.submit(look, jvm, policy) for policy in policies]
            done, late = wait(looks, LOOK_AHEAD_S)
            self._late = [one for one in late if not one.cancel()]
            failed = [str(error) for one in done if (error := one.exception()) is not None]
            (log.warning if late else log.debug)("looked_ahead", tables=len(looks), late=len(late), failed=failed)

        await self._run(work, METADATA_TIMEOUT, jobs=False)

    async def inspect(self, table: str, target_file_size: int) -> TableState:
        def work(jvm: IcebergJvm) -> TableState:
            return self._inspected(jvm, table, self._handle(jvm, table), target_file_size)

        return await self._read(work, table)

    def _inspected(self, jvm: IcebergJvm, table: str, handle: Any, target_file_size: int) -> TableState:
        version, read = jvm.version(handle), self._states.get(table)
        if read is None or (read.version, read.target_file_size) != (version, target_file_size):
            read = _Read(version, target_file_size, self._state(jvm, table, handle, target_file_size))
            self._states[table] = read
        return read.state

    def _handle(self, jvm: IcebergJvm, table: str) -> Any:
        """The table as the catalog has it now. One that was loaded just before only asks whether it has changed."""
        now = time.monotonic()
        self._loaded = {name: kept for name, kept in list(self._loaded.items()) if now - kept.at < LOADED_S}
        loaded = self._loaded.pop(table, None)
        if loaded is None or loaded.spark is not jvm.spark or not jvm.refresh(loaded.handle):
            loaded = _Loaded(jvm.spark, jvm.load(self._name(table)), now)
        self._loaded[table] = loaded
        return loaded.handle

    def _state(self, jvm: IcebergJvm, table: str, handle: Any, target_file_size: int) -> TableState:
        files, current = self._files.get(table), handle.currentSnapshot()
        if current is None:
            files = _Files(-1, (), 0)
        elif files is None or files.snapshot_id != current.snapshotId():
            partitions, manifests = jvm.file_sizes(handle, current)
            files = self._files[table] = _Files(current.snapshotId(), partitions, manifests)
        return parse_metadata(table, jvm.metadata_json(handle), files.partitions, files.manifests, target_file_size)

    def _history(self, jvm: IcebergJvm, table: str, handle: Any) -> tuple[Snapshot, ...]:
        read = self._states.get(table)
        seen = read is not None and read.version == jvm.version(handle)
        return read.state.history if read is not None and seen else parse_history(jvm.metadata_json(handle))

    async def file_groups(self, table: str, policy: CompactPolicy) -> tuple[FileGroup, ...]:
        def work(jvm: IcebergJvm) -> tuple[FileGroup, ...]:
            return self._groups(jvm, table, self._handle(jvm, table), policy)

        return await self._read(work, table)

    def _groups(self, jvm: IcebergJvm, table: str, handle: Any, policy: CompactPolicy) -> tuple[FileGroup, ...]:
        planned = self._planned.get(table)
        if planned is None or (planned.version, planned.policy) != (jvm.version(handle), policy):
            planned = self._plan(jvm, table, handle, policy)
        return planned.groups

    def _plan(self, jvm: IcebergJvm, table: str, handle: Any, policy: CompactPolicy) -> _Planned:
        """Asks the planner, and keeps its answer: to ask again for every slice would read all manifests."""
        found = jvm.plan_groups(handle, planner_options(policy))
        groups, partitions = tuple(group for group, _ in found), {group.partition: place for group, place in found}
        planned = self._planned[table] = _Planned(jvm.version(handle), policy, groups, jvm.spark, partitions)
        return planned

    def _selected(self, jvm: IcebergJvm, table: str, handle: Any, policy: CompactPolicy, part: Slice) -> Any | None:
        """The filter of a slice's partitions, None where none of them has anything left to rewrite."""
        planned = self._planned.get(table)
        # Objects of a session that is gone are gone, too.
        if planned is None or planned.spark is not jvm.spark or not planned.partitions.keys() >= set(part.partitions):
            planned = self._plan(jvm, table, handle, policy)
        there = planned.partitions
        chosen = [jvm.partition_filter(handle, there[name]) for name in part.partitions if name in there]
        return jvm.any_of(chosen) if chosen else None

    async def compact(self, table: str, policy: CompactPolicy, part: Slice, run_id: UUID, timeout: timedelta) -> bool:
        def work(jvm: IcebergJvm) -> bool:
            handle = self._handle(jvm, table)
            options = planner_options(policy)
            if part.max_files is not None:
                options["max-files-to-rewrite"] = str(part.max_files)
            selected = None
            if part.partitions:
                selected = self._selected(jvm, table, handle, policy, part)
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

        return await self._run(work, timeout, table)

    async def expire(
        self, table: str, snapshot_ids: tuple[int, ...], retain_last: int, timeout: timedelta
    ) -> DeletedFiles:
        def work(jvm: IcebergJvm) -> DeletedFiles:
            handle = self._handle(jvm, table)
            named = files_named(self._history(jvm, table, handle))
            return expire_snapshots(jvm, table, handle, snapshot_ids, retain_last, named)

        return await self._run(work, timeout, table)

    async def count(
        self, table: str, timestamp: str, window: Window, timeout: timedelta, snapshot_id: int | None = None
    ) -> LakehouseCount:
        def current(jvm: IcebergJvm) -> int | None:
            return jvm.current_id(self._handle(jvm, table))

        def counted(jvm: IcebergJvm) -> LakehouseCount:
            bound = self._bound(jvm, table, at, timestamp)
            query = f"SELECT count(*) FROM {self._name(table)}{bound} WHERE {_within(timestamp, window)}"
            rows = int(jvm.spark.sql(query).collect()[0][0])
            self._check_still(jvm, table, at, bound)
            return LakehouseCount(rows, query, at)

        loop = asyncio.get_running_loop()
        give_up = loop.time() + timeout.total_seconds()
        at = snapshot_id if snapshot_id is not None else await self._read(current, table, at_most=timeout)
        if at is None:  # a table that was never written to; Spark has nothing to ask
            query = f"SELECT count(*) FROM {self._name(table)} WHERE {_within(timestamp, window)}"
            return LakehouseCount(0, query, None)
        return await self._run(counted, timedelta(seconds=max(0.0, give_up - loop.time())), table)

    async def count_at(self, table: str, snapshot_id: int, timeout: timedelta) -> int:
        def work(jvm: IcebergJvm) -> int:
            return int(jvm.spark.sql(f"SELECT count(*) FROM {self._name(table)}{_at(snapshot_id)}").collect()[0][0])

        return await self._run(work, timeout, table)

    async def count_by_hour(
        self, table: str, timestamp: str, window: Window, snapshot_id: int | None, timeout: timedelta
    ) -> Mapping[datetime, int]:
        def work(jvm: IcebergJvm) -> dict[datetime, int]:
            if snapshot_id is None:
                return {}
            # Seconds, not timestamps: PySpark would turn those into naive datetimes of this host's zone.
            hour = f"unix_seconds(date_trunc('HOUR', CAST({quoted(timestamp)} AS TIMESTAMP)))"
            bound = self._bound(jvm, table, snapshot_id, timestamp)
            rows = jvm.spark.sql(
                f"SELECT {hour} AS hour, count(*) FROM {self._name(table)}{bound} "
                f"WHERE {_within(timestamp, window)} GROUP BY 1"
            ).collect()
            self._check_still(jvm, table, snapshot_id, bound)
            return {datetime.fromtimestamp(row[0], UTC): int(row[1]) for row in rows}

        return await self._run(work, timeout, table)

    def _bound(self, jvm: IcebergJvm, table: str, at: int | None, column: str) -> str:
        """What binds a query to a snapshot; nothing for the current one, where it knows the column by another name.

        Spark reads a snapshot by its schema of then, and Iceberg binds the filter by today's: once a column is
        renamed, and until something is committed, the column can be named neither way.
        """
        handle = self._handle(jvm, table)
        return "" if at == jvm.current_id(handle) and not jvm.knows_column(handle, at, column) else _at(at)

    def _check_still(self, jvm: IcebergJvm, table: str, at: int | None, bound: str) -> None:
        """TransientError where a query that was bound to no snapshot may have seen a younger one."""
        if not bound and jvm.current_id(self._handle(jvm, table)) != at:
            raise TransientError("it was written to while it was counted", reason=Reason.CONFLICT, where=table)

    # --- the session

    async def _read(self, work: Callable[[IcebergJvm], T], table: str, at_most: timedelta = timedelta.max) -> T:
        """Work on metadata alone. A part that lets it wait is down: TransientError with its reason, if that shows."""
        try:
            return await self._run(work, min(METADATA_TIMEOUT, at_most), table, jobs=False)
        except CallTimedOut as exc:
            if exc.blocked_on is None:
                raise
            text = f"reading its metadata was {exc.args[0]}"
            raise TransientError(text, reason=exc.blocked_on, where=table) from exc

    async def _run(
        self, work: Callable[[IcebergJvm], T], timeout: timedelta, where: str | None = None, *, jobs: bool = True
    ) -> T:
        def opened(spark: SparkSession) -> T:
            # Once for each session: py4j asks the JVM for every part of every class's name.
            if self._jvm is None or self._jvm.spark is not spark:
                jvm = IcebergJvm(spark)
                jvm.open_catalog(self._catalog)
                self._jvm = jvm
            return work(self._jvm)

        return await self._engine.run(opened, timeout=timeout, where=where, jobs=jobs)

    def _name(self, table: str) -> str:
        # With its catalog: without it Spark first takes the namespace for a catalog.
        return ".".join(quoted(part) for part in (self._catalog, *table.split(".")))


def planner_options(policy: CompactPolicy) -> dict[str, str]:
    """Options of Iceberg's rewrite_data_files; planner and action get the same, so that both see the same work."""
    return {
        "target-file-size-bytes": str(policy.target_file_size),
        "min-input-files": str(policy.min_input_files),
    }


def _at(snapshot_id: int | None) -> str:
    return "" if snapshot_id is None else f" VERSION AS OF {snapshot_id}"


def _within(column: str, window: Window) -> str:
    """A half-open range by literals: on whole days it lines up with days(ts), and metadata alone answers a count."""
    low, high = (f"TIMESTAMP '{instant:%Y-%m-%d %H:%M:%S}+00:00'" for instant in (window.start, window.end))
    return f"{quoted(column)} >= {low} AND {quoted(column)} < {high}"
