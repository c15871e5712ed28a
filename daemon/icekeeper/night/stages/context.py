"""What the stages share: the run they belong to, an attempt's deadline and its result. The outside world: ports.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import Decision, TaskOutcome, Trigger
from icekeeper.core.errors import DeadlineExceeded
from icekeeper.core.events import Subscriber
from icekeeper.core.policy import RunPolicy, StageLimits
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Plan, Slice
from icekeeper.core.tables.state import TableHealth, TableState
from icekeeper.night.ports import Clock, RunPorts, Surroundings


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
    """What every task of a run shares. `until` is when the run's budget ends, for the stages that have one."""

    run_id: UUID
    slot: datetime
    trigger: Trigger
    ports: RunPorts
    emit: Subscriber
    clocks: Clocks
    run_policy: RunPolicy = field(default_factory=RunPolicy)
    window_hours: int | None = None
    until: datetime | None = None
    retries_off: bool = False


@dataclass(slots=True)
class Progress:
    """What the attempts at a task have found so far: it outlives the exception that ends one of them.

    `seen` is the table before the change under way: a `slice` of a compaction, the `named` snapshots of an expiry.
    Where an attempt is lost after its commit landed, the next one recognizes the commit by them. `overran` counts the
    slices that went past their deadline, so that what is tried again is smaller.
    """

    attempts: int = 0
    before: TableHealth | None = None
    after: TableHealth | None = None
    note: str = ""
    seen: TableState | None = None
    slice: Slice | None = None
    named: tuple[int, ...] = ()
    changed: bool = False
    overran: int = 0

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

    def remaining(self) -> timedelta:
        """The time that remains; DeadlineExceeded where none does."""
        left = self.at - self.clock()
        if left <= timedelta(0):
            raise DeadlineExceeded("the timeout passed between two steps")
        return left
