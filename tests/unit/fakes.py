"""The world of a night in memory: a lakehouse, a source and an offload that answer by script, and a clock to set.

The tables of the lakehouse behave like Iceberg's as far as the night can see: rewrites and appends make snapshots, an
expiry drops the named ones and the references that are due. What goes wrong, and when, a test says with `Step`s.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from itertools import groupby
from typing import TypeVar
from uuid import UUID

from icekeeper.core.audit.certificates import CertifiedBy
from icekeeper.core.audit.evidence import evidence
from icekeeper.core.audit.keys import ColumnType, Key, KeyQuery, KeyRows
from icekeeper.core.audit.proof import FilesProof
from icekeeper.core.audit.records import (
    AuditResult,
    BadFile,
    Fingerprint,
    LakehouseCount,
    OpenWindow,
    SourceCount,
    SourceTtl,
)
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import Trigger
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.events import Event
from icekeeper.core.offload import OffloadState
from icekeeper.core.policy import CompactPolicy, RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.content import Content
from icekeeper.core.tables.holds import OperatorHold
from icekeeper.core.tables.plan import Slice
from icekeeper.core.tables.planning import small_file_limit
from icekeeper.core.tables.restraints import Disk
from icekeeper.core.tables.rewrites import ColumnChange, PartitionChange, Rewritten
from icekeeper.core.tables.state import (
    MAIN,
    RUN_ID_PROPERTY,
    DeletedFiles,
    FileGroup,
    Ref,
    SmallFiles,
    Snapshot,
    TableHealth,
    TableState,
)
from icekeeper.night.lakehouse import BeforeCommit
from icekeeper.night.ports import RunPorts
from icekeeper.night.stages.context import Clocks, TaskContext
from icekeeper.night.stages.offload import OffloadGuard
from tests.unit.builders import DAY, HOUR, MIB, SLOT, WINDOW_START
from tests.unit.keyed import KeyedRow, fingerprints, key_rows

RUN_ID = UUID("00000000-0000-4000-8000-00000000beef")

KIB = 1024


def transient(reason: Reason, message: str = "it went wrong") -> TransientError:
    return TransientError(message, reason=reason)


def permanent(reason: Reason, message: str = "it can't go right") -> PermanentError:
    return PermanentError(message, reason=reason)


# --- time


class ManualClock:
    """A clock that stands still until it is moved; sleeping moves it."""

    def __init__(self, now: datetime = SLOT) -> None:
        self.now = now
        self.slept: list[float] = []

    def __call__(self) -> datetime:
        return self.now

    def advance(self, by: timedelta) -> None:
        self.now += by

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(timedelta(seconds=seconds))
        await asyncio.sleep(0)


# --- scripts


@dataclass(frozen=True)
class Step:
    """What one call does besides its work: `first` runs before it, it `takes` time, then it may end in an `error`.

    `acts` False: the call has no effect. An error with `acts` True is a reply that was lost: the work is done.
    """

    error: Exception | None = None
    acts: bool = True
    takes: timedelta = timedelta(0)
    first: Callable[[], None] | None = None
    until: asyncio.Event | None = None


def fails(error: Exception, takes: timedelta = timedelta(0)) -> Step:
    return Step(error, acts=False, takes=takes)


def lands_but_fails(error: Exception, takes: timedelta = timedelta(0)) -> Step:
    return Step(error, takes=takes)


def does_nothing() -> Step:
    return Step(acts=False)


@dataclass(frozen=True)
class Call:
    """A call that was made: `timeout` is None where the port has none."""

    method: str
    table: str
    at: datetime
    timeout: timedelta | None


class Scripted:
    """Answers calls by a script per method and table; a call without a step left just works."""

    def __init__(self, clock: ManualClock, calls: list[Call]) -> None:
        self.clock = clock
        self.calls = calls
        self.down: IcekeeperError | None = None
        self.watchers: list[Callable[[Call], None]] = []
        self.entered = asyncio.Event()
        self._scripts: defaultdict[tuple[str, str], deque[Step]] = defaultdict(deque)

    def script(self, method: str, table: str, *steps: Step) -> None:
        self._scripts[method, table].extend(steps)

    @asynccontextmanager
    async def _call(self, method: str, table: str, timeout: timedelta | None = None) -> AsyncIterator[bool]:
        """Yields whether the call is to have its effect."""
        call = Call(method, table, self.clock(), timeout)
        self.calls.append(call)
        for watcher in self.watchers:
            watcher(call)
        if self.down is not None:
            raise self.down
        steps = self._scripts[method, table]
        step = steps.popleft() if steps else Step()
        if step.first is not None:
            step.first()
        if step.until is not None:
            self.entered.set()
            await step.until.wait()
        self.clock.advance(step.takes)
        if step.error is not None and not step.acts:
            raise step.error
        yield step.acts
        if step.error is not None:
            raise step.error


# --- the lakehouse


@dataclass(frozen=True)
class DataFile:
    partition: str
    size: int
    rows: int


@dataclass
class FakeTable:
    """A table: its files, its snapshots, its references. `hours` holds the rows that an audit counts."""

    files: list[DataFile] = field(default_factory=list)
    history: list[Snapshot] = field(default_factory=list)
    refs: dict[str, Ref] = field(default_factory=dict)
    hours: dict[datetime, int] = field(default_factory=dict)
    rows_at: dict[int, int] = field(default_factory=dict)
    files_at: dict[int, list[DataFile]] = field(default_factory=dict)
    gc_enabled: bool = True
    delete_files: int = 0
    # What a proof of its files finds.
    bad_files: tuple[BadFile, ...] = ()
    by_length: dict[str, int] = field(default_factory=dict)
    # What a rewrite does wrong: rows it does not write again; files that it leaves as many as they were.
    rewrite_loses: int = 0
    rewrite_merges: bool = True
    deleted_rows: int = 0
    # What the manifests of its rewrites say, and in which partitions they change which column.
    columns: tuple[ColumnChange, ...] = ()
    partitions: tuple[str, ...] = ("day=2026-02-17",)
    changed: dict[str, str] = field(default_factory=dict)
    with_deletes: int = 0
    unread: bool = False
    properties: dict[str, str] = field(default_factory=dict)
    _ids: int = 0

    @property
    def head(self) -> int | None:
        main = self.refs.get(MAIN)
        return main.snapshot_id if main else None

    def append(self, at: datetime, files: int = 1, partition: str = "day=2026-02-17", size: int = 50 * KIB) -> int:
        """What the offload does: one commit of small files."""
        added = [DataFile(partition, size, rows=100)] * files
        return self.commit(at, "append", added=added, removed=[])

    def delete_rows(self, at: datetime, rows: int) -> int:
        """A delete file: the next rewrite leaves its rows out, and that is right."""
        self.delete_files += 1
        self.deleted_rows += rows
        return self.commit(at, "delete", added=[], removed=[])

    def commit(
        self,
        at: datetime,
        operation: str,
        *,
        added: list[DataFile],
        removed: list[DataFile],
        properties: Mapping[str, str] | None = None,
    ) -> int:
        for file in removed:
            self.files.remove(file)
        self.files += added
        self._ids += 1
        numbers = {
            "added-data-files": len(added),
            "added-records": sum(file.rows for file in added),
            "deleted-data-files": len(removed),
            "deleted-records": sum(file.rows for file in removed),
        }
        summary = {key: str(number) for key, number in numbers.items() if number} | dict(properties or {})
        self.history.append(Snapshot(self._ids, self.head, at, operation, summary))
        self.refs[MAIN] = Ref(MAIN, "branch", self._ids)
        self.files_at[self._ids] = list(self.files)
        self.rows_at[self._ids] = sum(file.rows for file in self.files) - self.deleted_rows
        return self._ids

    def rewrite(self, policy: CompactPolicy, part: Slice, run_id: UUID, at: datetime) -> bool:
        """False where nothing of the slice is left to rewrite."""
        groups = self._groups(policy, part.partitions)
        if part.max_files is not None:
            groups = [groups[0][: part.max_files]] if groups else []
        if not groups:
            return False
        removed = [file for group in groups for file in group]
        added = list(removed)
        if self.rewrite_merges:
            lost = self.rewrite_loses + self.deleted_rows
            self.delete_files = self.deleted_rows = 0
            added = []
            for files in groups:
                rows = sum(file.rows for file in files) - lost
                added.append(DataFile(files[0].partition, sum(file.size for file in files), rows))
                lost = 0
        self.commit(at, "replace", added=added, removed=removed, properties={RUN_ID_PROPERTY: str(run_id)})
        return True

    def groups(self, policy: CompactPolicy) -> tuple[FileGroup, ...]:
        return tuple(
            FileGroup(files[0].partition, len(files), sum(file.size for file in files), output_files=1)
            for files in self._groups(policy, ())
        )

    def _groups(self, policy: CompactPolicy, partitions: tuple[str, ...]) -> list[list[DataFile]]:
        limit = small_file_limit(policy.target_file_size)
        small = sorted((file for file in self.files if file.size < limit), key=lambda file: file.partition)
        by_partition = [list(files) for _, files in groupby(small, key=lambda file: file.partition)]
        return [
            files
            for files in by_partition
            if len(files) >= policy.min_input_files and (not partitions or files[0].partition in partitions)
        ]

    def expire(self, ids: tuple[int, ...], now: datetime) -> int:
        """Drops the named snapshots and, as Iceberg does with any expiry, the references whose own age has passed."""
        commits = {snapshot.id: snapshot.committed_at for snapshot in self.history}
        for ref in list(self.refs.values()):
            if ref.name != MAIN and ref.max_ref_age is not None and now - commits[ref.snapshot_id] > ref.max_ref_age:
                del self.refs[ref.name]
        self.history = [snapshot for snapshot in self.history if snapshot.id not in ids]
        return 10 * len(ids)

    def health(self, target_file_size: int) -> TableHealth:
        return TableHealth(
            data_files=len(self.files),
            small_files=sum(file.size < small_file_limit(target_file_size) for file in self.files),
            bytes=sum(file.size for file in self.files),
            records=sum(file.rows for file in self.files),
            delete_files=self.delete_files,
            manifests=len(self.history),
            snapshots=len(self.history),
            snapshot_id=self.head,
        )

    def small_files(self, target_file_size: int) -> tuple[SmallFiles, ...]:
        sizes: defaultdict[str, list[int]] = defaultdict(list)
        for file in self.files:
            if file.size < small_file_limit(target_file_size):
                sizes[file.partition].append(file.size)
        return tuple(SmallFiles(len(some), sum(some)) for some in sizes.values())


class FakeLakehouse(Scripted):
    """The port `Lakehouse` over tables in memory."""

    def __init__(self, clock: ManualClock, calls: list[Call]) -> None:
        super().__init__(clock, calls)
        self.tables: dict[str, FakeTable] = {}
        self.counted_at: list[int | None] = []
        self.column_kinds: dict[str, ColumnType] = {}
        self.keyed: dict[str, list[KeyedRow]] = {}
        self.compared: list[tuple[str, tuple[str, ...]]] = []
        self.ahead: list[tuple[str, ...]] = []
        self.kept: dict[str, int] = {}
        self.keeps_paths = False
        self.switches: dict[str, str] = {}
        self.ahead_error: IcekeeperError | None = None

    async def prefetch(self, policies: Sequence[TablePolicy]) -> None:
        self.ahead.append(tuple(policy.name for policy in policies))
        if self.ahead_error is not None:
            raise self.ahead_error

    async def inspect(self, table: str, target_file_size: int) -> TableState:
        async with self._call("inspect", table):
            found = self._table(table)
            health = found.health(target_file_size)
            return TableState(
                table=table,
                health=health,
                small_files=found.small_files(target_file_size),
                history=tuple(found.history),
                refs=tuple(found.refs.values()),
                gc_enabled=found.gc_enabled,
            )

    async def file_groups(self, table: str, policy: CompactPolicy) -> tuple[FileGroup, ...]:
        async with self._call("file_groups", table):
            return self._table(table).groups(policy)

    async def compact(
        self,
        table: str,
        policy: CompactPolicy,
        part: Slice,
        run_id: UUID,
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> bool:
        async with self._call("compact", table, timeout) as acts:
            if before_commit is not None:
                await before_commit()
            return self._table(table).rewrite(policy, part, run_id, self.clock()) if acts else True

    async def expire(
        self,
        table: str,
        snapshot_ids: tuple[int, ...],
        retain_last: int,
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> DeletedFiles:
        async with self._call("expire", table, timeout) as acts:
            if before_commit is not None:
                await before_commit()
            files = self._table(table).expire(snapshot_ids, self.clock()) if acts else 0
            if self.keeps_paths:
                self.kept[table] = self.kept.get(table, 0) + files
                files = 0
        return DeletedFiles(files + self.kept.pop(table, 0))

    def kept_files(self, table: str, table_id: str) -> int:
        return self.kept.get(table, 0)

    async def delete_switch(self, table: str) -> str:
        return self.switches.get(table, "")

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
        async with self._call("count", table, timeout):
            found = self._table(table)
            pinned = snapshot_id or found.head
            rows = sum(_within(found.hours, window).values())
            counted = "count(*), every value" if every_value else "count(*)"
            return LakehouseCount(rows, f"SELECT {counted} FROM {table} VERSION AS OF {pinned}", pinned)

    async def prove_files(
        self, table: str, timestamp: str, window: Window, timeout: timedelta, at: int | None = None, whole: bool = True
    ) -> FilesProof:
        async with self._call("prove_files", table, timeout):
            found = self._table(table)
            at = found.head if at is None else at
            day = f"day={window.start:%Y-%m-%d}"
            of_day = [file for file in found.files_at.get(at or 0, ()) if file.partition == day]
            return FilesProof(at, len(found.files), 0, found.by_length, found.bad_files, str(of_day))

    async def prove_replaced(self, table: str, snapshot_id: int, timeout: timedelta) -> FilesProof:
        async with self._call("prove_replaced", table, timeout):
            return FilesProof(snapshot_id, bad=self._table(table).bad_files)

    async def rewritten(self, table: str, snapshot_id: int, timeout: timedelta) -> Rewritten:
        async with self._call("rewritten", table, timeout):
            found = self._table(table)
            snapshot = next(one for one in found.history if one.id == snapshot_id)
            went, came = (snapshot.count(f"{which}-records") for which in ("deleted", "added"))
            sizes = (snapshot.count("deleted-data-files"), 1000, snapshot.count("added-data-files"), 1000)
            parts = tuple(PartitionChange(name, *sizes) for name in found.partitions)
            changed = Rewritten(snapshot_id, snapshot.parent_id, went, came, sizes[0], sizes[2], partitions=parts)
            if found.unread:
                return replace(changed, files_went=0, files_came=0)
            return replace(changed, columns=found.columns, with_deletes=found.with_deletes)

    async def content(
        self, table: str, snapshot_id: int, partitions: Sequence[str], by_column: bool, timeout: timedelta
    ) -> Content:
        async with self._call("content", table, timeout):
            self.compared.append((table, tuple(partitions)))
            found = self._table(table)
            wrong = frozenset(partitions or found.partitions) & found.changed.keys()
            columns = {found.changed[part]: Fingerprint(9, (1, 1)) for part in wrong} if by_column else {}
            after = Fingerprint(9, (1, 1)) if wrong else Fingerprint(9)
            return Content(Fingerprint(9), after, {name: Fingerprint(9) for name in columns}, columns)

    async def tag(
        self,
        table: str,
        name: str,
        snapshot_id: int,
        until: datetime,
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> None:
        async with self._call("tag", table, timeout):
            found = self._table(table)
            commits = {snapshot.id: snapshot.committed_at for snapshot in found.history}
            found.refs.setdefault(name, Ref(name, "tag", snapshot_id, max_ref_age=until - commits[snapshot_id]))

    async def untag(
        self, table: str, prefix: str, timeout: timedelta, before_commit: BeforeCommit | None = None
    ) -> tuple[str, ...]:
        async with self._call("untag", table, timeout):
            found = self._table(table)
            names = tuple(name for name in found.refs if name.startswith(prefix))
            for name in names:
                del found.refs[name]
            return names

    async def set_properties(
        self,
        table: str,
        properties: Mapping[str, str | None],
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> bool:
        async with self._call("set_properties", table, timeout):
            found = self._table(table)
            before = dict(found.properties)
            found.properties.update({name: value for name, value in properties.items() if value is not None})
            for name in [name for name, value in properties.items() if value is None]:
                found.properties.pop(name, None)
            return found.properties != before

    async def count_at(self, table: str, snapshot_id: int, timeout: timedelta) -> int:
        async with self._call("count_at", table, timeout):
            return self._table(table).rows_at[snapshot_id]

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
        async with self._call("count_by_minute", table, timeout):
            self.counted_at.append(snapshot_id)
            return _within(self._table(table).hours, window)

    async def column_types(self, table: str, columns: Sequence[str]) -> Mapping[str, ColumnType]:
        async with self._call("column_types", table):
            return {name: self.column_kinds[name] for name in columns if name in self.column_kinds}

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
        async with self._call("fingerprints", table, timeout):
            return fingerprints(self.keyed[table], query, bits)

    async def key_rows(
        self, table: str, timestamp: str, window: Window, snapshot_id: int, query: KeyQuery, timeout: timedelta
    ) -> Mapping[bytes, KeyRows]:
        async with self._call("key_rows", table, timeout):
            return key_rows(self.keyed[table], query, window)

    def _table(self, table: str) -> FakeTable:
        if table not in self.tables:
            raise PermanentError("no such table", reason=Reason.TABLE_NOT_FOUND, where=table)
        return self.tables[table]


# --- the source and its offload


class FakeSource(Scripted):
    """The port `SourceCounter` over rows by hour. `merging` tables are counted with FINAL if it is left to them."""

    def __init__(self, clock: ManualClock, calls: list[Call]) -> None:
        super().__init__(clock, calls)
        self.hours: dict[str, dict[datetime, int]] = {}
        self.merging: set[str] = set()
        self.finals: list[bool] = []
        self.ttls: dict[str, SourceTtl | None] = {}
        self.newest_in_hour = timedelta(minutes=59)
        self.column_kinds: dict[str, ColumnType] = {}
        self.keyed: dict[str, list[KeyedRow]] = {}

    async def count(
        self, source: Source, window: Window, final: bool | None, timeout: timedelta, key: Key | None = None
    ) -> SourceCount:
        table = str(source)
        async with self._call("source.count", table, timeout):
            rows = sum(_within(self.hours[table], window).values())
            with_final = table in self.merging if final is None else final
            found = None
            if key is not None and table not in self.merging:
                found = fingerprints(self.keyed[table], KeyQuery(key), 0).get(0, Fingerprint())
            merges = table in self.merging
            return SourceCount(rows, f"SELECT count() FROM {table}", with_final, self.ttls.get(table), found, merges)

    async def column_types(self, source: Source, columns: Sequence[str]) -> Mapping[str, ColumnType]:
        async with self._call("source.column_types", str(source)):
            return {name: self.column_kinds[name] for name in columns if name in self.column_kinds}

    async def fingerprints(
        self, source: Source, window: Window, final: bool, query: KeyQuery, bits: int, timeout: timedelta
    ) -> Mapping[int, Fingerprint]:
        async with self._call("source.fingerprints", str(source), timeout):
            return fingerprints(self.keyed[str(source)], query, bits)

    async def key_rows(
        self, source: Source, window: Window, final: bool, query: KeyQuery, timeout: timedelta
    ) -> Mapping[bytes, KeyRows]:
        async with self._call("source.key_rows", str(source), timeout):
            return key_rows(self.keyed[str(source)], query, window)

    async def count_by_minute(
        self, source: Source, window: Window, final: bool, timeout: timedelta, *, dates: bool = False
    ) -> Mapping[datetime, int]:
        async with self._call("source.count_by_minute", str(source), timeout):
            self.finals.append(final)
            return _within(self.hours[str(source)], window)

    async def newest(self, source: Source, window: Window, timeout: timedelta) -> datetime | None:
        async with self._call("source.newest", str(source), timeout):
            hours = [hour for hour, rows in _within(self.hours[str(source)], window).items() if rows]
            return max(hours) + self.newest_in_hour if hours else None


def _within(hours: Mapping[datetime, int], window: Window) -> dict[datetime, int]:
    return {hour: rows for hour, rows in hours.items() if window.start <= hour < window.end}


class FakeOffload(Scripted):
    """The port `OffloadStatus`; `cycles` are states that change with time.

    A source without any is one that the offload does not know.
    """

    def __init__(self, clock: ManualClock, calls: list[Call]) -> None:
        super().__init__(clock, calls)
        self.states: dict[str, OffloadState] = {}
        self.cycles: dict[str, Callable[[datetime], OffloadState]] = {}

    async def state(self, source: Source) -> OffloadState | None:
        name = str(source)
        async with self._call("state", name):
            cycle = self.cycles.get(name)
            return self.states.get(name) if cycle is None else cycle(self.clock())


# --- findings and surroundings


class FakeHolds(Scripted):
    """The port `Holds`; a table without any has none."""

    def __init__(self, clock: ManualClock, calls: list[Call]) -> None:
        super().__init__(clock, calls)
        self.held: dict[str, tuple[OperatorHold, ...]] = {}

    async def of(self, table: str, *, anew: bool = False) -> tuple[OperatorHold, ...]:
        async with self._call("holds_of", table):
            return self.held.get(table, ())


class FakeFindings(Scripted):
    """The port `Findings`; a table without any has none."""

    def __init__(self, clock: ManualClock, calls: list[Call]) -> None:
        super().__init__(clock, calls)
        self.found: dict[str, tuple[OpenWindow, ...]] = {}
        self.audited: dict[tuple[str, Window], AuditResult | None] = {}
        self.certified: dict[str, dict[date, CertifiedBy]] = {}

    async def open_windows(self, table: str) -> tuple[OpenWindow, ...]:
        async with self._call("open_windows", table):
            return self.found.get(table, ())

    async def last_audits(self, table: str, days: Window, but_of: datetime) -> Mapping[Window, AuditResult | None]:
        async with self._call("last_audits", table):
            return {
                day: audit
                for (name, day), audit in self.audited.items()
                if name == table and days.start <= day.start < days.end and (audit is None or audit.slot != but_of)
            }

    async def certified_days(
        self, table: str, first: date, last: date, audits: Sequence[AuditResult]
    ) -> Mapping[date, CertifiedBy]:
        async with self._call("certified_days", table):
            certified = dict(self.certified.get(table, {}))
            for one in (one for audit in audits for one in evidence(audit)):
                certified.pop(one.day, None)
                if one.certifies is not None:
                    certified[one.day] = one.certifies
            return {day: by for day, by in certified.items() if first <= day <= last}


class FakeSurroundings:
    """The port `Surroundings`: servers whose clocks agree with ours, and a disk with room."""

    def __init__(self) -> None:
        self.ahead: dict[str, timedelta] = {"PostgreSQL": timedelta(0), "ClickHouse": timedelta(0)}
        self.free = 10 * 1024**3
        self.disk_error: IcekeeperError | None = None
        self.asked = 0

    async def clock_ahead(self) -> Mapping[str, timedelta]:
        self.asked += 1
        return self.ahead

    async def disks(self) -> tuple[Disk, ...]:
        if self.disk_error is not None:
            raise self.disk_error
        return (Disk("/state", self.free),)


# --- all of it together

_E = TypeVar("_E")


class World:
    """Everything a night needs, with the events it emits."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.calls: list[Call] = []
        self.events: list[Event] = []
        self.lakehouse = FakeLakehouse(self.clock, self.calls)
        self.source = FakeSource(self.clock, self.calls)
        self.offload = FakeOffload(self.clock, self.calls)
        self.findings = FakeFindings(self.clock, self.calls)
        self.holds = FakeHolds(self.clock, [])  # its calls change nothing, and stand in no order
        self.surroundings = FakeSurroundings()
        self.ports = RunPorts(
            lakehouse=self.lakehouse,
            source=self.source,
            source_keys=self.source,
            offload=self.offload,
            findings=self.findings,
            holds=self.holds,
            surroundings=self.surroundings,
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    def add(self, policy: TablePolicy, *, rows_per_hour: int = 100) -> FakeTable:
        """A table as a night finds it: a day's small files, snapshots of ten days, and both sides alike."""
        table = FakeTable()
        for days in range(10, 0, -1):
            table.append(self.clock() - days * DAY - HOUR, files=1, partition="day=2026-02-01", size=120 * MIB)
        table.append(self.clock() - HOUR, files=20)
        table.hours = {WINDOW_START + hour * HOUR: rows_per_hour for hour in range(24)}
        self.lakehouse.tables[policy.name] = table
        if policy.source is not None:
            self.source.hours[str(policy.source)] = dict(table.hours)
            self.offload.states[str(policy.source)] = OffloadState(SLOT - timedelta(minutes=10), "success")
        return table

    def context(
        self,
        *,
        budget: timedelta | None = None,
        retries_off: bool = False,
        window: Window | None = None,
        run_policy: RunPolicy | None = None,
    ) -> TaskContext:
        return TaskContext(
            run_id=RUN_ID,
            slot=SLOT,
            window=window or window_of(SLOT),
            trigger=Trigger.SCHEDULE,
            ports=self.ports,
            emit=self.events.append,
            clocks=Clocks(self.surroundings),
            offload=OffloadGuard(self.ports, (run_policy or RunPolicy()).offload),
            run_policy=run_policy or RunPolicy(),
            until=None if budget is None else self.clock() + budget,
            retries_off=retries_off,
        )

    def emitted(self, kind: type[_E]) -> list[_E]:
        return [event for event in self.events if isinstance(event, kind)]

    def called(self, method: str, table: str | None = None) -> list[Call]:
        return [call for call in self.calls if call.method == method and table in (None, call.table)]

    def methods(self, *among: str) -> list[str]:
        """The methods called, in order; only those named, if any are."""
        return [call.method for call in self.calls if not among or call.method in among]
