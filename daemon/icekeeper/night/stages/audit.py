"""Stage `audit`: counts a window on both sides. What the difference means: core/audit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import structlog

from icekeeper.core.audit.findings import findings_note, missing_rows
from icekeeper.core.audit.proof import (
    FILE_REASONS,
    FilesProof,
    finding_of_unreadable,
    findings_of_files,
    judge_files,
)
from icekeeper.core.audit.records import (
    MOST_BAD_FILES,
    AuditResult,
    LakehouseCount,
    SourceCount,
    SourceTtl,
    Verdict,
)
from icekeeper.core.audit.repair import identified
from icekeeper.core.audit.source import Source
from icekeeper.core.audit.verdict import judge, judge_keys, judge_missing, judge_surplus
from icekeeper.core.enums import AuditStatus, Decision, Proof, Stage, TaskOutcome
from icekeeper.core.errors import IcekeeperError, PermanentError, UnreadableFiles
from icekeeper.core.policy import AuditPolicy, TablePolicy
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.planning import plan_audit
from icekeeper.night.stages.context import AttemptResult, Deadline, Progress, TaskContext, not_acting
from icekeeper.night.stages.drill_down import DrillDown, differ, drill_down, source_minutes
from icekeeper.night.stages.keys import KeyAudit, SourceSide
from icekeeper.night.stages.prefetch import CountRequest, PrefetchedCounts
from icekeeper.night.stages.restraint import require_past, restrain_by_holds
from icekeeper.night.stages.reuse import as_before

log = structlog.get_logger(__name__)


async def plan(policy: TablePolicy, context: TaskContext) -> Plan:
    """Which window would be counted."""
    return await restrain_by_holds(plan_audit(policy, context.window), context)


def count_next(policy: TablePolicy, context: TaskContext, counts: PrefetchedCounts) -> None:
    """Has ClickHouse count for this table's audit, as soon as it has counted for the audit before it."""
    rules, source = _audited(policy)
    if rules.keys is not None:
        return  # which text a key has depends on both sides
    counts.prefetch(CountRequest(source, context.window, rules.final), rules.limits.timeout)


async def run(policy: TablePolicy, context: TaskContext, progress: Progress) -> AttemptResult:
    """One attempt: counts, judges, and finds where the sides differ."""
    rules, source = _audited(policy)
    todo = await plan(policy, context)
    if todo.decision is not Decision.ACT:
        return not_acting(todo)
    ports, deadline = context.ports, Deadline.of(rules.limits, context)
    window = context.window
    clock_right = await require_past(window, context)
    conditions = replace(await _offload(context, source), clock_right=clock_right)
    newest = await _newest(policy, context, conditions.watermark, deadline)
    keys = None if rules.keys is None else KeyAudit(policy, rules.keys, source, context, deadline)
    key = None if keys is None else await keys.agree()
    # ClickHouse first, Iceberg after it: a row that arrives in between can then only be a surplus, never a loss.
    warm = await ports.source.count(source, window, rules.final, deadline.remaining(), key)
    source_keys = None if keys is None or key is None else await keys.read_source(key, warm)
    files = None
    if rules.proof is not Proof.MANIFESTS:
        pinned = context.snapshots.get(policy.name)
        files = await ports.lakehouse.prove_files(policy.name, policy.timestamp, window, deadline.remaining(), pinned)
        if (failed := judge_files(files)) is not None:
            row = _row(policy, context, failed, clickhouse=warm, files=files, proof=Proof.FILES, conditions=conditions)
            held = await source_minutes(policy, source, context, warm, deadline)
            return _result(replace(row, findings=findings_of_files(window, files.bad, held)))
    sides = _Sides(policy, context, deadline, warm, files, conditions, newest)
    if (before := await as_before(policy, rules, context, warm, files, deadline)) is not None:
        return _result(_unread(sides, before))
    try:
        return _result(await _compared(sides, keys, source_keys))
    except PermanentError as exc:
        if exc.reason not in FILE_REASONS:
            raise
        unread = Verdict(AuditStatus.ERROR, exc.reason, None, None, str(exc))
        row = _row(policy, context, unread, clickhouse=warm, files=files, proof=rules.proof, conditions=conditions)
        held = await source_minutes(policy, source, context, warm, deadline)
        names = exc.files if isinstance(exc, UnreadableFiles) else ()
        # The rows of these files, and their partitions, are not known.
        return _result(replace(row, bad_file_rows=0, findings=(finding_of_unreadable(window, names, held),)))


