"""The events of a run, for progress, metrics and the page. The ledger gets the report instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import Stage
from icekeeper.core.runs import RunOpening, RunReport, StageResult


@dataclass(frozen=True, slots=True)
class RunStarted:
    """`work` are its tasks in their order, as far as they are known beforehand."""

    opening: RunOpening
    work: tuple[tuple[Stage, str], ...] = ()


@dataclass(frozen=True, slots=True)
class TaskStarted:
    """`position` counts from 1 among the run's `of` tasks. A task that gave way to the offload is started again."""

    stage: Stage
    table: str
    position: int
    of: int


@dataclass(frozen=True, slots=True)
class TaskProgressed:
    """A note on a task under way: what it is about to do, or that it is tried again."""

    stage: Stage
    table: str
    note: str


@dataclass(frozen=True, slots=True)
class TaskEnded:
    """`audit` is the row of an audit that was made."""

    result: StageResult
    audit: AuditResult | None = None


@dataclass(frozen=True, slots=True)
class RunEnded:
    report: RunReport


Event = RunStarted | TaskStarted | TaskProgressed | TaskEnded | RunEnded
Subscriber = Callable[[Event], None]
