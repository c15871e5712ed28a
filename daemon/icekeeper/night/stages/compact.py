"""Stage `compact`: rewrites small files slice by slice, each committed and verified. The rules: core/tables."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from functools import partial

import structlog

from icekeeper.core.enums import Decision, Stage, TaskOutcome, Trigger
from icekeeper.core.errors import CommitUnknown, DeadlineExceeded, IcekeeperError, PermanentError, TransientError
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Plan, Slice
from icekeeper.core.tables.planning import may_interest_planner, plan_compaction, taken_groups
from icekeeper.core.tables.restraints import Restraint, by_files, by_mismatch, restrained
from icekeeper.core.tables.state import COPIED, ROW_GROUPS_PROPERTY, RUN_ID_PROPERTY, Snapshot, TableState
from icekeeper.core.tables.verification import check_rewrite, explained_by_manifests, own_rewrites
from icekeeper.night.stages.context import AttemptResult, Deadline, Progress, TaskContext, not_acting
from icekeeper.night.stages.proof import keep_before, prove_rewrites
from icekeeper.night.stages.restraint import (
    hold_or_raise,
    operator_hold_if_known,
    partitions_with_bad_files,
    restrain,
    restrain_by_holds,
)

log = structlog.get_logger(__name__)


async def plan(policy: TablePolicy, state: TableState, context: TaskContext, overran: int = 0) -> Plan:
    """What would be rewritten, and why; Iceberg's own planner is asked, so that both mean the same by "nothing"."""
    ask = may_interest_planner(state, policy.compact)
    if ask and state.unsupported:
        return Plan(
            Stage.COMPACT, policy.name, Decision.HOLD, state.unsupported, Reason.TABLE_UNSUPPORTED, health=state.health
        )
    groups = await context.ports.lakehouse.file_groups(policy.name, policy.compact) if ask else ()
    todo = plan_compaction(policy, state, groups, overran=overran)
    todo = restrained(todo, by_mismatch(state, context.ports.clock()))
    todo = await restrain_by_holds(todo, context)
    if todo.decision is Decision.ACT:
        taken = taken_groups(groups)
        held = by_files(taken)
        if not isinstance(held, Restraint):
            bad = await partitions_with_bad_files(policy, [one for one in taken if one.partition not in held], context)
            held = bad if isinstance(bad, Restraint) else {**dict.fromkeys(bad, "files are bad"), **held}
        if isinstance(held, Restraint):
            todo = restrained(todo, held)
        elif held:
            todo = plan_compaction(policy, state, groups, overran=overran, left_out=held)
    return await restrain(todo, context, frees_space=False)


async def run(policy: TablePolicy, context: TaskContext, progress: Progress) -> AttemptResult:
    """One attempt. Committed slices stay committed: the next attempt plans only the rest."""
    lakehouse, target = context.ports.lakehouse, policy.compact.target_file_size
    deadline = Deadline.of(policy.compact.limits, context)
    try:
        state = await lakehouse.inspect(policy.name, target)
    except IcekeeperError as exc:
        if progress.seen is not None or progress.changed:
            raise  # a commit may have to be verified
        return await hold_or_raise(Stage.COMPACT, policy.name, context, exc)
    progress.inspected(state)
    await _settle(policy, context, progress, state, deadline)
    await _verify_earlier(policy, context, progress, state, deadline)
    todo = await plan(policy, state, context, progress.overran)
    if todo.decision is not Decision.ACT:
        if progress.changed and todo.reason is Reason.OPERATOR_HOLD:
            return AttemptResult(TaskOutcome.HELD, f"{todo.note}; {progress.achieved()}", todo.reason)
        return AttemptResult(TaskOutcome.DONE, progress.achieved()) if progress.changed else not_acting(todo)
    progress.planned(todo)
    whole, finished = sum(slice_.files for slice_ in todo.slices), 0
    for number, slice_ in enumerate(todo.slices, start=1):
        if number > 1 and (hold := await operator_hold_if_known(Stage.COMPACT, policy.name, context)) is not None:
            return AttemptResult(TaskOutcome.HELD, f"{hold.note}; it {progress.unfinished}", hold.reason)
        progress.remark = await context.offload.require_idle(policy) or progress.remark
        context.report(Stage.COMPACT, policy.name, _slice_note(number, todo.slices, slice_, finished, whole))
        progress.seen, progress.slice = state, slice_
        state = await _rewrite(policy, context, progress, slice_, state, deadline)
        progress.seen = None
        finished += slice_.files
    return (
        AttemptResult(TaskOutcome.DONE, progress.achieved())
        if progress.changed
        else await _overtaken(policy, context, state)
    )


def _slice_note(number: int, slices: tuple[Slice, ...], slice_: Slice, finished: int, whole: int) -> str:
    """Which slice is under way, and how far a compaction of several slices has come."""
    if len(slices) == 1:
        return f"{slice_.files} files"
    return f"slice {number} of {len(slices)}: {slice_.files} files, {finished} of {whole} done"


async def _overtaken(policy: TablePolicy, context: TaskContext, state: TableState) -> AttemptResult:
    """The result where no slice found anything to rewrite: another writer has done it, or the engine has not."""
    todo = await plan(policy, state, context)
    if todo.decision is Decision.ACT:
        text = f"the rewrite found nothing to do, though by the planner it still {todo.note}"
        raise TransientError(text, reason=Reason.NOT_VERIFIED, where=policy.name)
    ended = not_acting(todo)
    return replace(ended, note=f"{ended.note}; another writer compacted it meanwhile")


