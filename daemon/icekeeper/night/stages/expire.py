"""Stage `expire`: drops exactly the snapshots that its plan names, and verifies that nothing else is gone."""

from __future__ import annotations

from functools import partial

from icekeeper.core.enums import Decision, Stage, TaskOutcome
from icekeeper.core.errors import PermanentError
from icekeeper.core.formats import counted
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.planning import due_refs, plan_expiry
from icekeeper.core.tables.state import TableState
from icekeeper.core.tables.verification import check_expiry
from icekeeper.night.stages.context import AttemptResult, Deadline, Progress, TaskContext, not_acting
from icekeeper.night.stages.restraint import restrain, restrain_by_findings


async def plan(policy: TablePolicy, state: TableState, context: TaskContext) -> Plan:
    """Which snapshots would go, and why."""
    todo = plan_expiry(policy, state, context.slot, context.ports.clock())
    todo = await restrain(todo, context, frees_space=True)
    return await restrain_by_findings(todo, policy, context)


async def run(policy: TablePolicy, context: TaskContext, progress: Progress) -> AttemptResult:
    """One attempt, bound to its plan: where the table has changed meanwhile, the next attempt plans anew."""
    lakehouse, target = context.ports.lakehouse, policy.compact.target_file_size
    deadline = Deadline.of(policy.expire.limits, context)
    state = await lakehouse.inspect(policy.name, target)
    progress.inspected(state)
    todo = await plan(policy, state, context)
    if progress.named and not {snapshot.id for snapshot in state.history} & set(progress.named):
        _verify(progress.seen or state, state, progress.named, context)
        # Whether its files were deleted is unknown.
        lost = "it landed though its attempt was lost: remove_orphan_files frees what was left"
        return AttemptResult(TaskOutcome.DONE, progress.achieved(lost))
    if todo.decision is not Decision.ACT:
        return not_acting(todo)
    progress.note, progress.done = todo.note, todo.done
    progress.remark = await context.offload.require_idle(policy)
    progress.seen, progress.named = state, todo.snapshot_ids
    context.report(Stage.EXPIRE, policy.name, counted(len(todo.snapshot_ids), "snapshot"))
    gate = context.offload.before_commit(policy, partial(context.report, Stage.EXPIRE, policy.name), deadline.at)
    retain_last, left = policy.expire.retain_last, deadline.remaining()
    deleted = await lakehouse.expire(policy.name, todo.snapshot_ids, retain_last, left, gate)
    after = await lakehouse.inspect(policy.name, target)
    progress.after = after.health
    _verify(state, after, todo.snapshot_ids, context)
    if deleted.left:
        raise PermanentError(
            f"the snapshots are expired, but of {deleted.files} unreferenced files {deleted.left} or "
            f"more are still in the store, e.g. {deleted.example}: check the right to delete; remove_orphan_files "
            "frees them",
            reason=Reason.NOT_VERIFIED,
            where=policy.name,
        )
    return AttemptResult(TaskOutcome.DONE, progress.achieved(f"{counted(deleted.files, 'file')} deleted"))


def _verify(before: TableState, after: TableState, named: tuple[int, ...], context: TaskContext) -> None:
    problems = check_expiry(before, after, named, due_refs(before, context.ports.clock()))
    if problems:
        raise PermanentError("; ".join(problems), reason=Reason.NOT_VERIFIED, where=after.table)
