"""Stages of tables that operators have put on hold: the record, and what it means for a plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from icekeeper.core.enums import Stage
from icekeeper.core.formats import iso_minute
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.restraints import Restraint


@dataclass(frozen=True, slots=True)
class OperatorHold:
    """A stage of a table is not to be done until `until` (None: without end) or until it is released.

    `by`, `host` and `at`: who said so, where and when; `released_...`: the same of its release.
    """

    hold_id: UUID
    table: str
    stage: Stage
    note: str
    by: str
    host: str
    at: datetime
    until: datetime | None = None
    released_at: datetime | None = None
    released_by: str | None = None
    released_host: str | None = None

    def holds(self, now: datetime) -> bool:
        """Whether it is in force at this instant."""
        return self.released_at is None and (self.until is None or now < self.until)

    def __str__(self) -> str:
        until = f" until {iso_minute(self.until)}" if self.until is not None else ""
        return f"on hold{until} by {self.by} since {iso_minute(self.at)}: {self.note}"


def given_together(holds: Iterable[OperatorHold]) -> dict[OperatorHold, tuple[Stage, ...]]:
    """The first of those that were given together, with all stages that they are of."""
    found: dict[tuple[object, ...], tuple[OperatorHold, list[Stage]]] = {}
    for hold in holds:
        order = (hold.table, hold.at, hold.by, hold.host, hold.note, hold.until, hold.released_at)
        found.setdefault(order, (hold, []))[1].append(hold.stage)
    return {first: tuple(stage for stage in Stage if stage in stages) for first, stages in found.values()}


def by_holds(holds: Iterable[OperatorHold], stage: Stage, now: datetime) -> Restraint | None:
    """Holds a stage for as long as any hold of it is in force; they are those of one table."""
    in_force = [hold for hold in holds if hold.stage is stage and hold.holds(now)]
    return Restraint(Reason.OPERATOR_HOLD, "; ".join(map(str, in_force))) if in_force else None
