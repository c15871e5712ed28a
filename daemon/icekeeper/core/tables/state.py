"""What one load of a table's metadata shows, and what an expiry deleted. Frozen; instants are UTC, sizes bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

# The key under which Iceberg keeps a run's id in the summary of a snapshot that the run made.
RUN_ID_PROPERTY = "icekeeper.run-id"
# The one for how such a rewrite made its files, where row groups might have been copied: COPIED, or why they were not.
ROW_GROUPS_PROPERTY = "icekeeper.row-groups"
COPIED = "copied"
# With a run's id behind it: the tag of the snapshot before a rewrite of that run that was found wrong.
MISMATCH_TAG = "icekeeper-before-"
# The branch that readers and writers use where they name none.
MAIN = "main"


@dataclass(frozen=True, slots=True)
class TableHealth:
    """A table's health by its metadata. `small_files` are below Iceberg's 75 % of the target size."""

    data_files: int
    small_files: int
    bytes: int
    records: int
    delete_files: int
    manifests: int
    snapshots: int
    snapshot_id: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    id: int
    parent_id: int | None
    committed_at: datetime
    operation: str
    summary: Mapping[str, str] = field(default_factory=dict)

    def count(self, key: str) -> int:
        """A number of the summary; 0 where Iceberg omits it."""
        return int(self.summary.get(key, "0"))


@dataclass(frozen=True, slots=True)
class Ref:
    """A branch or a tag, with its own retention ages if set (Iceberg spec, 'Snapshot References')."""

    name: str
    kind: Literal["branch", "tag"]
    snapshot_id: int
    max_ref_age: timedelta | None = None
    max_snapshot_age: timedelta | None = None
    min_snapshots_to_keep: int | None = None


@dataclass(frozen=True, slots=True)
class SmallFiles:
    """The small files of one partition, or of the whole table where it has had several partition specs."""

    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class TableState:
    """A table as one load of its metadata shows it; `history` has the oldest snapshot first.

    `small_files` has an entry for each partition with small files. `large_files` are over Iceberg's 180 % of the target
    size: its planner would split them. `deletes_unknown`: the current snapshot's summary lacks the delete files.
    `table_id` stays whatever the table is called; `spec_id`: the partition spec that it is written by.
    """

    table: str
    health: TableHealth
    history: tuple[Snapshot, ...]
    refs: tuple[Ref, ...]
    gc_enabled: bool = True
    small_files: tuple[SmallFiles, ...] = ()
    large_files: int = 0
    deletes_unknown: bool = False
    table_id: str = ""
    unsupported: str = ""
    spec_id: int = 0

    def snapshot(self, snapshot_id: int | None) -> Snapshot | None:
        return next((s for s in self.history if s.id == snapshot_id), None)

    def ancestors(self, snapshot_id: int | None) -> Iterator[Snapshot]:
        """The snapshot, its parent and so on, as far as they have not expired."""
        by_id = {snapshot.id: snapshot for snapshot in self.history}
        while snapshot_id is not None and (snapshot := by_id.get(snapshot_id)) is not None:
            yield snapshot
            snapshot_id = snapshot.parent_id


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files of one partition that Iceberg's planner would rewrite together; `partition` is empty if unpartitioned.

    `older_spec`: some may be of an older partition spec; they are rewritten under the current one, into as many of
    its partitions as they have rows for. `gains` is False where a rewrite would leave as many files of the same kind,
    and would be planned again every night. `unfit`: its partition's files that do not fit the table's schema, each with
    what does not; `twice`: those that manifests list more than once.
    """

    partition: str
    files: int
    bytes: int
    output_files: int
    older_spec: bool = False
    gains: bool = True
    unfit: tuple[str, ...] = ()
    twice: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DeletedFiles:
    """The files that no snapshot refers to any more after an expiry, with those that are kept of earlier ones.

    `left` are those that could not be deleted or were still in the store afterwards, and are kept for another try;
    `example` is one of them. `in_use`: files that were kept, and that the table refers to again. `tagged`: in place of
    being deleted they get the tags by which the store's own rules take them. `kept` False: what is left could not be
    noted for another try.
    """

    files: int = 0
    left: int = 0
    example: str | None = None
    in_use: int = 0
    tagged: bool = False
    kept: bool = True
