"""State that streaming writers keep in the summaries of snapshots, and which snapshots they need to find it. Pure.

A writer finds its state by walking from the head of its branch from parent to parent, and takes the first snapshot that
has it. Where a snapshot in between has expired, the walk ends there and the writer begins anew. Source, in Iceberg:
`lastCommittedOffsets` of Kafka Connect's Coordinator, `getMaxCommittedCheckpointId` of Flink's SinkUtil,
`findLastCommittedEpochId` of Spark's SparkWrite.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from icekeeper.core.formats import iso_minute
from icekeeper.core.tables.state import MAIN, Snapshot, TableState


@dataclass(frozen=True, slots=True)
class StateKey:
    """A key of snapshots' summaries that holds a writer's state; with a `*` at its end, all keys that begin so.

    `per`: further keys of the summary, whose values tell the writers of one key apart.
    """

    key: str
    per: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.key} per {' + '.join(self.per)}" if self.per else self.key

    def writers(self, summary: Mapping[str, str]) -> Iterator[str]:
        """The name of each writer whose state is in a summary."""
        if self.key.endswith("*"):
            keys = [key for key in summary if key.startswith(self.key[:-1])]
        else:
            keys = [self.key] if self.key in summary else []
        values = "/".join(summary.get(each, "-") for each in self.per)
        yield from (f"{key} of {values}" if values else key for key in keys)


DEFAULT_WRITER_STATE: Final = (
    StateKey("kafka.connect.offsets.*"),
    StateKey("flink.max-committed-checkpoint-id", ("flink.job-id", "flink.operator-id")),
    StateKey("spark.sql.streaming.epochId", ("spark.sql.streaming.queryId",)),
)


@dataclass(frozen=True, slots=True)
class WriterState:
    """The newest state of a writer on a branch, `depth` snapshots behind the branch's head."""

    writer: str
    branch: str
    committed_at: datetime
    depth: int

    def __str__(self) -> str:
        where = "" if self.branch == MAIN else f"on branch {self.branch}, "
        return f"{self.writer} ({where}{iso_minute(self.committed_at)})"


@dataclass(frozen=True, slots=True)
class BranchStates:
    """The states that walks from the head of a branch find. `line`: its snapshots, the head first."""

    line: tuple[Snapshot, ...]
    states: tuple[WriterState, ...]

    def needed(self, oldest: datetime) -> frozenset[int]:
        """The snapshots that the walks to all states read, but for states that were committed before `oldest`."""
        deepest = max((state.depth for state in self.states if state.committed_at >= oldest), default=-1)
        return frozenset(snapshot.id for snapshot in self.line[: deepest + 1])

    def lost(self, gone: Collection[int]) -> tuple[WriterState, ...]:
        """The states that no walk finds any more without the snapshots `gone`."""
        end = next((depth for depth, snapshot in enumerate(self.line) if snapshot.id in gone), len(self.line))
        return tuple(state for state in self.states if state.depth >= end)


def states_by_branch(
    table: TableState, keys: Sequence[StateKey], dropped: Collection[str] = ()
) -> tuple[BranchStates, ...]:
    """The writers' states on each branch that has any, but for the branches `dropped`."""
    branches = (ref for ref in table.refs if ref.kind == "branch" and ref.name not in dropped)
    found = (_on_branch(ref.name, tuple(table.ancestors(ref.snapshot_id)), keys) for ref in branches)
    return tuple(each for each in found if each.states)


def _on_branch(branch: str, line: tuple[Snapshot, ...], keys: Sequence[StateKey]) -> BranchStates:
    newest: dict[str, WriterState] = {}
    for depth, snapshot in enumerate(line):
        for writer in (writer for key in keys for writer in key.writers(snapshot.summary)):
            newest.setdefault(writer, WriterState(writer, branch, snapshot.committed_at, depth))
    return BranchStates(line, tuple(newest.values()))
