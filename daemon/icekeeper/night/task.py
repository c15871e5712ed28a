"""One task: its attempts and its result. What an attempt does: stages/; the order of tasks: run.py."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_fixed

from icekeeper.core.enums import Decision, Stage, TaskOutcome
from icekeeper.core.errors import IcekeeperError, PermanentError, SessionSpent, TransientError
from icekeeper.core.events import TaskEnded
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.restraints import by_offload, restrained
from icekeeper.night.stages import audit, compact, expire, repair
from icekeeper.night.stages.context import AttemptResult, Progress, TaskContext

log = structlog.get_logger(__name__)


async def make_plan(stage: Stage, policy: TablePolicy, context: TaskContext) -> Plan:
    """What the task would do now; changes and counts nothing. Raises like `Lakehouse.inspect`."""
    if stage is Stage.AUDIT:
        return await audit.plan(policy, context)
    if stage is Stage.REPAIR:
        return await _with_offload(await repair.plan(policy, context), policy, context)
    state = await context.ports.lakehouse.inspect(policy.name, policy.compact.target_file_size)
    plan = expire.plan if stage is Stage.EXPIRE else compact.plan
    return await _with_offload(await plan(policy, state, context), policy, context)


async def _with_offload(plan: Plan, policy: TablePolicy, context: TaskContext) -> Plan:
    """The plan, and what it would wait for."""
    if plan.decision is not Decision.ACT:
        return plan
    answer = await context.offload.ask(policy)
    plan = restrained(plan, by_offload(answer.writing))
    return replace(plan, note=f"{plan.note}; {answer.left_over}") if answer.left_over else plan


class TaskDeferred(Exception):
    """The offload writes into the task's table: it is to be run again, and goes on where it was."""


