"""The record of a plan: what a task would do to a table, and why. Deciding it is planning.py's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from icekeeper.core.calendar import Window
from icekeeper.core.enums import Decision, Stage
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.state import TableHealth


class Rewrite(StrEnum):
    """How a slice is rewritten. `sort` orders its rows; `binpack` reads the input of each output file sequentially;
    `spread` writes the same files as binpack, and reads the input in many Spark tasks.
    """

    BINPACK = "binpack"
    SORT = "sort"
    SPREAD = "spread"


@dataclass(frozen=True, slots=True)
class Slice:
    """A portion of a compaction, committed and verified by itself. Empty `partitions`: all of the table's.

    `may_grow`: it may write more files than it reads, by splitting large ones or moving them to another partition
    spec. `max_files`: it takes at most so many files, of a partition that has more than a slice should.
    """

    partitions: tuple[str, ...]
    files: int
    bytes: int
    output_files: int
    may_grow: bool = False
    max_files: int | None = None
    how: Rewrite = Rewrite.BINPACK


@dataclass(frozen=True, slots=True)
class Plan:
    """What a task would do and why: `slices` if it compacts, `snapshot_ids` if it expires, `window` if it audits.

    `note` says what it would do, or why it does nothing.
    """

    stage: Stage
    table: str
    decision: Decision
    note: str
    reason: Reason | None = None
    slices: tuple[Slice, ...] = ()
    snapshot_ids: tuple[int, ...] = ()
    window: Window | None = None
    health: TableHealth | None = None

    @property
    def done(self) -> str:
        """The note of a plan to act, once that is done."""
        would, did = _WORDS[self.stage]
        return self.note.replace(would, did, 1)


# What a plan would do, and what its task has done.
_WORDS = {
    Stage.COMPACT: ("would rewrite", "rewrote"),
    Stage.EXPIRE: ("would expire", "expired"),
    Stage.AUDIT: ("would count", "counted"),
}
