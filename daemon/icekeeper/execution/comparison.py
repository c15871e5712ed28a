"""Another job's audits beside icekeeper's: which to compare, counting again, and the clues. The rules: core/audit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from icekeeper.adapters.ledger.rows import known
from icekeeper.core.audit.compare import (
    Cause,
    Clues,
    Comparison,
    Comparisons,
    Explanation,
    FlowAudit,
    OwnAudit,
    audit_of_night,
    counts_are_equal,
    explain,
    window_in_zone,
)
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import AuditStatus
from icekeeper.core.policy import TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.execution.wiring import Services

# Audits of a window, of these tables, that record nothing.
Recount = Callable[[Window, tuple[str, ...]], Awaitable[Sequence[AuditResult]]]


async def compare_audits(
    services: Services, policies: Sequence[TablePolicy], since: datetime, recount: Recount
) -> Comparisons:
    """The flow's audits of these tables, each with why icekeeper's differs, oldest window first.

    They are those of windows that ended since then. One is counted again where icekeeper has no audit of it with the
    flow's very counts. Raises the errors of the core where a system can't be asked.
    """
    audited = {policy.name: policy for policy in policies if policy.audit is not None}
    own: dict[str, list[OwnAudit]] = defaultdict(list)
    flows: dict[tuple[datetime, datetime, str], FlowAudit] = {}
    for row in (rows := await services.history.audits_since(since)):
        if row["table"] not in audited:
            continue
        if row["run_id"] is None:
            flows[row["window_start"], row["window_end"], row["table"]] = _flow_audit(row)
        else:
            own[row["table"]].append(_own_audit(row))
    same = {key: _recorded(flow, own[flow.table]) for key, flow in flows.items()}
    to_count: dict[Window, list[str]] = defaultdict(list)
    for key, flow in sorted(flows.items()):
        if same[key] is None and window_of(flow.window.end, max(flow.window.hours, 1)) == flow.window:
            to_count[flow.window].append(flow.table)
    for window, tables in to_count.items():
        for result in await recount(window, tuple(tables)):
            same[window.start, window.end, result.iceberg_table] = _counted_again(result)
    compared = [
        await _compared(services, audited[flow.table], flow, own[flow.table], same[key])
        for key, flow in sorted(flows.items())
    ]
    known_tables = {policy.name for policy in services.settings.policies() if policy.audit is not None}
    others = {row["table"] for row in rows if row["run_id"] is None} - known_tables
    return Comparisons(tuple(compared), tuple(sorted(others)))


def _recorded(flow: FlowAudit, own: Sequence[OwnAudit]) -> OwnAudit | None:
    """icekeeper's own audit of the flow's window, where it counted the same."""
    return next(
        (audit for audit in reversed(own) if audit.window == flow.window and counts_are_equal(flow, audit)), None
    )


async def _compared(
    services: Services, policy: TablePolicy, flow: FlowAudit, own: Sequence[OwnAudit], same: OwnAudit | None
) -> Comparison:
    night = audit_of_night(flow, own)
    if same is None:
        text = "the flow's window does not begin and end on whole hours, or its count was not made"
        return Comparison(flow, night, None, Clues(), (Explanation(Cause.UNEXPLAINED, text),))
    clues = Clues() if counts_are_equal(flow, same) else await _clues(services, policy, flow, own, same)
    assert policy.audit is not None  # it is audited
    return Comparison(flow, night, same, clues, explain(flow, same, clues, policy.audit))


async def _clues(
    services: Services, policy: TablePolicy, flow: FlowAudit, own: Sequence[OwnAudit], same: OwnAudit
) -> Clues:
    source, rules = policy.source, policy.audit
    assert source is not None and rules is not None  # noqa: PT018 - it is audited
    state = await services.ports.offload.state(source)
    written = [] if state is None else [state.at, state.last_successful_run]
    passed = any(
        audit.watermark is not None and audit.watermark >= flow.window.end and audit.run_timestamp <= flow.run_timestamp
        for audit in own
    )
    offloaded_since = not passed and any(at is not None and at > flow.run_timestamp for at in written)
    if flow.clickhouse == same.clickhouse or same.clickhouse is None:
        return Clues(offloaded_since=offloaded_since)

    async def rows(window: Window, final: bool) -> int:
        counted = await services.source.count(source, policy.timestamp, window, final, rules.limits.timeout)
        return counted.rows

    final = bool(same.ch_final)
    zone = await services.source.zone()
    shifted = window_in_zone(flow.window, zone)
    modes = () if shifted == flow.window else (False, True) if final else (False,)
    return Clues(
        unmerged=await rows(flow.window, False) if final else None,
        in_zone=tuple([await rows(shifted, mode) for mode in modes]),
        zone=zone.key,
        offloaded_since=offloaded_since,
    )


def _flow_audit(row: Mapping[str, Any]) -> FlowAudit:
    window = Window(row["window_start"], row["window_end"])
    return FlowAudit(row["table"], window, row["run_timestamp"], row["clickhouse"], row["iceberg"], row["status"])


def _own_audit(row: Mapping[str, Any]) -> OwnAudit:
    return OwnAudit(
        table=row["table"],
        window=Window(row["window_start"], row["window_end"]),
        run_timestamp=row["run_timestamp"],
        clickhouse=row["clickhouse"],
        iceberg=row["iceberg"],
        status=known(AuditStatus, row["status"]) or AuditStatus.ERROR,
        reason=known(Reason, row["reason"]),
        notes=row["notes"],
        ch_query=row["ch_query"],
        iceberg_query=row["iceberg_query"],
        ch_final=row["ch_final"],
        watermark=row["watermark"],
    )


def _counted_again(result: AuditResult) -> OwnAudit:
    return OwnAudit(
        table=result.iceberg_table,
        window=Window(result.window_start, result.window_end),
        run_timestamp=result.run_timestamp,
        clickhouse=result.ch_row_count,
        iceberg=result.iceberg_row_count,
        status=result.status,
        reason=result.reason,
        notes=result.notes,
        ch_query=result.ch_query,
        iceberg_query=result.iceberg_query,
        ch_final=result.ch_final,
        watermark=result.watermark,
    )
