"""One run: the order of its tasks, its budget, and its outcome. One task: task.py."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import groupby
from uuid import UUID

import structlog
from structlog.contextvars import bound_contextvars

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import Cancelled, IcekeeperError, PermanentError
from icekeeper.core.events import RunEnded, RunStarted, Subscriber, TaskEnded, TaskStarted
from icekeeper.core.formats import duration
from icekeeper.core.policy import RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.resuming import EarlierWork
from icekeeper.core.runs import RunOpening, RunReport, StageResult
from icekeeper.night.deferred import DeferredTasks
from icekeeper.night.ports import RunPorts
from icekeeper.night.stages import audit
from icekeeper.night.stages.context import Clocks, TaskContext
from icekeeper.night.stages.offload import OffloadGuard
from icekeeper.night.stages.prefetch import PrefetchedCounts
from icekeeper.night.task import Task, TaskDeferred

log = structlog.get_logger(__name__)

# A system that every table needs: where one is down, the next table is the probe, and the rest is not tried. What one
# stage found down, the next one only probes.
_SYSTEM_DOWN = frozenset({Reason.CATALOG_DOWN, Reason.STORAGE_DOWN, Reason.ENGINE_DOWN, Reason.SOURCE_DOWN})


Prepare = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class StopRequest:
    """Who ends a run early: set before its task is cancelled. Without an operator the run counts as interrupted."""

    by_operator: bool = False


@dataclass(frozen=True, slots=True)
class Order:
    """What a run is asked to do. `tables` in the order in which they are worked on; `window`: None is the slot's."""

    run_id: UUID
    slot: datetime
    trigger: Trigger
    tables: tuple[TablePolicy, ...]
    stages: tuple[Stage, ...] = tuple(Stage)
    window: Window | None = None
    settings_hash: str = ""
    policy: RunPolicy = field(default_factory=RunPolicy)
    host: str = ""
    earlier: EarlierWork = field(default_factory=EarlierWork)
    stop: StopRequest = field(default_factory=StopRequest, compare=False)

    def work(self) -> Iterator[tuple[Stage, TablePolicy]]:
        """Stage by stage, table by table; no audit where there is no source, or where the slot has one already."""
        for stage in (stage for stage in Stage if stage in self.stages):
            for policy in self.tables:
                if stage is not Stage.AUDIT or (policy.audit is not None and policy.name not in self.earlier.counted):
                    yield stage, policy

    def context(self, ports: RunPorts, emit: Subscriber) -> TaskContext:
        """What each of its tasks gets."""
        return TaskContext(
            run_id=self.run_id,
            slot=self.slot,
            window=self.window or window_of(self.slot),
            trigger=self.trigger,
            ports=ports,
            emit=emit,
            clocks=Clocks(ports.surroundings),
            offload=OffloadGuard(ports, self.policy.offload),
            run_policy=self.policy,
        )


