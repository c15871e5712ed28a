"""One task: its attempts, and what they end as. What an attempt does lives in `stages/`, their order in `night.py`."""

from __future__ import annotations

from dataclasses import dataclass

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_fixed

from daemon.core.errors import IcekeeperError, PermanentError, TransientError
from daemon.core.events import TaskProgressed
from daemon.core.model import AuditResult, Plan, Stage, StageResult, TablePolicy, TaskOutcome
from daemon.core.reasons import Reason
from daemon.stages import audit, compact, expire
from daemon.stages.context import Ended, Progress, TaskContext

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class TaskEnd:
    """How a task ended, and the row of its audit if it was one."""

    result: StageResult
    audit: AuditResult | None = None


async def make_plan(stage: Stage, policy: TablePolicy, context: TaskContext) -> Plan:
    """What the task would do now; changes and counts nothing. Raises what `Lakehouse.inspect` raises."""
    if stage is Stage.AUDIT:
        return audit.plan(policy, context)
    state = await context.parts.lakehouse.inspect(policy.name, policy.compact.target_file_size)
    if stage is Stage.EXPIRE:
        return expire.plan(policy, state, context)
    return await compact.plan(policy, state, context)


async def run_task(stage: Stage, policy: TablePolicy, context: TaskContext) -> TaskEnd:
    """Runs one task to its end. An error becomes a `failed` result; only a cancellation gets out."""
    task = _Task(stage, policy, context)
    try:
        return task.end(await task.attempts())
    except IcekeeperError as exc:
        return task.fail(exc)
    except Exception as exc:  # a bug met by one table's task must not cost the other nine their night
        log.exception("task_crashed")
        return task.fail(PermanentError(f"{type(exc).__name__}: {exc}", reason=Reason.UNEXPECTED))


def untried(stage: Stage, policy: TablePolicy, context: TaskContext, error: IcekeeperError) -> TaskEnd:
    """The failure of a task that is not even begun, because what it needs is known to be down."""
    return _Task(stage, policy, context).fail(error)


def held(stage: Stage, policy: TablePolicy, context: TaskContext, reason: Reason, note: str) -> TaskEnd:
    """The end of a task that is not begun, because now would be the wrong time."""
    return _Task(stage, policy, context).end(Ended(TaskOutcome.HELD, note, reason))


class _Task:
    def __init__(self, stage: Stage, policy: TablePolicy, context: TaskContext) -> None:
        self.stage, self.policy, self.context = stage, policy, context
        self.progress = Progress()
        self.started_at = context.parts.clock()

    async def attempts(self) -> Ended:
        limits = self.policy.limits(self.stage)
        retrying = AsyncRetrying(
            stop=stop_after_attempt(1 if self.context.retries_off else 1 + limits.retries),
            wait=wait_fixed(limits.retry_delay.total_seconds()),
            retry=retry_if_exception_type(TransientError),
            sleep=self.context.parts.sleep,
            before_sleep=self._say_retry,
            reraise=True,
        )
        return await retrying(self._attempt)

    async def _attempt(self) -> Ended:
        self.progress.attempts += 1
        stages = {Stage.COMPACT: compact.run, Stage.EXPIRE: expire.run, Stage.AUDIT: audit.run}
        return await stages[self.stage](self.policy, self.context, self.progress)

    def _say_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        delay = self.policy.limits(self.stage).retry_delay.total_seconds()
        log.warning("task_retried", attempt=state.attempt_number, error=str(error), delay_s=delay)
        note = f"attempt {state.attempt_number} failed ({error}); tried again in {delay:.0f} s"
        self.context.emit(TaskProgressed(self.stage, self.policy.name, note))

    def fail(self, error: IcekeeperError) -> TaskEnd:
        row = audit.uncounted(self.policy, self.context, error) if self.stage is Stage.AUDIT else None
        return self.end(Ended(TaskOutcome.FAILED, self.progress.note, error.reason, row), str(error))

    def end(self, ended: Ended, error: str | None = None) -> TaskEnd:
        failed = ended.outcome is TaskOutcome.FAILED
        result = StageResult(
            stage=self.stage,
            table=self.policy.name,
            outcome=ended.outcome,
            reason=ended.reason,
            note=ended.note,
            attempts=self.progress.attempts,
            started_at=self.started_at,
            duration_s=(self.context.parts.clock() - self.started_at).total_seconds(),
            before=self.progress.before,
            after=self.progress.after or self.progress.before,
            error=(error or ended.note) if failed else None,
        )
        return TaskEnd(result, ended.audit)
