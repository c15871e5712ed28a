"""One run: the order of its tasks, its budget, and its outcome. What it is asked to do: order.py; one task: task.py."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from itertools import groupby

import structlog
from structlog.contextvars import bound_contextvars

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import RunOutcome, Stage
from icekeeper.core.errors import Cancelled, IcekeeperError, PermanentError
from icekeeper.core.events import OlderDayAudited, RunEnded, RunStarted, Subscriber, TaskEnded, TaskStarted
from icekeeper.core.formats import duration
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import SYSTEM_DOWN, Reason
from icekeeper.core.resuming import DEADLY, EarlierWork
from icekeeper.core.runs import OlderDays, RunReport, StageResult
from icekeeper.core.tables.planning import plan_audit
from icekeeper.core.tables.restraints import restrained
from icekeeper.night.certified_days import note_certified_days
from icekeeper.night.deferred import DeferredTasks
from icekeeper.night.log_lines import log_task, outcome_counts
from icekeeper.night.lookback import drop_cancellation, look_back
from icekeeper.night.order import Order
from icekeeper.night.ports import RunPorts
from icekeeper.night.stages import audit
from icekeeper.night.stages.offload import OffloadGuard
from icekeeper.night.stages.prefetch import PrefetchedCounts
from icekeeper.night.stages.restraint import operator_hold_if_known
from icekeeper.night.task import Task, TaskDeferred

log = structlog.get_logger(__name__)

Prepare = Callable[[], Awaitable[None]]


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
    opening = order.opening(started_at)
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
            drop_cancellation()
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
            older_days=run.older_days,
        )
        log.info("run_ended", outcome=outcome, duration_s=report.duration_s, **outcome_counts(report))
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
    compacted = [policy for policy in order.tables if policy.has(Stage.COMPACT)]
    try:
        await ports.lakehouse.prefetch(compacted[1:])
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
        self.older_days: OlderDays | None = None
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
            await self._look_back()
            await self._note_certified_days()
        except asyncio.CancelledError:
            for task in self._deferred.all():
                self._add(task.fail(Cancelled("stopped while it waited for the offload")))
            raise
        finally:
            await self._counts.end()

    async def _look_back(self) -> None:
        def take(audit: AuditResult) -> None:
            self.audits.append(audit)
            self._emit(OlderDayAudited(audit))

        days, down = list(self._order.older_days()), self._failed_alike()
        context = replace(self._context, until=self._deadline)
        if days and (down or self._order.earlier.runs >= DEADLY):
            reason = down[0].reason if down else Reason.PROCESS_DIED
            self.older_days = OlderDays(not_audited=len(days), reason=reason)
            log.warning("lookback_left_out", days=len(days), reason=reason)
        elif days:
            self.older_days = await look_back(
                days, context, tuple(self.audits), self._lock, self._require_may_go_on, take
            )

    async def _note_certified_days(self) -> None:
        order, context = self._order, replace(self._context, until=self._deadline)
        if Stage.AUDIT in order.stages and order.recorded and not order.policy.observe and not self._failed_alike():
            may_go_on, behind = self._require_may_go_on, order.ledger_behind
            held = {one.table for one in self.tasks if one.stage is Stage.AUDIT and one.reason is Reason.OPERATOR_HOLD}
            tables = [policy for policy in order.tables if policy.name not in held]
            await note_certified_days(tables, context, self.audits, self._lock, may_go_on, ledger_behind=behind)

    async def _take_turn(self, position: int, stage: Stage, policy: TablePolicy) -> None:
        down = self._failed_alike()
        if not down:
            await prefetch_before(position, stage, self._order, self._context.ports)
        self._require_may_go_on()
        if stage is Stage.AUDIT and position < len(self._work) and not down:
            following = self._work[position][1]
            # ClickHouse is not asked for an audit that an operator has put on hold.
            if await operator_hold_if_known(stage, following.name, self._context) is None:
                audit.count_next(following, self._context, self._counts)
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
        # Also where it would fail for another reason: it is not to be tried.
        held = await operator_hold_if_known(task.stage, task.policy.name, task.context)
        if held is not None and task.stage is Stage.AUDIT:
            todo = restrained(plan_audit(task.policy, task.context.window), held)
            return task.hold(held.reason, todo.note)
        not_tried = self._not_tried(task, down)
        if not_tried is not None and held is not None:
            return task.hold(held.reason, f"{held.note}; what there is to do is not known: {not_tried}")
        if not_tried is not None:
            return task.fail(not_tried)
        if self._spent(task):
            return task.hold_unfinished(Reason.BUDGET, "the run's max_duration is used up")
        async with self._lock:
            return await task.run()

    def _spent(self, task: Task) -> bool:
        return task.context.until is not None and self._clock() >= task.context.until

    def _not_tried(self, task: Task, down: list[StageResult]) -> PermanentError | None:
        if (task.stage, task.policy.name) in self._order.earlier.deadly:
            text = "not tried again: the process died twice while it was under way"
            return PermanentError(text, reason=Reason.PROCESS_DIED)
        if self._spent(task):
            return None
        if len(down) >= 2 and down[0].stage is task.stage:
            probe, first = [result for result in down if result.attempts][:2]
            before = first.table if first.stage is task.stage else f"{first.stage} of {first.table}"
            text = f"not tried, as {before} and {probe.table} failed alike"
            return PermanentError(text, reason=probe.reason)
        return None

    def _add(self, ended: TaskEnded) -> None:
        with bound_contextvars(stage=ended.result.stage, table=ended.result.table):
            log_task(ended.result)
        self.tasks.append(ended.result)
        if ended.audit is not None:
            self.audits.append(ended.audit)
        self._emit(ended)

    def _failed_alike(self) -> list[StageResult]:
        """The latest tasks that failed for one and the same system that is down, the last one first."""
        alike: list[StageResult] = []
        for result in reversed(self.tasks):
            if result.reason not in SYSTEM_DOWN or (alike and result.reason is not alike[0].reason):
                break
            alike.append(result)
        return alike


def _is_probe(stage: Stage, down: list[StageResult]) -> bool:
    """Whether a task only probes if the system is up again: the second of a stage, or the first after two failed."""
    return len(down) >= 2 or (len(down) == 1 and down[0].stage is stage)
