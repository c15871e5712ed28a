"""Stage `repair`: brings missing rows of findings back from ClickHouse. What can be repaired: core/audit/repair.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

import structlog

from icekeeper.core.audit.findings import Reach
from icekeeper.core.audit.keys import Key
from icekeeper.core.audit.records import Finding, FindingKind
from icekeeper.core.audit.repair import (
    FindingRepair,
    NotRepairable,
    Refusal,
    Repaired,
    RepairJob,
    SourceColumn,
    TableColumn,
    fillable,
    refusal_of,
)
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import Window
from icekeeper.core.enums import Decision, Stage, TaskOutcome
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.formats import counted, span
from icekeeper.core.policy import KeyPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.tables.plan import Plan
from icekeeper.night.ports import RepairPorts
from icekeeper.night.stages.audit import source_ttl
from icekeeper.night.stages.context import AttemptResult, Deadline, Progress, TaskContext, not_acting
from icekeeper.night.stages.keys import KeyAudit
from icekeeper.night.stages.restraint import restrain

log = structlog.get_logger(__name__)

# How often rows are compared and written again because another writer added rows to the window meanwhile.
STARTS = 3


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows that a repair reads: the key, their columns, and whether ClickHouse merges them as they are read."""

    key: Key
    columns: tuple[SourceColumn, ...]
    final: bool
    merges: bool


@dataclass(frozen=True, slots=True)
class _Examined:
    """A finding, what its repair would do, and the rows for it (None where it is refused)."""

    finding: Finding
    repair: FindingRepair
    rows: _Rows | None = None

    @property
    def refusal(self) -> Refusal | None:
        return self.repair.refusal


async def plan(policy: TablePolicy, context: TaskContext) -> Plan:
    """What would be brought back, and why the rest would not."""
    deadline = Deadline.of(policy.repair, context)
    examined = await _examine_all(policy, context, deadline)
    return await _planned(policy, examined, context)


async def _planned(policy: TablePolicy, examined: Sequence[_Examined], context: TaskContext) -> Plan:
    repairs = tuple(each.repair for each in examined)
    todo = [repair for repair in repairs if repair.refusal is None]

    def decided(decision: Decision, note: str, reason: Reason | None = None) -> Plan:
        window = context.window
        return Plan(Stage.REPAIR, policy.name, decision, note, reason, window=window, repairs=repairs)

    if not examined:
        return decided(Decision.SKIP, f"no finding of missing rows in {context.window}", Reason.NOTHING_MISSING)
    if not todo:
        return decided(Decision.SKIP, _refused(repairs), _reason_of(repairs))
    rows = counted(sum(repair.rows for repair in todo), "row")
    note = f"would bring back {rows} of {counted(len(todo), 'finding')}"
    if others := _refused(repairs):
        note = f"{note}; {others}"
    return await restrain(decided(Decision.ACT, note), context, frees_space=False)


def _reason_of(repairs: Sequence[FindingRepair]) -> Reason:
    done = all(repair.refusal is Refusal.REPAIRED for repair in repairs)
    return Reason.NOTHING_MISSING if done else Reason.NOT_REPAIRABLE


def _refused(repairs: Sequence[FindingRepair]) -> str:
    """Which findings are not repaired, and why, in a clause; empty where there are none."""
    texts = [f"{each.finding_id} is not repaired ({each.refusal}): {each.note}" for each in repairs if each.refusal]
    return "; ".join(texts)


