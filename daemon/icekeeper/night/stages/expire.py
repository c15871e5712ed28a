"""Stage `expire`: drops exactly the snapshots that its plan names, and verifies that nothing else is gone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import structlog

from icekeeper.core.enums import Decision, Stage, TaskOutcome
from icekeeper.core.errors import CommitUnknown, IcekeeperError, PermanentError
from icekeeper.core.formats import counted
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.expiry import due_refs, plan_expiry
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.restraints import Restraint, by_mismatch, restrained
from icekeeper.core.tables.state import TableState
from icekeeper.core.tables.verification import check_expiry
from icekeeper.night.stages.context import AttemptResult, Deadline, Progress, TaskContext, not_acting
from icekeeper.night.stages.restraint import (
    hold_or_raise,
    restrain,
    restrain_by_findings,
    restrain_by_holds,
    restrain_by_store,
)

log = structlog.get_logger(__name__)


async def plan(policy: TablePolicy, state: TableState, context: TaskContext) -> Plan:
    """Which snapshots would go, and why."""
    kept = context.ports.lakehouse.kept_files(policy.name, state.table_id)
    todo = plan_expiry(policy, state, context.slot, context.ports.clock(), kept)
    todo = restrained(todo, by_mismatch(state, context.ports.clock()))
    if policy.name in context.mismatched:  # though it may not have been tagged
        todo = restrained(todo, Restraint(Reason.REWRITE_MISMATCH, "a rewrite of this run was found wrong"))
    todo = await restrain_by_holds(todo, context)
    todo = await restrain(todo, context, frees_space=True)
    todo = await restrain_by_findings(todo, policy, context)
    return await restrain_by_store(todo, context)


async def run(policy: TablePolicy, context: TaskContext, progress: Progress) -> AttemptResult:
    """One attempt, bound to its plan: where the table has changed meanwhile, the next attempt plans anew."""
    lakehouse, target = context.ports.lakehouse, policy.compact.target_file_size
    deadline = Deadline.of(policy.expire.limits, context)
    try:
        state = await lakehouse.inspect(policy.name, target)
    except IcekeeperError as exc:
        if progress.named:
            raise  # an expiry may have landed
        return await hold_or_raise(Stage.EXPIRE, policy.name, context, exc)
    progress.inspected(state)
    todo = await plan(policy, state, context)
    landed = ""
    if progress.named and not {snapshot.id for snapshot in state.history} & set(progress.named):
        _verify(progress.seen or state, state, progress.named, context)
        # Whether its files were deleted is only known where their paths came to be kept.
        lost = "it landed though its attempt was lost"
        if lakehouse.kept_files(policy.name, state.table_id) <= progress.kept:
            return AttemptResult(
                TaskOutcome.DONE, progress.achieved(f"{lost}: remove_orphan_files frees what was left")
            )
        landed = f"before that {progress.done}: {lost}"
    if todo.decision is not Decision.ACT:
        ended = not_acting(todo)
        return replace(ended, note=f"{ended.note}; {landed}") if landed else ended
    progress.kept = lakehouse.kept_files(policy.name, state.table_id)
    progress.note, progress.done = todo.note, todo.done
    progress.remark = await context.offload.require_idle(policy)
    progress.seen, progress.named = state, todo.snapshot_ids
    if todo.warning:
        log.warning("writer_state_lost", table=policy.name, warning=todo.warning)
    context.report(Stage.EXPIRE, policy.name, counted(len(todo.snapshot_ids), "snapshot"))
    gate = context.offload.before_commit(policy, partial(context.report, Stage.EXPIRE, policy.name), deadline.at)
    retain_last, left = policy.expire.retain_last, deadline.remaining()
    try:
        deleted = await lakehouse.expire(policy.name, todo.snapshot_ids, retain_last, left, gate)
    except CommitUnknown as exc:
        log.warning("commit_unknown", error=str(exc))
        found = await lakehouse.inspect(policy.name, target)
        if {snapshot.id for snapshot in found.history} & set(progress.named):
            raise exc.refusal or exc from exc
        return await run(policy, context, progress)  # it landed: settled like one whose attempt was lost
    after = await lakehouse.inspect(policy.name, target)
    progress.after = after.health
    _verify(state, after, todo.snapshot_ids, context)
    if deleted.left:
        then = "they are tried again with every expiry" if deleted.kept else "remove_orphan_files frees them"
        raise PermanentError(
            f"the snapshots are expired, but of {deleted.files} unreferenced files {deleted.left} may still be in the "
            f"store, e.g. {deleted.example}: check the right to delete; {then}",
            reason=Reason.NOT_VERIFIED,
            where=policy.name,
        )
    freed = f"{counted(deleted.files, 'file')} {'tagged' if deleted.tagged else 'deleted'}"
    used = f"{counted(deleted.in_use, 'file')} of earlier expiries in use again" if deleted.in_use else ""
    return AttemptResult(TaskOutcome.DONE, progress.achieved(freed, used, landed))


def _verify(before: TableState, after: TableState, named: tuple[int, ...], context: TaskContext) -> None:
    problems = check_expiry(before, after, named, due_refs(before, context.ports.clock()))
    if problems:
        raise PermanentError("; ".join(problems), reason=Reason.NOT_VERIFIED, where=after.table)
