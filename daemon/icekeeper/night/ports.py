"""What a run needs of the outside world, as Protocols: adapters implement them, unit tests fake them.

Every method raises the errors of `core.errors` only: TransientError where trying again may help, PermanentError where
it can't. Instants are aware UTC datetimes, durations of work are seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from icekeeper.core.audit.keys import ColumnType, Key, KeyQuery, KeyRows
from icekeeper.core.audit.proof import FilesProof
from icekeeper.core.audit.records import Fingerprint, LakehouseCount, OpenWindow, SourceCount
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import Window
from icekeeper.core.offload import OffloadState
from icekeeper.core.policy import CompactPolicy, TablePolicy
from icekeeper.core.tables.plan import Slice
from icekeeper.core.tables.restraints import Disk
from icekeeper.core.tables.state import DeletedFiles, FileGroup, TableState

# Time is injected: only `execution` and above read the wall clock or sleep.
Clock = Callable[[], datetime]
Sleep = Callable[[float], Awaitable[None]]
BeforeCommit = Callable[[], Awaitable[None]]


class Lakehouse(Protocol):
    """The Iceberg side. Calls are serialized by the implementation: it has one session."""

    async def prefetch(self, policies: Sequence[TablePolicy]) -> None:
        """Reads what `inspect` and `file_groups` will need of these tables, several at once.

        What can't be read is left out: the table's own task says why. Raises where there is no session.
        """

    async def inspect(self, table: str, target_file_size: int) -> TableState:
        """One load of the table's metadata; no Spark job. PermanentError `table_not_found` where there is no table."""

    async def file_groups(self, table: str, policy: CompactPolicy) -> tuple[FileGroup, ...]:
        """What Iceberg's own planner would rewrite at the current snapshot; no Spark job."""

    async def compact(
        self,
        table: str,
        policy: CompactPolicy,
        part: Slice,
        run_id: UUID,
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> bool:
        """Rewrites one slice; the snapshots made carry the run's id. DeadlineExceeded after `timeout`.

        `before_commit` is awaited in the instant before each commit to a Hadoop catalog: what it raises ends the call
        with nothing committed. False: nothing of the slice is left to rewrite, for another writer has done it.
        """

    async def expire(
        self,
        table: str,
        snapshot_ids: tuple[int, ...],
        retain_last: int,
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> DeletedFiles:
        """Expires exactly the named snapshots, or none and TransientError `conflict`; `before_commit` as in `compact`.

        `retain_last` is what branches with an age but no number of their own keep, as the plan assumed it.
        """

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
        """Rows of the window at a snapshot, by default the one that is current when the call begins.

        `every_value`: every column of every row is read and decoded for it. PermanentError `file_missing` or
        `file_corrupt` where a file can't be read.
        """

    async def prove_files(self, table: str, timestamp: str, window: Window, timeout: timedelta) -> FilesProof:
        """What is found of each file that a scan of the window plans at the snapshot that is current now.

        Raises where the store can't be asked: a file is only called bad where that is certain.
        """

    async def prove_replaced(self, table: str, snapshot_id: int, timeout: timedelta) -> FilesProof:
        """What is found of each data file that this snapshot removed. Raises like `prove_files`."""

    async def count_at(self, table: str, snapshot_id: int, timeout: timedelta) -> int:
        """All live rows of a snapshot, with its delete files applied."""

    async def count_by_minute(
        self, table: str, timestamp: str, window: Window, snapshot_id: int | None, timeout: timedelta
    ) -> Mapping[datetime, int]:
        """Rows of each minute of the window that has any."""

    async def column_types(self, table: str, columns: Sequence[str]) -> Mapping[str, ColumnType]:
        """The types of those of these columns that the table has; no Spark job."""

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
        """The fingerprints of the window's buckets that hold any row: by the last `bits` bits of their keys' hash."""

    async def key_rows(
        self, table: str, timestamp: str, window: Window, snapshot_id: int, query: KeyQuery, timeout: timedelta
    ) -> Mapping[bytes, KeyRows]:
        """The window's rows of each key, by its text."""


class EngineLog(Protocol):
    """The engine's own log. Both methods return at once."""

    def mark(self) -> int:
        """Where its log ends now."""

    def since(self, mark: int) -> str:
        """The last lines since then, secrets hidden; empty where there are none."""


class SourceCounter(Protocol):
    """The ClickHouse side."""

    async def count(
        self, source: Source, window: Window, final: bool | None, timeout: timedelta, key: Key | None = None
    ) -> SourceCount:
        """Rows of the window; `final` None lets each table's engine decide.

        With a key the same scan gives their fingerprint, unless one of the tables merges rows.
        """

    async def count_by_minute(
        self, source: Source, window: Window, final: bool, timeout: timedelta
    ) -> Mapping[datetime, int]:
        """Rows of each minute of the window that has any."""

    async def newest(self, source: Source, window: Window, timeout: timedelta) -> datetime | None:
        """The event time of the window's newest row; None where the window has none."""


class SourceKeys(Protocol):
    """The keys of ClickHouse's rows."""

    async def column_types(self, source: Source, columns: Sequence[str]) -> Mapping[str, ColumnType]:
        """The types of those of these columns that the source has."""

    async def fingerprints(
        self, source: Source, window: Window, final: bool, query: KeyQuery, bits: int, timeout: timedelta
    ) -> Mapping[int, Fingerprint]:
        """As of the lakehouse."""

    async def key_rows(
        self, source: Source, window: Window, final: bool, query: KeyQuery, timeout: timedelta
    ) -> Mapping[bytes, KeyRows]:
        """As of the lakehouse."""


class OffloadStatus(Protocol):
    """The offload's own account of its progress."""

    async def state(self, source: Source) -> OffloadState | None:
        """How far it has come with a source, and what it is at; None where it keeps no such row or table.

        Of several tables: the state of what it is at, with the watermark of the one that is least far.
        """


class Findings(Protocol):
    """What audits found that is still open."""

    async def open_windows(self, table: str) -> tuple[OpenWindow, ...]:
        """The table's windows whose last audit was no `ok`, and whose day is not acknowledged; oldest first."""


class Surroundings(Protocol):
    """The host of the run, and how its clock compares with the servers'."""

    async def clock_ahead(self) -> Mapping[str, timedelta]:
        """By how much this host's clock is ahead of each server's that answered, by the server's name."""

    async def disks(self) -> tuple[Disk, ...]:
        """The file systems on this host that the work needs."""


@dataclass(frozen=True, slots=True)
class RunPorts:
    """All that a run uses of the outside world, its time among it."""

    lakehouse: Lakehouse
    source: SourceCounter
    source_keys: SourceKeys
    offload: OffloadStatus
    findings: Findings
    surroundings: Surroundings
    clock: Clock
    sleep: Sleep
    engine_log: EngineLog | None = None
