"""What the stages share: the run they belong to, an attempt's deadline and its result. The outside world: ports.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import Window
from icekeeper.core.enums import Decision, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import DeadlineExceeded
from icekeeper.core.events import Subscriber, TaskProgressed
from icekeeper.core.formats import counted
from icekeeper.core.policy import RunPolicy, StageLimits
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Plan, Slice
from icekeeper.core.tables.rewrites import ProvenBy, RewriteProof, proofs_note
from icekeeper.core.tables.state import COPIED, TableHealth, TableState
from icekeeper.night.ports import Clock, RunPorts, Surroundings
from icekeeper.night.stages.offload import OffloadGuard


@dataclass(frozen=True, slots=True)
class ProvenRewrite:
    """A rewrite of a run, and how it was proven."""

    snapshot_id: int
    parent_id: int
    how: ProvenBy


class Clocks:
    """The servers' clocks compared with this host's: once a run, and only where something is to be done."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings
        self._ahead: Mapping[str, timedelta] | None = None

    async def ahead(self) -> Mapping[str, timedelta]:
        """By how much this host's clock is ahead of each server's that answered."""
        if self._ahead is None:
            self._ahead = await self._surroundings.clock_ahead()
        return self._ahead


@dataclass(frozen=True, slots=True)
class TaskContext:
    """What every task of a run shares.

    `window` is what its audits count, at the table's one of `snapshots` or else its current one; `findings` are the ids
    of those to repair (empty: all of the window); `until` is when the run's budget ends, for the stages that have one.
    `turn`: the table whose content is proven before that of others. `mismatched`: of which a
    rewrite of this run was found wrong; `proven`: each table's rewrites that were not, in order. `before`: the last
    audit of an older day that is audited again.
    """

    run_id: UUID
    slot: datetime
    window: Window
    trigger: Trigger
    ports: RunPorts
    emit: Subscriber
    clocks: Clocks
    offload: OffloadGuard
    run_policy: RunPolicy = field(default_factory=RunPolicy)
    snapshots: Mapping[str, int] = field(default_factory=dict)
    findings: tuple[str, ...] = ()
    until: datetime | None = None
    retries_off: bool = False
    turn: str | None = None
    mismatched: set[str] = field(default_factory=set)
    proven: dict[str, list[ProvenRewrite]] = field(default_factory=dict)
    before: AuditResult | None = None

    def report(self, stage: Stage, table: str, note: str) -> None:
        """Says what a task under way is at."""
        self.emit(TaskProgressed(stage, table, note))


@dataclass(slots=True)
class Progress:
    """What the attempts at a task have found so far: it outlives the exception that ends one of them.

    `seen` is the table before the change under way: a `slice` of a compaction, the `named` snapshots of an expiry.
    Where an attempt is lost after its commit landed, the next one recognizes the commit by them. `kept`: the files
    of earlier expiries before that change. `overran` counts the
    slices that went past their deadline, so that what is tried again is smaller. `proofs`: of each rewrite, in order.

    `renewed`: whether an attempt was granted because the session was renewed.

    `note` says what there was to do at first, `done` the same once it is done, `remark` what else is worth saying,
    `finished` how many files of a compaction are rewritten, `row_groups` what became of the row groups of each rewrite
    (ROW_GROUPS_PROPERTY; empty: they were not to be copied).
    """

    attempts: int = 0
    renewed: bool = False
    before: TableHealth | None = None
    after: TableHealth | None = None
    note: str = ""
    done: str = ""
    remark: str = ""
    finished: int = 0
    seen: TableState | None = None
    slice: Slice | None = None
    named: tuple[int, ...] = ()
    kept: int = 0
    changed: bool = False
    overran: int = 0
    proofs: list[RewriteProof] = field(default_factory=list)
    row_groups: set[str] = field(default_factory=set)

    def planned(self, plan: Plan) -> None:
        """Takes the plan of an attempt: the first one names the whole, those after it what was left."""
        self.note, self.done = self.note or plan.note, self.done or plan.done

    def achieved(self, *more: str) -> str:
        """The note of a task that did all of it."""
        parts = (self.done, self._copies, *more, proofs_note(self.proofs), self.remark)
        return "; ".join(part for part in parts if part)

    @property
    def _copies(self) -> str:
        some = "row groups copied" if self.row_groups == {COPIED} else "some row groups copied"
        refused = min(self.row_groups - {COPIED, ""}, default="")
        parts = (some if COPIED in self.row_groups else "", f"row groups not copied ({refused})" if refused else "")
        return "; ".join(part for part in parts if part)

    @property
    def unfinished(self) -> str:
        """The note of a task that did not: what there was to do, and how much of it is done."""
        return f"{self.note}; {counted(self.finished, 'file')} of them are rewritten" if self.finished else self.note

    def inspected(self, state: TableState) -> None:
        """Takes the state that an attempt found when it began."""
        self.before = self.before or state.health
        self.after = state.health


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The result of an attempt that raised nothing."""

    outcome: TaskOutcome
    note: str
    reason: Reason | None = None
    audit: AuditResult | None = None


def not_acting(plan: Plan) -> AttemptResult:
    """The result of a task whose plan is to skip or to hold."""
    outcome = TaskOutcome.HELD if plan.decision is Decision.HOLD else TaskOutcome.SKIPPED
    return AttemptResult(outcome, plan.note, plan.reason)


@dataclass(frozen=True, slots=True)
class Deadline:
    """When an attempt has to be over: its steps share one timeout."""

    at: datetime
    clock: Clock

    @classmethod
    def of(cls, limits: StageLimits, context: TaskContext) -> Deadline:
        at = context.ports.clock() + limits.timeout
        return cls(at if context.until is None else min(at, context.until), context.ports.clock)

    def within(self, timeout: timedelta) -> Deadline:
        """One for a part of the work that begins now and may take so long."""
        return Deadline(min(self.at, self.clock() + timeout), self.clock)

    def remaining(self) -> timedelta:
        """The time that remains; DeadlineExceeded where none does."""
        left = self.at - self.clock()
        if left <= timedelta(0):
            raise DeadlineExceeded("the timeout passed between two steps")
        return left
