"""Stage `compact`: rewrites small files slice by slice, each committed and verified. The rules are the core's."""

from __future__ import annotations

import structlog

from daemon.core.errors import PermanentError, TransientError
from daemon.core.events import TaskProgressed
from daemon.core.model import Decision, Plan, Slice, Stage, TablePolicy, TableState, TaskOutcome
from daemon.core.planning import plan_compaction
from daemon.core.reasons import Reason
from daemon.core.verification import check_rewrite, own_rewrites
from daemon.stages.context import Deadline, Ended, Progress, TaskContext, not_acting

log = structlog.get_logger(__name__)


async def plan(policy: TablePolicy, state: TableState, context: TaskContext) -> Plan:
    """What would be rewritten, and why; Iceberg's own planner is asked, so that both mean the same by "nothing"."""
    health = state.health
    # Iceberg's planner reads every manifest again: it is asked only where a file could interest it.
    worth_asking = health.small_files or health.delete_files or state.large_files
    groups = await context.parts.lakehouse.file_groups(policy.name, policy.compact) if worth_asking else ()
    return plan_compaction(policy, state, groups)


async def run(policy: TablePolicy, context: TaskContext, progress: Progress) -> Ended:
    """One attempt. Slices that an attempt committed stay committed: the next one plans only what is left."""
    lakehouse, target = context.parts.lakehouse, policy.compact.target_file_size
    deadline = Deadline.of(policy.compact.limits, context)
    state = await lakehouse.inspect(policy.name, target)
    progress.before = progress.before or state.health
    todo = await plan(policy, state, context)
    progress.note = progress.note or todo.note
    if todo.decision is not Decision.ACT:
        if progress.attempts > 1 and progress.after is not None:
            return Ended(TaskOutcome.DONE, progress.note)  # an earlier attempt did it, and only this one sees so
        return not_acting(todo)
    for number, part in enumerate(todo.slices, start=1):
        nth = f"slice {number} of {len(todo.slices)}: " if len(todo.slices) > 1 else ""
        context.emit(TaskProgressed(Stage.COMPACT, policy.name, f"{nth}{part.files} files"))
        try:
            await lakehouse.compact(policy.name, policy.compact, part, context.run_id, deadline.left())
        except TransientError as exc:
            if exc.reason is not Reason.COMMIT_UNKNOWN:
                raise
            # Settled below: the snapshot with our id is in the table, or it isn't and the task is tried again.
            log.warning("commit_unknown", stage=Stage.COMPACT, table=policy.name, error=str(exc))
        after = await lakehouse.inspect(policy.name, target)
        await _verify_rewrite(policy, context, part, state, after, deadline)
        progress.after, state = after.health, after
    return Ended(TaskOutcome.DONE, progress.note)


async def _verify_rewrite(
    policy: TablePolicy, context: TaskContext, part: Slice, before: TableState, after: TableState, deadline: Deadline
) -> None:
    rewrites = own_rewrites(before, after, context.run_id)
    problems, recounts = check_rewrite(part, rewrites)
    for pair in recounts:
        rows_before = await context.parts.lakehouse.count_at(policy.name, pair.before, deadline.left())
        rows_after = await context.parts.lakehouse.count_at(policy.name, pair.after, deadline.left())
        if rows_before != rows_after:
            problems.append(f"snapshot {pair.after} has {rows_after} live rows, its parent {rows_before}")
    if problems:
        # Without a snapshot of ours nothing happened, and the next attempt plans anew; a wrong one stays wrong.
        kind = PermanentError if rewrites else TransientError
        raise kind("; ".join(problems), reason=Reason.NOT_VERIFIED, where=policy.name)
