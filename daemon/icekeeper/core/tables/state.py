"""What one load of a table's metadata shows, and what an expiry deleted. Frozen; instants are UTC, sizes bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

# The key under which Iceberg keeps a run's id in the summary of a snapshot that the run made.
RUN_ID_PROPERTY = "icekeeper.run-id"


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
    """

    table: str
    health: TableHealth
    history: tuple[Snapshot, ...]
    refs: tuple[Ref, ...]
    gc_enabled: bool = True
    small_files: tuple[SmallFiles, ...] = ()
    large_files: int = 0
    deletes_unknown: bool = False

    def snapshot(self, snapshot_id: int | None) -> Snapshot | None:
        return next((s for s in self.history if s.id == snapshot_id), None)


@dataclass(frozen=True, slots=True)
class FileGroup:
    """Files of one partition that Iceberg's planner would rewrite together; `partition` is empty if unpartitioned.

    `older_spec`: some may be of an older partition spec; they are rewritten under the current one, into as many of
    its partitions as they have rows for. `gains` is False where a rewrite would leave as many files of the same kind,
    and would be planned again every night.
    """

    partition: str
    files: int
    bytes: int
    output_files: int
    older_spec: bool = False
    gains: bool = True


@dataclass(frozen=True, slots=True)
class DeletedFiles:
    """The files that no snapshot refers to any more after an expiry.

    `left` are those that could not be deleted or were still in the store afterwards; `example` is one of them.
    """

    files: int
    left: int = 0
    example: str | None = None