async def run(policy: TablePolicy, context: TaskContext, progress: Progress) -> AttemptResult:
    """One attempt. Findings that are repaired stay so: the next attempt goes on with the others.

    PermanentError `not_repairable`, after the others are repaired, where one can't be.
    """
    deadline = Deadline.of(policy.repair, context)
    examined = await _examine_all(policy, context, deadline)
    todo = await _planned(policy, examined, context)
    refused = [each for each in examined if each.refusal not in (None, Refusal.REPAIRED)]
    if todo.decision is not Decision.ACT:
        if refused and todo.reason is Reason.NOT_REPAIRABLE:
            raise PermanentError(todo.note, reason=Reason.NOT_REPAIRABLE, where=policy.name)
        return AttemptResult(TaskOutcome.DONE, progress.achieved()) if progress.changed else not_acting(todo)
    progress.planned(todo)
    ready = [(each, each.rows) for each in examined if each.rows is not None]
    rows, brought = 0, 0
    for number, (each, readable) in enumerate(ready, start=1):
        progress.remark = await context.offload.require_idle(policy) or progress.remark
        if (held := await restrain(todo, context, frees_space=False)).decision is not Decision.ACT:
            raise TransientError(held.note, reason=held.reason or Reason.UNEXPECTED, where=policy.name)
        place = f"finding {number} of {len(ready)}: " if len(ready) > 1 else ""
        context.report(Stage.REPAIR, policy.name, f"{place}{span(each.finding.start, each.finding.end)}")
        try:
            rows += (await _repair(policy, context, each.finding, readable, deadline)).rows
        except NotRepairable as exc:
            repair = replace(each.repair, refusal=exc.refusal, note=str(exc.args[0]))
            refused.append(replace(each, repair=repair))
            continue
        brought += 1
        progress.changed = True
    progress.done = f"brought back {counted(rows, 'row')} of {counted(brought, 'finding')}"
    if refused:
        text = f"{progress.done}; {_refused([each.repair for each in refused])}"
        raise PermanentError(text, reason=Reason.NOT_REPAIRABLE, where=policy.name)
    return AttemptResult(TaskOutcome.DONE, progress.achieved())


async def _repair(
    policy: TablePolicy, context: TaskContext, finding: Finding, rows: _Rows, deadline: Deadline
) -> Repaired:
    """Claims a finding, reads its rows, has them added, and notes that."""
    ports, (_, source) = _ports(context), _repaired(policy)
    if (refusal := await ports.ledger.claim(policy.name, finding, context.run_id)) is not None:
        raise NotRepairable(refusal, f"finding {finding.id}: {refusal.advice}", where=policy.name)
    window = Window(finding.start, finding.end)
    try:
        async with ports.source.exported(source, window, rows.final, rows.columns, deadline.remaining()) as path:
            job = RepairJob(
                finding_id=finding.id,
                run_id=context.run_id,
                path=path,
                columns=tuple(each.column for each in rows.columns),
                key=rows.key,
                timestamp=policy.timestamp,
                window=window,
                audited=context.window,
                by_rows=not rows.merges,
            )
            repaired = await _added(policy, context, job, deadline)
    except IcekeeperError as exc:
        # Of any other error it is not known whether the rows were added: the claim stays, for another attempt.
        if isinstance(exc, PermanentError) or exc.reason is Reason.CONFLICT:
            await ports.ledger.release(finding.id, context.run_id)
        raise
    await ports.ledger.finish(finding.id, repaired)
    log.info("finding_repaired", finding_id=finding.id, rows=repaired.rows, snapshot_id=repaired.snapshot_id)
    return repaired


async def _added(policy: TablePolicy, context: TaskContext, job: RepairJob, deadline: Deadline) -> Repaired:
    """Has the rows added; begins anew, STARTS times in all, where another writer adds rows to the window meanwhile.

    A commit of unknown state is settled so, too: its snapshot carries the finding's id.
    """
    gate = context.offload.before_commit(policy, partial(context.report, Stage.REPAIR, policy.name), deadline.at)
    lakehouse = _ports(context).lakehouse
    for start in range(1, STARTS + 1):
        try:
            return await lakehouse.repair(policy.name, job, deadline.remaining(), gate)
        except TransientError as exc:
            if exc.reason not in (Reason.CONFLICT, Reason.COMMIT_UNKNOWN) or start == STARTS:
                raise
            log.warning("repair_started_over", finding_id=job.finding_id, error=str(exc))
    raise AssertionError("the last start returns or raises")


# --- what can be repaired


