"""The events of a run, for progress, metrics and the page. The ledger gets the report instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import Stage
from icekeeper.core.runs import RunOpening, RunReport, StageResult
from icekeeper.core.tables.rewrites import ProvenBy


@dataclass(frozen=True, slots=True)
class RunStarted:
    """`work` are its tasks in their order, as far as they are known beforehand."""

    opening: RunOpening
    work: tuple[tuple[Stage, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """`position` counts from 1 among the run's `of` tasks.

    A task that gave way to the offload is started again; with `waits` it is in hand, and nothing of it is at work.
    """

    stage: Stage
    table: str
    position: int
    of: int
    waits: bool = False

    @property
    def at_work(self) -> tuple[Stage, str] | tuple[None, None]:
        """What a death of the process would count against."""
        return (None, None) if self.waits else (self.stage, self.table)


@dataclass(frozen=True, slots=True)
class TaskProgressed:
    """A note on a task under way: what it is about to do, or that it is tried again."""

    stage: Stage
    table: str
    note: str


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """`audit` is the row of an audit that was made, `proofs` how each rewrite of a compaction was proven."""

    result: StageResult
    audit: AuditResult | None = None
    proofs: tuple[ProvenBy, ...] = ()


@dataclass(frozen=True, slots=True)
class OlderDayAudited:
    """An older day was audited again: a row of an audit, and no task of the run."""

    audit: AuditResult


@dataclass(frozen=True, slots=True)
class RunEnded:
    report: RunReport


Event = RunStarted | TaskStarted | TaskProgressed | TaskEnded | OlderDayAudited | RunEnded
Subscriber = Callable[[Event], None]