async def run_night(
    order: Order,
    ports: RunPorts,
    emit: Subscriber,
    tables_lock: asyncio.Lock | None = None,
    may_go_on: Callable[[], bool] = lambda: True,
    prepare: Prepare | None = None,
) -> RunReport:
    """Runs the order to its end and returns the report; a cancellation ends it early and is in the outcome.

    `tables_lock` is held while a table is worked on, so that no two tasks of one process ever change tables at once.
    `may_go_on` is called before each task; where it returns False, the run is `interrupted`. `prepare` is awaited
    before the first task, when the run counts as begun.
    """
    started_at = ports.clock()
    opening = RunOpening(
        run_id=order.run_id,
        slot=order.slot,
        trigger=order.trigger,
        started_at=started_at,
        settings_hash=order.settings_hash,
        stages=order.stages,
        tables=tuple(policy.name for policy in order.tables),
        host=order.host,
    )
    run = _Run(order, ports, emit, tables_lock, may_go_on, deadline=started_at + order.policy.max_duration)
    with bound_contextvars(run_id=str(order.run_id), slot=order.slot.isoformat()):
        emit(RunStarted(opening, tuple((stage, policy.name) for stage, policy in order.work())))
        log.info("run_started", trigger=order.trigger, stages=list(order.stages), tables=len(order.tables))
        try:
            if prepare is not None:
                await prepare()
            await run.work()
            outcome = order.earlier.fold(run.tasks, run.audits)
        except asyncio.CancelledError:
            outcome = RunOutcome.CANCELLED if order.stop.by_operator else RunOutcome.INTERRUPTED
            # The report answers the cancellation, which must not be raised again at the caller's next await.
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
        report = RunReport(
            run_id=order.run_id,
            slot=order.slot,
            trigger=order.trigger,
            outcome=outcome,
            started_at=started_at,
            finished_at=ports.clock(),
            settings_hash=order.settings_hash,
            tasks=tuple(run.tasks),
            audits=tuple(run.audits),
        )
        log.info("run_ended", outcome=outcome, duration_s=report.duration_s, **_outcome_counts(report))
        emit(RunEnded(report))
    return report


async def prefetch_before(position: int, stage: Stage, order: Order, ports: RunPorts) -> None:
    """Before the second task, if that is a compaction: reads the metadata of the tables after the first, several at
    once. The first task has shown that catalog and engine work; a table that can't be read fails in its own task.
    """
    if position != 2 or stage is not Stage.COMPACT:
        return
    if order.earlier != EarlierWork():
        return  # an earlier run of the slot may have died of a table's metadata
    try:
        await ports.lakehouse.prefetch(order.tables[1:])
    except IcekeeperError as exc:
        log.info("tables_not_prefetched", error=str(exc))