async def _chosen(policy: TablePolicy, context: TaskContext) -> tuple[Finding, ...]:
    """The findings that are asked for; of no particular ones, those of missing rows in the window."""
    found = await _ports(context).ledger.findings(policy.name, context.window)
    if context.findings:
        return tuple(each for each in found if each.id in context.findings)
    return tuple(each for each in found if each.kind is FindingKind.MISSING)


async def _examine_all(policy: TablePolicy, context: TaskContext, deadline: Deadline) -> list[_Examined]:
    """What a repair of each finding would do. Raises like the ports, but for NotRepairable."""
    chosen = await _chosen(policy, context)
    lacks = any(each.kind is FindingKind.MISSING for each in chosen)
    reached = await _offloaded_until(policy, context, deadline) if lacks else None
    return [await _examine(policy, each, reached, context, deadline) for each in chosen]


async def _examine(
    policy: TablePolicy, finding: Finding, reached: datetime | None, context: TaskContext, deadline: Deadline
) -> _Examined:
    """`reached`: what the offload has passed of the audited window; None where it keeps no watermark."""
    key = policy.keys.columns if policy.keys is not None else ()
    repair = FindingRepair(finding.id, finding.start, finding.end, finding.rows, key)
    try:
        refusal = refusal_of(policy, finding, reached)
        refusal = refusal or await _ports(context).ledger.refusal(policy.name, finding)
        if refusal is not None:
            raise NotRepairable(refusal, refusal.advice)
        return await _examine_rows(policy, finding, repair, context, deadline)
    except NotRepairable as exc:
        return _Examined(finding, replace(repair, refusal=exc.refusal, note=str(exc.args[0])))


async def _examine_rows(
    policy: TablePolicy, finding: Finding, repair: FindingRepair, context: TaskContext, deadline: Deadline
) -> _Examined:
    ports, (keys, source) = _ports(context), _repaired(policy)
    window = Window(finding.start, finding.end)
    key = await KeyAudit(policy, keys, source, context, deadline).agree()
    # The checks of a count are those of a repair: a row policy or a limit must hide no row.
    counted_rows = await context.ports.source.count(source, window, None, deadline.remaining())
    ttl = source_ttl(policy, counted_rows)
    if ttl is not None and window.start < context.ports.clock() - ttl.least:
        raise NotRepairable(Refusal.SOURCE_EXPIRED, f"the source's TTL ({ttl}) has passed this time")
    columns = await ports.lakehouse.table_columns(policy.name)
    named = [SourceColumn(column, source.column(column.name)) for column in columns]
    final = counted_rows.final
    found = await ports.source.examine(source, window, final, named, deadline.remaining())
    filled: tuple[TableColumn, ...] = fillable(columns, found, policy.name)
    names = tuple(column.name for column in filled)
    rows = _Rows(
        replace(key, compare=()), tuple(each for each in named if each.column in filled), final, counted_rows.merges
    )
    left = tuple(column.name for column in columns if column.name not in names)
    return _Examined(
        finding, replace(repair, rows_to_read=found.rows, columns=names, left_null=left, final=final), rows
    )


async def _offloaded_until(policy: TablePolicy, context: TaskContext, deadline: Deadline) -> datetime | None:
    """What the offload has passed, of the audited window; None where it keeps no watermark."""
    if policy.source is None:
        return None
    state = await context.ports.offload.state(policy.source)
    if state is None or state.at is None:
        return None
    newest = None
    if state.at < context.window.end:
        newest = await context.ports.source.newest(policy.source, context.window, deadline.remaining())
    return Reach.of(state.at, newest, context.window).until


def _ports(context: TaskContext) -> RepairPorts:
    if context.ports.repairs is None:
        raise PermanentError("nothing can be repaired without a ledger", reason=Reason.LEDGER_DOWN)
    return context.ports.repairs


def _repaired(policy: TablePolicy) -> tuple[KeyPolicy, Source]:
    if policy.keys is None or policy.source is None:
        raise ValueError(f"{policy.name} has no key")
    return policy.keys, policy.source
