"""Checks what could forbid changing a table now. What the answers mean: core/tables/restraints.py."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from icekeeper.core.calendar import Window
from icekeeper.core.enums import Decision, Stage, TaskOutcome
from icekeeper.core.errors import IcekeeperError, PermanentError, SessionSpent
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.holds import by_holds
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.restraints import (
    OBSERVING,
    Restraint,
    by_bad_files,
    by_clock,
    by_delete_switch,
    by_disk,
    by_findings,
    clock_error,
    restrained,
)
from icekeeper.core.tables.state import FileGroup
from icekeeper.night.stages.context import AttemptResult, TaskContext

log = structlog.get_logger(__name__)


async def restrain(plan: Plan, context: TaskContext, *, frees_space: bool) -> Plan:
    """The plan, held where the mode, a clock or a disk stands against it. A plan that does not act is not checked."""
    if plan.decision is not Decision.ACT:
        return plan
    if context.run_policy.observe:
        return restrained(plan, OBSERVING)
    plan = restrained(plan, by_clock(await context.clocks.ahead(), context.run_policy.max_clock_skew))
    if frees_space or plan.decision is not Decision.ACT:
        return plan
    return restrained(plan, by_disk(await context.ports.surroundings.disks(), context.run_policy.min_free_disk))


async def restrain_by_holds(plan: Plan, context: TaskContext) -> Plan:
    """The plan, held where an operator has put its stage on hold.

    Where that is not known, an expiry is held, and the stages that lose nothing go on.
    """
    if plan.decision is not Decision.ACT:
        return plan
    try:
        return restrained(plan, await operator_hold(plan.stage, plan.table, context))
    except IcekeeperError as exc:
        if plan.stage is not Stage.EXPIRE:
            log.warning("holds_not_read", table=plan.table, error=str(exc))
            return plan
        return restrained(plan, Restraint(exc.reason, f"whether it is on hold can't be asked: {exc}"))


async def operator_hold(stage: Stage, table: str, context: TaskContext) -> Restraint | None:
    """What an operator's hold says against this stage now. Raises like `Holds.of`."""
    return by_holds(await context.ports.holds.of(table, anew=stage is Stage.EXPIRE), stage, context.ports.clock())


async def operator_hold_if_known(stage: Stage, table: str, context: TaskContext) -> Restraint | None:
    """The same; None, too, where it can't be asked: what follows from that is the plan's to say."""
    try:
        return await operator_hold(stage, table, context)
    except IcekeeperError:
        return None


async def hold_or_raise(stage: Stage, table: str, context: TaskContext, error: IcekeeperError) -> AttemptResult:
    """What ends a task that could not be planned as `held`, if it is on hold; else it fails by the error."""
    held = await operator_hold_if_known(stage, table, context)
    if held is None or isinstance(error, SessionSpent):
        raise error
    return AttemptResult(TaskOutcome.HELD, f"{held.note}; what there is to do is not known: {error}", held.reason)


async def restrain_by_findings(plan: Plan, policy: TablePolicy, context: TaskContext) -> Plan:
    """An expiry's plan, held where a finding is open that holds it.

    Where the ledger can't say, it is held by a policy that holds on findings; else, or without an audit that could have
    any, it goes on.
    """
    if plan.decision is not Decision.ACT:
        return plan
    try:
        findings = await context.ports.findings.open_windows(policy.name)
    except IcekeeperError as exc:
        if not policy.expire.hold_on or policy.audit is None:
            log.warning("findings_not_read", error=str(exc))
            return plan
        # To expire now could cost the only copy of what an audit found missing; a night later it costs nothing.
        return restrained(plan, Restraint(exc.reason, f"whether a finding is open can't be asked: {exc}"))
    return restrained(plan, by_findings(findings, policy.expire, context.ports.clock()))


async def restrain_by_store(plan: Plan, context: TaskContext) -> Plan:
    """An expiry's plan, held where the store is set not to delete files: they would be out of reach after it."""
    if plan.decision is not Decision.ACT:
        return plan
    return restrained(plan, by_delete_switch(await context.ports.lakehouse.delete_switch(plan.table)))


async def partitions_with_bad_files(
    policy: TablePolicy, groups: Sequence[FileGroup], context: TaskContext
) -> Restraint | frozenset[str]:
    """What open findings of bad files keep a compaction from rewriting. Where the ledger can't say: nothing."""
    try:
        return by_bad_files(await context.ports.findings.open_windows(policy.name), groups)
    except IcekeeperError as exc:
        log.warning("findings_not_read", error=str(exc))
        return frozenset()


async def require_past(window: Window, context: TaskContext) -> bool:
    """Whether this host's clock is right, as far as servers could be asked.

    PermanentError `clock_skew` where a wrong clock lets a window be counted before it is over.
    """
    ahead = await context.clocks.ahead()
    error = clock_error(ahead, context.run_policy.max_clock_skew)
    restraint = by_clock(ahead, context.run_policy.max_clock_skew)
    if window.end > context.ports.clock() - error:
        raise PermanentError(
            f"the window {window} is not over yet{f': {restraint.note}' if restraint else ''}", reason=Reason.CLOCK_SKEW
        )
    return restraint is None