class _Run:
    """The state of a run under way: what is done so far, and which system was found down."""

    def __init__(
        self,
        order: Order,
        ports: RunPorts,
        emit: Subscriber,
        tables_lock: asyncio.Lock | None,
        may_go_on: Callable[[], bool],
        deadline: datetime,
    ) -> None:
        self.tasks: list[StageResult] = []
        self.audits: list[AuditResult] = []
        self._order = order
        self._work = list(order.work())
        self._deferred = DeferredTasks()
        self._emit = emit
        self._clock = ports.clock
        self._lock = tables_lock or nullcontext()
        self._may_go_on = may_go_on
        self._deadline = deadline
        self._counts = PrefetchedCounts(ports.source, ports.clock)
        self._context = order.context(replace(ports, source=self._counts), emit)

    async def work(self) -> None:
        try:
            for stage, numbered in groupby(enumerate(self._work, start=1), key=lambda each: each[1][0]):
                # Each stage has its own time to wait for the offload.
                guard = OffloadGuard(self._context.ports, self._order.policy.offload)
                self._context = replace(self._context, offload=guard)
                for position, (_, policy) in numbered:
                    await self._take_turn(position, stage, policy)
                await self._finish_deferred()
        except asyncio.CancelledError:
            for task in self._deferred.all():
                self._add(task.fail(Cancelled("stopped while it waited for the offload")))
            raise
        finally:
            await self._counts.end()

    async def _take_turn(self, position: int, stage: Stage, policy: TablePolicy) -> None:
        down = self._failed_alike()
        if not down:
            await prefetch_before(position, stage, self._order, self._context.ports)
        self._require_may_go_on()
        if stage is Stage.AUDIT and position < len(self._work) and not down:
            audit.count_next(self._work[position][1], self._context, self._counts)
        # The audit always runs: the budget is for the others.
        until = None if stage is Stage.AUDIT else self._deadline
        task = Task(stage, policy, replace(self._context, until=until, retries_off=_is_probe(stage, down)))
        self._begin(position, task)
        await self._do(position, task, down)

    async def _finish_deferred(self) -> None:
        """Tries the tables again that gave way to the offload, each as soon as its cycle has ended."""
        guard, in_hand = self._context.offload, None
        while (found := await self._deferred.next(guard)) is not None:
            self._require_may_go_on()
            task, waits_for = found.task, found.waits_for
            if task is not in_hand or waits_for is None:
                self._begin(found.position, task, waits=waits_for is not None)
                in_hand = task
            if waits_for is not None:
                self._context.report(task.stage, task.policy.name, f"waits for {waits_for.what}")
                if await guard.pause(waits_for, self._deadline):
                    continue
            self._deferred.remove(task)
            if waits_for is None or self._clock() >= self._deadline:
                await self._do(found.position, task, self._failed_alike())
                in_hand = None
            else:
                waited = duration(guard.waited.total_seconds())
                self._add(task.hold_unfinished(Reason.OFFLOAD_RUNNING, f"waited {waited} for {waits_for.what}"))

    def _begin(self, position: int, task: Task, *, waits: bool = False) -> None:
        self._emit(TaskStarted(task.stage, task.policy.name, position, len(self._work), waits))

    def _require_may_go_on(self) -> None:
        if not self._may_go_on():
            raise asyncio.CancelledError

    async def _do(self, position: int, task: Task, down: list[StageResult]) -> None:
        with bound_contextvars(stage=task.stage, table=task.policy.name):
            try:
                self._add(await self._run_task(task, down))
            except TaskDeferred:
                self._deferred.add(position, task)
            except asyncio.CancelledError:
                # Without an audit's row: the slot's audit is still owed, and a resumed run counts.
                self._add(replace(task.fail(Cancelled("stopped while it was under way")), audit=None))
                raise

    async def _run_task(self, task: Task, down: list[StageResult]) -> TaskEnded:
        if (task.stage, task.policy.name) in self._order.earlier.deadly:
            text = "not tried again: the process died twice while it was under way"
            return task.fail(PermanentError(text, reason=Reason.PROCESS_DIED))
        if task.context.until is not None and self._clock() >= task.context.until:
            return task.hold_unfinished(Reason.BUDGET, "the run's max_duration is used up")
        if len(down) >= 2 and down[0].stage is task.stage:
            probe, first = [result for result in down if result.attempts][:2]
            before = first.table if first.stage is task.stage else f"{first.stage} of {first.table}"
            text = f"not tried, as {before} and {probe.table} failed alike"
            return task.fail(PermanentError(text, reason=probe.reason))
        async with self._lock:
            return await task.run()

    def _add(self, ended: TaskEnded) -> None:
        with bound_contextvars(stage=ended.result.stage, table=ended.result.table):
            _log_task(ended.result)
        self.tasks.append(ended.result)
        if ended.audit is not None:
            self.audits.append(ended.audit)
        self._emit(ended)

    def _failed_alike(self) -> list[StageResult]:
        """The latest tasks that failed for one and the same system that is down, the last one first."""
        alike: list[StageResult] = []
        for result in reversed(self.tasks):
            if result.reason not in _SYSTEM_DOWN or (alike and result.reason is not alike[0].reason):
                break
            alike.append(result)
        return alike


def _is_probe(stage: Stage, down: list[StageResult]) -> bool:
    """Whether a task only probes if the system is up again: the second of a stage, or the first after two failed."""
    return len(down) >= 2 or (len(down) == 1 and down[0].stage is stage)


def _log_task(result: StageResult) -> None:
    level = log.error if result.outcome is TaskOutcome.FAILED else log.info
    level(
        "task_done",
        outcome=result.outcome,
        reason=result.reason,
        note=result.note,
        attempts=result.attempts,
        duration_s=round(result.duration_s, 3),
        error=result.error,
    )


def _outcome_counts(report: RunReport) -> dict[str, int]:
    """How many tasks and audits had which outcome, for the run's summary line."""
    counts = Counter(task.outcome.value for task in report.tasks)
    counts.update(f"audit_{audit.status}" for audit in report.audits)
    return dict(counts)
