"""The record of a plan: what a task would do to a table, and why. Deciding it is planning.py's."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from icekeeper.core.audit.repair import FindingRepair
from icekeeper.core.calendar import Window
from icekeeper.core.enums import Decision, Stage
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.state import TableHealth


class Rewrite(StrEnum):
    """How a slice is rewritten. `sort` orders its rows; `binpack` reads the input of each output file sequentially;
    `spread` writes the same files as binpack, and reads the input in many Spark tasks; `copy` copies the row groups of
    its files as they are where all of them allow that, and is a binpack where they don't.
    """

    BINPACK = "binpack"
    SORT = "sort"
    SPREAD = "spread"
    COPY = "copy"


@dataclass(frozen=True, slots=True)
class Slice:
    """A portion of a compaction, committed and verified by itself. Empty `partitions`: all of the table's.

    `may_grow`: it may write more files than it reads, by splitting large ones or moving them to another partition
    spec. `max_files`: it takes at most so many files, of a partition that has more than a slice should. `planned_at`:
    the snapshot whose files were compared with the schema; `spec_id`: the partition spec that the table had then.
    `at_once`: how many of its groups are rewritten at a time.
    """

    partitions: tuple[str, ...]
    files: int
    bytes: int
    output_files: int
    may_grow: bool = False
    max_files: int | None = None
    how: Rewrite = Rewrite.BINPACK
    planned_at: int | None = None
    spec_id: int | None = None
    at_once: int | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """What a task would do and why: `slices` if it compacts, `snapshot_ids` if it expires, `repairs` if it brings rows
    back, `window` if it audits.

    `note` says what it would do, or why it does nothing; `warning` what of that an operator should know beforehand.
    """

    stage: Stage
    table: str
    decision: Decision
    note: str
    reason: Reason | None = None
    slices: tuple[Slice, ...] = ()
    snapshot_ids: tuple[int, ...] = ()
    window: Window | None = None
    repairs: tuple[FindingRepair, ...] = ()
    health: TableHealth | None = None
    warning: str = ""

    @property
    def done(self) -> str:
        """The note of a plan to act, once that is done."""
        would, did = _TRIED if self.note.startswith(_TRIED[0]) else _WORDS[self.stage]
        return self.note.replace(would, did, 1)


# What a plan would do, and what its task has done.
_WORDS = {
    Stage.COMPACT: ("would rewrite", "rewrote"),
    Stage.EXPIRE: ("would expire", "expired"),
    Stage.REPAIR: ("would bring back", "brought back"),
    Stage.AUDIT: ("would count", "counted"),
}
_TRIED = ("would try again", "tried again")
