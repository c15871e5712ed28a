"""The run under way, as its events tell it, and the last one that ended here. Earlier ones: the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import Stage
from icekeeper.core.events import Event, RunEnded, RunStarted, TaskEnded, TaskProgressed, TaskStarted
from icekeeper.core.runs import RunOpening, RunReport, StageResult
from icekeeper.night.ports import Clock

Typical = Mapping[tuple[Stage, str], float]


@dataclass(frozen=True, slots=True)
class TaskUnderWay:
    """The task in hand: since when, and what it last said of itself."""

    stage: Stage
    table: str
    since: datetime
    note: str = ""


@dataclass(frozen=True, slots=True)
class RunUnderWay:
    """A run so far. `work` are its tasks in their order, ended, in hand or still to come."""

    opening: RunOpening
    work: tuple[tuple[Stage, str], ...]
    tasks: tuple[StageResult, ...] = ()
    audits: tuple[AuditResult, ...] = ()
    in_hand: TaskUnderWay | None = None

    def left_s(self, typical: Typical, now: datetime) -> float | None:
        """How many seconds it is likely to take still, by what its tasks usually take; None where nothing is known."""
        ended = {(task.stage, task.table) for task in self.tasks}
        left = [typical[task] for task in self.work if task not in ended and task in typical]
        if not left:
            return None
        spent = (now - self.in_hand.since).total_seconds() if self.in_hand is not None else 0.0
        usual = typical.get((self.in_hand.stage, self.in_hand.table), 0.0) if self.in_hand is not None else 0.0
        return max(0.0, sum(left) - min(spent, usual))


@dataclass(frozen=True, slots=True)
class RunThatEnded:
    opening: RunOpening
    report: RunReport


class Live:
    """Follows the runs. `run` is None while none is under way; `last` is the newest that ended in this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.run: RunUnderWay | None = None
        self.last: RunThatEnded | None = None

    def observe(self, event: Event) -> None:
        """Takes an event of a run."""
        if isinstance(event, RunStarted):
            self.run = RunUnderWay(event.opening, event.work)
        elif isinstance(event, RunEnded):
            # A slot that is closed without a run may be told while an operator's is under way.
            if self.run is not None and self.run.opening.run_id == event.report.run_id:
                self.last = RunThatEnded(self.run.opening, event.report)
                self.run = None
        elif self.run is None:  # it began before we listened
            return
        elif isinstance(event, TaskStarted):
            self.run = replace(self.run, in_hand=TaskUnderWay(event.stage, event.table, self._clock()))
        elif isinstance(event, TaskProgressed):
            if self.run.in_hand is not None:
                self.run = replace(self.run, in_hand=replace(self.run.in_hand, note=event.note))
        elif isinstance(event, TaskEnded):
            audits = self.run.audits if event.audit is None else (*self.run.audits, event.audit)
            self.run = replace(self.run, tasks=(*self.run.tasks, event.result), audits=audits, in_hand=None)

    def no_run(self) -> None:
        """None is under way any more, also where the last one crashed and told no end."""
        self.run = None