class Task:
    """A task under way. `run` takes it to its end, or to where it has to wait; `fail` and `hold` end it at once."""

    def __init__(self, stage: Stage, policy: TablePolicy, context: TaskContext) -> None:
        self.stage, self.policy, self.context = stage, policy, context
        self.progress = Progress()
        self.started_at = context.ports.clock()
        self._worked = timedelta(0)
        self._at_work_since: datetime | None = None
        self._waited = False
        # Where the engine's log ended when this began; None for a task that never runs.
        self._log_mark: int | None = None

    async def run(self) -> TaskEnded:
        """Its attempts. An error becomes a `failed` result; only a cancellation is raised, and TaskDeferred."""
        self._at_work_since = self.context.ports.clock()
        if (engine_log := self.context.ports.engine_log) is not None:
            self._log_mark = engine_log.mark()
        try:
            return self._result(await self._attempts())
        except IcekeeperError as exc:
            if exc.reason is not Reason.OFFLOAD_RUNNING:
                return self.fail(exc)
            log.info("task_deferred", why=str(exc))
            self._worked, self._at_work_since, self._waited = self._duration(), None, True
            raise TaskDeferred from exc
        except Exception as exc:  # a bug in one task must not cost the other tables their night
            log.exception("task_crashed")
            return self.fail(PermanentError(f"{type(exc).__name__}: {exc}", reason=Reason.UNEXPECTED))

    def fail(self, error: IcekeeperError) -> TaskEnded:
        """Ends it by an error; an audit gets a row that says why there is no count."""
        if error.reason is Reason.DEADLINE and self._budget_is_spent():
            return self.hold_unfinished(Reason.BUDGET, "cut short by the run's max_duration")
        row = audit.uncounted(self.policy, self.context, error) if self.stage is Stage.AUDIT else None
        return self._result(AttemptResult(TaskOutcome.FAILED, self.progress.unfinished, error.reason, row), str(error))

    def hold(self, reason: Reason, note: str) -> TaskEnded:
        """Ends it as `held`: now would be the wrong time to go on."""
        return self._result(AttemptResult(TaskOutcome.HELD, note, reason))

    def hold_unfinished(self, reason: Reason, why: str) -> TaskEnded:
        """Ends it as `held`, and says what there was to do."""
        unfinished = self.progress.unfinished
        return self.hold(reason, f"{why}; it {unfinished}" if unfinished else why)

    async def _attempts(self) -> AttemptResult:
        limits = self.policy.limits(self.stage)
        retrying = AsyncRetrying(
            stop=self._no_more,
            wait=wait_fixed(limits.retry_delay.total_seconds()),
            retry=retry_if_exception(_may_go_right),
            sleep=self.context.ports.sleep,
            before_sleep=self._report_retry,
            reraise=True,
        )
        return await retrying(self._attempt)

    async def _attempt(self) -> AttemptResult:
        self.progress.attempts += not self._waited  # what waited in an attempt goes on with it
        self._waited = False
        stages = {
            Stage.COMPACT: compact.run,
            Stage.EXPIRE: expire.run,
            Stage.REPAIR: repair.run,
            Stage.AUDIT: audit.run,
        }
        attempt = stages[self.stage]
        try:
            return await attempt(self.policy, self.context, self.progress)
        except SessionSpent as exc:
            if self.progress.renewed or self._budget_is_spent():
                raise
            # None of the retries: a new session is there at once. What has landed the attempt finds in the table.
            self.progress.renewed = True
            self.progress.attempts += 1
            log.warning("session_renewed", attempt=self.progress.attempts, error=str(exc))
            self.context.report(self.stage, self.policy.name, f"tried again in a new session ({exc})")
            return await attempt(self.policy, self.context, self.progress)

    def _no_more(self, _: RetryCallState) -> bool:
        limits = self.policy.limits(self.stage)
        attempts = (1 if self.context.retries_off else 1 + limits.retries) + self.progress.renewed
        # No retry that would begin after the run's budget.
        # Its own count: tenacity's begins anew after each time that the task gave way.
        return self.progress.attempts >= attempts or self._budget_is_spent(limits.retry_delay)

    def _budget_is_spent(self, ahead: timedelta = timedelta(0)) -> bool:
        until = self.context.until
        return until is not None and self.context.ports.clock() + ahead >= until

    def _report_retry(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        delay = self.policy.limits(self.stage).retry_delay.total_seconds()
        attempt = self.progress.attempts
        log.warning("task_retried", attempt=attempt, error=str(error), delay_s=delay)
        note = f"attempt {attempt} failed ({error}); tried again in {delay:.0f} s"
        self.context.report(self.stage, self.policy.name, note)

    def _result(self, attempt: AttemptResult, error: str | None = None) -> TaskEnded:
        failed = attempt.outcome is TaskOutcome.FAILED
        result = StageResult(
            stage=self.stage,
            table=self.policy.name,
            outcome=attempt.outcome,
            reason=attempt.reason,
            note=attempt.note,
            attempts=self.progress.attempts,
            started_at=self.started_at,
            duration_s=self._duration().total_seconds(),
            before=self.progress.before,
            after=self.progress.after or self.progress.before,
            error=(error or attempt.note) if failed else None,
            engine_log=self._engine_log() if failed else None,
        )
        return TaskEnded(result, attempt.audit, tuple(proof.how for proof in self.progress.proofs))

    def _duration(self) -> timedelta:
        """How long it has been worked on, without the time that it gave way to the offload."""
        since = self._at_work_since
        return self._worked if since is None else self._worked + (self.context.ports.clock() - since)

    def _engine_log(self) -> str | None:
        engine_log = self.context.ports.engine_log
        if engine_log is None or self._log_mark is None:
            return None
        return engine_log.since(self._log_mark) or None


def _may_go_right(error: BaseException) -> bool:
    """Whether a retry may help. What waits for the offload is tried again by the run, after the other tables."""
    waits = isinstance(error, IcekeeperError) and error.reason is Reason.OFFLOAD_RUNNING
    return isinstance(error, TransientError) and not waits
