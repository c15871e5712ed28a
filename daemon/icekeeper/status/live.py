"""The run under way in this process and the last one that ended, from their events. Earlier runs: the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import Stage
from icekeeper.core.events import Event, OlderDayAudited, RunEnded, RunStarted, TaskEnded, TaskProgressed, TaskStarted
from icekeeper.core.runs import RunOpening, RunReport, StageResult
from icekeeper.night.ports import Clock

Typical = Mapping[tuple[Stage, str], float]


@dataclass(frozen=True, slots=True)
class TaskUnderWay:
    """The task in hand; `note` is the last one that it reported."""

    stage: Stage
    table: str
    since: datetime
    note: str = ""


@dataclass(frozen=True, slots=True)
class RunUnderWay:
    """`work`: all tasks of the run in their order, whether ended, in hand or still to come."""

    opening: RunOpening
    work: tuple[tuple[Stage, str], ...]
    tasks: tuple[StageResult, ...] = ()
    audits: tuple[AuditResult, ...] = ()
    in_hand: TaskUnderWay | None = None

    def left_s(self, typical: Typical, now: datetime) -> float | None:
        """The remaining seconds, estimated from the typical durations of its tasks; None without any of them."""
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
    """`run` is None while none is under way; `last` is the newest that ended in this process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.run: RunUnderWay | None = None
        self.last: RunThatEnded | None = None

    def observe(self, event: Event) -> None:
        """Takes an event of a run."""
        if isinstance(event, RunStarted):
            self.run = RunUnderWay(event.opening, event.work)
        elif isinstance(event, RunEnded):
            # A slot may be closed without a run (missed) while an operator's run is under way.
            if self.run is not None and self.run.opening.run_id == event.report.run_id:
                self.last = RunThatEnded(self.run.opening, event.report)
                self.run = None
        elif self.run is None:  # it began before this process listened
            return
        elif isinstance(event, TaskStarted):
            self.run = replace(self.run, in_hand=TaskUnderWay(event.stage, event.table, self._clock()))
        elif isinstance(event, TaskProgressed):
            # What is done with older days is no task, and is not started as one.
            in_hand = self.run.in_hand or TaskUnderWay(event.stage, event.table, self._clock())
            self.run = replace(self.run, in_hand=replace(in_hand, table=event.table, note=event.note))
        elif isinstance(event, TaskEnded):
            audits = self.run.audits if event.audit is None else (*self.run.audits, event.audit)
            self.run = replace(self.run, tasks=(*self.run.tasks, event.result), audits=audits, in_hand=None)

        elif isinstance(event, OlderDayAudited):
            self.run = replace(self.run, audits=(*self.run.audits, event.audit), in_hand=None)

    def clear_run(self) -> None:
        """No run is under way: for a run that ended without a RunEnded event."""
        self.run = None