async def _settle(
    policy: TablePolicy, context: TaskContext, progress: Progress, state: TableState, deadline: Deadline
) -> None:
    """Verifies a rewrite of an earlier attempt that was lost after its commit had landed."""
    if progress.seen is None or progress.slice is None:
        return
    if rewrites := own_rewrites(progress.seen, state, context.run_id):
        await _verify(policy, context, progress, progress.slice, rewrites, timedelta(0), deadline)
        progress.changed = True
        progress.finished += _replaced(rewrites)
    progress.seen = None


async def _verify_earlier(
    policy: TablePolicy, context: TaskContext, progress: Progress, state: TableState, deadline: Deadline
) -> None:
    """Verifies what a run that this one resumes has rewritten: it may have died before it did so."""
    if context.trigger is not Trigger.RESUME or progress.attempts > 1 or by_mismatch(state, context.ports.clock()):
        return
    known = {snapshot.id for snapshot in state.history}
    rewrites = tuple(one for one in state.history if _is_earlier(one, context) and one.parent_id in known)
    if rewrites:
        await _verify(policy, context, progress, Slice((), 0, 0, 0, may_grow=True), rewrites, timedelta(0), deadline)


def _is_earlier(snapshot: Snapshot, context: TaskContext) -> bool:
    own = snapshot.operation == "replace" and RUN_ID_PROPERTY in snapshot.summary
    return own and snapshot.committed_at >= context.slot


async def _rewrite(
    policy: TablePolicy,
    context: TaskContext,
    progress: Progress,
    slice_: Slice,
    before: TableState,
    deadline: Deadline,
) -> TableState:
    """Rewrites a slice and verifies it; returns the table's state after that."""
    lakehouse, unknown, rewrote = context.ports.lakehouse, None, True
    began, waited = context.ports.clock(), context.offload.waited
    gate = context.offload.before_commit(policy, partial(context.report, Stage.COMPACT, policy.name), deadline.at)
    try:
        rewrote = await lakehouse.compact(
            policy.name, policy.compact, slice_, context.run_id, deadline.remaining(), gate
        )
    except DeadlineExceeded:
        progress.overran += 1
        raise
    except CommitUnknown as exc:
        unknown = exc  # settled below: the snapshot with the run's id is in the table, or it isn't
        log.warning("commit_unknown", error=str(exc))
    worked = context.ports.clock() - began - (context.offload.waited - waited)
    after = await lakehouse.inspect(policy.name, policy.compact.target_file_size)
    progress.after = after.health
    if not rewrote:
        return after  # another writer has done this slice
    rewrites = own_rewrites(before, after, context.run_id)
    if unknown is not None and not _are_of_all(slice_, rewrites):
        raise unknown.refusal or unknown
    await _verify(policy, context, progress, slice_, rewrites, worked, deadline)
    progress.changed = True
    progress.finished += slice_.files
    return after


def _are_of_all(slice_: Slice, rewrites: tuple[Snapshot, ...]) -> bool:
    """Whether nothing of a slice can be missing: copied row groups may be of a part of it, whose rest is rewritten."""
    rest = any(snapshot.summary.get(ROW_GROUPS_PROPERTY) != COPIED for snapshot in rewrites)
    return rest or _replaced(rewrites) >= slice_.files


def _replaced(rewrites: tuple[Snapshot, ...]) -> int:
    """How many files they replaced."""
    return sum(snapshot.count("deleted-data-files") for snapshot in rewrites)


async def _verify(
    policy: TablePolicy,
    context: TaskContext,
    progress: Progress,
    slice_: Slice,
    rewrites: tuple[Snapshot, ...],
    worked: timedelta,
    deadline: Deadline,
) -> None:
    """`worked`: how long the rewrites took."""
    lakehouse = context.ports.lakehouse
    problems, recounts = check_rewrite(slice_, rewrites)
    wrong = [snapshot for snapshot in rewrites if _grew(snapshot)]
    for pair in recounts:
        rows_before = await lakehouse.count_at(policy.name, pair.before, deadline.remaining())
        rows_after = await lakehouse.count_at(policy.name, pair.after, deadline.remaining())
        if rows_before != rows_after:
            problems.append(f"snapshot {pair.after} has {rows_after} live rows, its parent {rows_before}")
            wrong += [snapshot for snapshot in rewrites if snapshot.id == pair.after]
    if problems and (text := await _explanation(policy, context, rewrites, deadline)) is not None:
        raise PermanentError(text, reason=Reason.COUNT_MISMATCH, where=policy.name)
    if wrong:
        problems.append(await keep_before(policy, context, wrong[0]))
    if problems:
        # Without a snapshot of this run nothing happened, and the next attempt plans anew; a wrong one stays wrong.
        kind = PermanentError if rewrites else TransientError
        raise kind("; ".join(problems), reason=Reason.NOT_VERIFIED, where=policy.name)
    progress.row_groups |= {snapshot.summary.get(ROW_GROUPS_PROPERTY, "") for snapshot in rewrites}
    progress.proofs += await prove_rewrites(policy, context, rewrites, worked, deadline)


def _grew(snapshot: Snapshot) -> bool:
    """Whether a rewrite added rows, which no delete explains."""
    return snapshot.count("added-records") > snapshot.count("deleted-records")


async def _explanation(
    policy: TablePolicy, context: TaskContext, rewrites: tuple[Snapshot, ...], deadline: Deadline
) -> str | None:
    """What manifests claimed of the replaced files, where that explains the rows; None also where it can't be read."""
    prove = context.ports.lakehouse.prove_replaced
    try:
        replaced = [await prove(policy.name, snapshot.id, deadline.remaining()) for snapshot in rewrites]
    except IcekeeperError as exc:
        log.warning("replaced_files_not_read", error=str(exc))
        return None
    return explained_by_manifests(rewrites, replaced)