@dataclass(frozen=True, slots=True)
class _Conditions:
    """How far the offload has come, and whether the host's clock is right.

    `watermark_read` False: how far is not known; without a watermark there is no offload.
    """

    watermark: datetime | None = None
    watermark_read: bool = True
    clock_right: bool = True


@dataclass(frozen=True, slots=True)
class _Sides:
    """What is known before Iceberg's rows are counted."""

    policy: TablePolicy
    context: TaskContext
    deadline: Deadline
    warm: SourceCount
    files: FilesProof | None
    conditions: _Conditions
    newest: datetime | None


async def _compared(sides: _Sides, keys: KeyAudit | None, source_keys: SourceSide | None) -> AuditResult:
    """Iceberg's side, and what the difference means. PermanentError where files can't be read."""
    policy, context, warm, files = sides.policy, sides.context, sides.warm, sides.files
    rules, source = _audited(policy)
    watermark = sides.conditions.watermark
    iceberg = await context.ports.lakehouse.count(
        policy.name,
        policy.timestamp,
        context.window,
        sides.deadline.remaining(),
        files.snapshot_id if files else context.snapshots.get(policy.name),
        every_value=rules.proof is Proof.ROWS,
    )
    both = None if keys is None or source_keys is None else await keys.read_iceberg(source_keys, iceberg)
    verdict = _judged(sides, iceberg)
    drill = sides.deadline.within(rules.drill_timeout)
    compared, found = None, None
    # A source that has dropped rows, or has none, is not compared: all that Iceberg holds would be surplus.
    if keys is not None and both is not None and warm.rows and verdict.status is not AuditStatus.ERROR:
        compared, found = await keys.compare(both, drill)
        verdict = judge_keys(verdict, compared, rules)
    drilled = DrillDown()
    if verdict.status is not AuditStatus.ERROR and differ(warm, iceberg, compared):
        context.report(Stage.AUDIT, policy.name, f"{verdict.status}, counting by the minute")
        drilled = await drill_down(policy, source, context, warm, iceberg, found, watermark, sides.newest, drill)
        if found is None:
            verdict = judge_missing(verdict, missing_rows(drilled.findings), warm.rows, rules)
    verdict = judge_surplus(verdict, warm.rows, iceberg.rows, rules, merges=warm.merges, keys=compared)
    proof = _proof(rules, iceberg, files)
    unproven = files.note if files is not None and proof is Proof.LENGTHS else ""
    notes = (verdict.note, findings_note(drilled.findings), drilled.note, unproven)
    row = _row(
        policy,
        context,
        replace(verdict, note="; ".join(filter(None, notes))),
        clickhouse=warm,
        iceberg=iceberg,
        files=files,
        proof=proof,
        conditions=sides.conditions,
    )
    hours = drilled.hours if verdict.status is not AuditStatus.OK else ()
    return replace(row, key_comparison=compared, findings=drilled.findings, missing_hours=hours)


def _judged(sides: _Sides, iceberg: LakehouseCount) -> Verdict:
    return judge(
        clickhouse=sides.warm.rows,
        iceberg=iceberg.rows,
        window=sides.context.window,
        now=sides.context.ports.clock(),
        policy=_audited(sides.policy)[0],
        source_ttl=source_ttl(sides.policy, sides.warm),
        watermark=sides.conditions.watermark,
        newest=sides.newest,
    )


def _unread(sides: _Sides, before: AuditResult) -> AuditResult:
    """The row of an older day whose rows are those that its last audit read: its files are proven, and not read."""
    files = sides.files
    assert files is not None  # as_before has compared them
    assert before.iceberg_row_count is not None
    query = (before.iceberg_query or "").replace(str(before.snapshot_id), str(files.snapshot_id))
    iceberg = LakehouseCount(before.iceberg_row_count, query, files.snapshot_id)
    verdict = _judged(sides, iceberg)
    if before.key_comparison is not None:
        verdict = judge_keys(verdict, before.key_comparison, _audited(sides.policy)[0])
    note = f"the same files as when run {before.run_id} counted them"
    row = _row(
        sides.policy,
        sides.context,
        replace(verdict, note="; ".join(filter(None, (verdict.note, note, files.note)))),
        clickhouse=sides.warm,
        iceberg=iceberg,
        files=files,
        # Rows that were read then are those of the same files.
        proof=before.proof if before.proof is Proof.ROWS else files.proof,
        conditions=sides.conditions,
    )
    return replace(row, key_comparison=before.key_comparison)


