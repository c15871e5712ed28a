"""Another job's audits beside icekeeper's: which to compare, counting again, and the clues. The rules: core/audit."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

from icekeeper.adapters.ledger.rows import past_audit
from icekeeper.adapters.records import from_plain
from icekeeper.core.audit.compare import (
    Cause,
    Clues,
    Comparison,
    Comparisons,
    Explanation,
    FlowAudit,
    audit_of_night,
    counts_are_equal,
    explain,
    window_in_zone,
)
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import Window
from icekeeper.core.errors import PermanentError
from icekeeper.core.policy import TablePolicy
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
    own: dict[str, list[AuditResult]] = defaultdict(list)
    flows: dict[tuple[datetime, datetime, str], FlowAudit] = {}
    for row in (rows := await services.history.audits_since(since)):
        if row["iceberg_table"] not in audited:
            continue
        if row["run_id"] is None:
            flows[row["window_start"], row["window_end"], row["iceberg_table"]] = from_plain(FlowAudit, row)
        else:
            own[row["iceberg_table"]].append(past_audit(row))
    same = {key: _recorded(flow, own[flow.iceberg_table]) for key, flow in flows.items()}
    to_count: dict[Window, list[str]] = defaultdict(list)
    now = services.ports.clock()
    for key, flow in sorted(flows.items()):
        if same[key] is None and flow.window.start < flow.window.end <= now:
            to_count[flow.window].append(flow.iceberg_table)
    for window, tables in to_count.items():
        for result in await recount(window, tuple(tables)):
            same[window.start, window.end, result.iceberg_table] = result
    compared = [
        await _compared(services, audited[flow.iceberg_table], flow, own[flow.iceberg_table], same[key])
        for key, flow in sorted(flows.items())
    ]
    known_tables = {policy.name for policy in services.settings.policies() if policy.audit is not None}
    others = {row["iceberg_table"] for row in rows if row["run_id"] is None} - known_tables
    return Comparisons(tuple(compared), tuple(sorted(others)))


def _recorded(flow: FlowAudit, own: Sequence[AuditResult]) -> AuditResult | None:
    """icekeeper's own audit of the flow's window, where it counted the same."""
    return next(
        (audit for audit in reversed(own) if audit.window == flow.window and counts_are_equal(flow, audit)), None
    )


async def _compared(
    services: Services, policy: TablePolicy, flow: FlowAudit, own: Sequence[AuditResult], same: AuditResult | None
) -> Comparison:
    night = audit_of_night(flow, own)
    if same is None:
        text = "the flow's window is not over yet or holds nothing, or its count was not made"
        return Comparison(flow, night, None, Clues(), (Explanation(Cause.UNEXPLAINED, text),))
    clues = Clues() if counts_are_equal(flow, same) else await _clues(services, policy, flow, own, same)
    assert policy.audit is not None  # it is audited
    return Comparison(flow, night, same, clues, explain(flow, same, clues, policy.audit))


async def _clues(
    services: Services, policy: TablePolicy, flow: FlowAudit, own: Sequence[AuditResult], same: AuditResult
) -> Clues:
    source, rules = policy.source, policy.audit
    assert source is not None and rules is not None  # noqa: PT018 - it is audited
    state = await services.ports.offload.state(source)
    written = [] if state is None else [state.at, state.last_successful_run]
    passed = any(
        audit.watermark is not None and audit.watermark >= flow.window.end and audit.run_timestamp <= flow.run_timestamp
        for audit in own
    )
    wrote = not passed and any(at is not None and at > flow.run_timestamp for at in written)
    offloaded_since = None if state is None else wrote

    async def rows(window: Window, final: bool) -> int | None:
        """None where the source can't be counted so."""
        try:
            counted = await services.source.count(source, window, final, rules.limits.timeout)
        except PermanentError:
            return None
        return counted.rows

    final = bool(same.ch_final)
    unmerged = await rows(flow.window, False) if final else None
    if flow.ch_row_count == same.ch_row_count or same.ch_row_count is None:
        return Clues(unmerged=unmerged, offloaded_since=offloaded_since)
    zone = await services.source.zone()
    shifted = window_in_zone(flow.window, zone)
    modes = () if shifted == flow.window else (False, True) if final else (False,)
    return Clues(
        unmerged=unmerged,
        in_zone=tuple([count for mode in modes if (count := await rows(shifted, mode)) is not None]),
        zone=zone.key,
        offloaded_since=offloaded_since,
    )
