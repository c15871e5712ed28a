"""What the night needs of the lakehouse, as a Protocol. The rest of the world: ports.py."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

from icekeeper.core.audit.keys import ColumnType, KeyQuery, KeyRows
from icekeeper.core.audit.proof import FilesProof
from icekeeper.core.audit.records import Fingerprint, LakehouseCount
from icekeeper.core.calendar import Window
from icekeeper.core.policy import CompactPolicy, TablePolicy
from icekeeper.core.tables.content import Content
from icekeeper.core.tables.plan import Slice
from icekeeper.core.tables.rewrites import Rewritten
from icekeeper.core.tables.state import DeletedFiles, FileGroup, TableState

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

        `retain_last` is what branches with an age but no number of their own keep, as the plan assumed it. With the
        files that it frees it deletes those of `kept_files`; without snapshots only them.
        """

    def kept_files(self, table: str, table_id: str) -> int:
        """How many files of earlier expiries could not be deleted, and wait for another try."""

    async def delete_switch(self, table: str) -> str:
        """The property by which the table's store neither deletes nor tags files; empty where it does either."""

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

    async def prove_files(
        self, table: str, timestamp: str, window: Window, timeout: timedelta, at: int | None = None, whole: bool = True
    ) -> FilesProof:
        """What is found of each file that a scan of the window plans at a snapshot, by default the current one.

        `whole`: also whether one is listed once more outside of the window, which takes all manifests.
        Raises where the store can't be asked: a file is only called bad where that is certain.
        """

    async def prove_replaced(self, table: str, snapshot_id: int, timeout: timedelta) -> FilesProof:
        """What is found of each data file that this snapshot removed. Raises like `prove_files`."""

    async def rewritten(self, table: str, snapshot_id: int, timeout: timedelta) -> Rewritten:
        """What the manifests of a rewrite's snapshot say of the files that went and came; no Spark job."""

    async def content(
        self, table: str, snapshot_id: int, partitions: Sequence[str], by_column: bool, timeout: timedelta
    ) -> Content:
        """The fingerprints of what a rewrite's snapshot replaced and of what it wrote, deletes applied.

        `partitions`: as `rewritten` names them; none for all. `by_column`: those of each column, too.
        """

    async def tag(
        self,
        table: str,
        name: str,
        snapshot_id: int,
        until: datetime,
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> None:
        """Has a tag keep a snapshot until then; one of this name stays as it is. `before_commit` as in `compact`."""

    async def untag(
        self, table: str, prefix: str, timeout: timedelta, before_commit: BeforeCommit | None = None
    ) -> tuple[str, ...]:
        """Removes the tags whose names begin so, and returns them; `before_commit` as in `compact`."""

    async def set_properties(
        self,
        table: str,
        properties: Mapping[str, str | None],
        timeout: timedelta,
        before_commit: BeforeCommit | None = None,
    ) -> bool:
        """Sets these properties (None: removes them) in one commit, in none where they are so; whether it committed.

        `before_commit` as in `compact`.
        """

    async def count_at(self, table: str, snapshot_id: int, timeout: timedelta) -> int:
        """All live rows of a snapshot, with its delete files applied."""

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
        """Rows of each minute of the window that has any; `dates` as of the source."""

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