def _result(row: AuditResult) -> AttemptResult:
    outcome = TaskOutcome.FAILED if row.status is AuditStatus.ERROR else TaskOutcome.DONE
    return AttemptResult(outcome, f"{row.status}: {row.notes}", row.reason, identified(row))


async def _newest(
    policy: TablePolicy, context: TaskContext, watermark: datetime | None, deadline: Deadline
) -> datetime | None:
    """The source's newest row of the window, where a watermark before the window's end makes it matter.

    Like the watermark it only explains a verdict.
    """
    window = context.window
    if watermark is None or watermark >= window.end:
        return None
    try:
        return await context.ports.source.newest(_audited(policy)[1], window, deadline.remaining())
    except IcekeeperError as exc:
        log.warning("newest_row_unknown", error=str(exc))
        return None


def source_ttl(policy: TablePolicy, counted: SourceCount) -> SourceTtl | None:
    """How long the source keeps its rows: by the settings, or by its own definition."""
    if isinstance(policy.source_ttl, timedelta):
        return SourceTtl(policy.source_ttl, policy.source_ttl)
    return counted.ttl if policy.source_ttl == "auto" else None


async def _offload(context: TaskContext, source: Source) -> _Conditions:
    """How far the offload has come. It changes no verdict, so an audit goes on without it."""
    try:
        state = await context.ports.offload.state(source)
    except IcekeeperError as exc:
        log.warning("watermark_unknown", error=str(exc))
        return _Conditions(watermark_read=False)
    # Before the first cycle it has none, and the day is as little complete as before one that lies too early.
    return _Conditions() if state is None else _Conditions(state.at, watermark_read=state.at is not None)


def uncounted(policy: TablePolicy, context: TaskContext, error: IcekeeperError) -> AuditResult:
    """The row of an audit that could not count: no counts, and why."""
    verdict = Verdict(AuditStatus.ERROR, error.reason, None, None, f"{error.reason}: {error}")
    return _row(policy, context, verdict)


def _row(
    policy: TablePolicy,
    context: TaskContext,
    verdict: Verdict,
    *,
    clickhouse: SourceCount | None = None,
    iceberg: LakehouseCount | None = None,
    files: FilesProof | None = None,
    proof: Proof | None = None,
    conditions: _Conditions | None = None,
) -> AuditResult:
    window = context.window
    ttl = source_ttl(policy, clickhouse) if clickhouse else None
    return AuditResult(
        run_id=context.run_id,
        slot=context.slot,
        trigger=context.trigger,
        run_timestamp=context.ports.clock(),
        iceberg_table=policy.name,
        ch_source=str(_audited(policy)[1]),
        layer=policy.layer,
        audit_window_hours=window.hours,
        window_start=window.start,
        window_end=window.end,
        ch_row_count=clickhouse.rows if clickhouse else None,
        iceberg_row_count=iceberg.rows if iceberg else None,
        delta=verdict.delta,
        delta_pct=verdict.delta_pct,
        status=verdict.status,
        reason=verdict.reason,
        notes=verdict.note,
        snapshot_id=iceberg.snapshot_id if iceberg else files.snapshot_id if files else None,
        ch_query=clickhouse.query if clickhouse else None,
        iceberg_query=iceberg.query if iceberg else None,
        ch_final=clickhouse.final if clickhouse else None,
        watermark=conditions.watermark if conditions else None,
        proof=proof,
        bad_files=files.bad[:MOST_BAD_FILES] if files else (),
        bad_file_rows=files.bad_rows if files else None,
        ch_merges=clickhouse.merges if clickhouse else None,
        source_ttl_s=round(ttl.least.total_seconds()) if ttl else None,
        watermark_read=conditions.watermark_read if conditions else None,
        clock_right=conditions.clock_right if conditions else None,
        began_at=clickhouse.began_at if clickhouse else None,
        files_digest=files.digest if iceberg and files and files.snapshot_id == iceberg.snapshot_id else None,
    )


def _proof(rules: AuditPolicy, iceberg: LakehouseCount, files: FilesProof | None) -> Proof:
    """What the count rests on."""
    if rules.proof is Proof.ROWS:
        return Proof.ROWS
    # A table's first snapshot may come between the two: its files were not checked.
    return files.proof if files is not None and files.snapshot_id == iceberg.snapshot_id else Proof.MANIFESTS


def _audited(policy: TablePolicy) -> tuple[AuditPolicy, Source]:
    if policy.audit is None or policy.source is None:
        raise ValueError(f"{policy.name} has no audit")
    return policy.audit, policy.source
