"""Why another job's audit of a window and icekeeper's differ: the rules, from counts alone. Counting is the adapters'.

The other job is the workflow server's flow, whose rows `maintenance_audit_log` held before icekeeper adopted it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from enum import StrEnum
from fractions import Fraction

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus
from icekeeper.core.formats import minute_utc, number
from icekeeper.core.policy import AuditPolicy
from icekeeper.core.reasons import Reason

# Of so many rows without FINAL one may be left when they have merged.
_MERGED_AT_MOST = 2
_COMPLAINTS = (AuditStatus.WARNING, AuditStatus.MISSING_DATA)


class Cause(StrEnum):
    """Why two audits differ, or that they do not."""

    AGREE = "agree"
    SURPLUS = "surplus"
    UNMERGED = "unmerged"
    LATER_ROWS = "later_rows"
    ZONE = "zone"
    FLOW_FAILED = "flow_failed"
    EXPIRED = "expired"
    UNEXPLAINED = "unexplained"


@dataclass(frozen=True, slots=True)
class FlowAudit:
    """The flow's row of a table and window, its columns as in AuditResult. A count is None where there is none."""

    iceberg_table: str
    window_start: datetime
    window_end: datetime
    run_timestamp: datetime
    ch_row_count: int | None
    iceberg_row_count: int | None
    status: str

    @property
    def window(self) -> Window:
        return Window(self.window_start, self.window_end)


@dataclass(frozen=True, slots=True)
class Clues:
    """What else is known of a window whose counts differ.

    `unmerged`: ClickHouse's rows without FINAL, where the audit counts with it. `in_zone`: its rows of the window read
    in the server's `zone`, counted with and without FINAL. `offloaded_since`: the offload has written since the flow's
    audit, and was not known to have passed the window by then; None: it keeps no state of the source.
    """

    unmerged: int | None = None
    in_zone: tuple[int, ...] = ()
    zone: str = "UTC"
    offloaded_since: bool | None = False


@dataclass(frozen=True, slots=True)
class Explanation:
    cause: Cause
    text: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A row of the flow beside icekeeper's.

    `night`: icekeeper's own audit of that night, whatever its window; None where it made none. `same`: its audit of the
    flow's window; None where it could not be made.
    """

    flow: FlowAudit
    night: AuditResult | None
    same: AuditResult | None
    clues: Clues
    explanations: tuple[Explanation, ...]

    @property
    def explained(self) -> bool:
        return all(each.cause is not Cause.UNEXPLAINED for each in self.explanations)


@dataclass(frozen=True, slots=True)
class Comparisons:
    """The audits of the flow that were compared, and the tables of others that icekeeper does not audit."""

    comparisons: tuple[Comparison, ...]
    not_audited: tuple[str, ...] = ()

    @property
    def explained(self) -> bool:
        return all(each.explained for each in self.comparisons)


def audit_of_night(flow: FlowAudit, own: Iterable[AuditResult]) -> AuditResult | None:
    """The audit of icekeeper's that shares most of the flow's window, the newest of those that share as much."""
    # What a later night found of an older day is no audit of that night.
    nights = (audit for audit in own if audit.worse is None)
    shared = [(_overlap(flow.window, audit.window), audit.run_timestamp, audit) for audit in nights]
    best = max((each for each in shared if each[0] > 0), key=lambda each: each[:2], default=None)
    return None if best is None else best[2]


def _overlap(one: Window, other: Window) -> float:
    return (min(one.end, other.end) - max(one.start, other.start)).total_seconds()


def counts_are_equal(flow: FlowAudit, own: AuditResult) -> bool:
    return (flow.ch_row_count, flow.iceberg_row_count) == (own.ch_row_count, own.iceberg_row_count)


def window_in_zone(window: Window, zone: tzinfo) -> Window:
    """The window that a server of that zone counts where the bounds are written without one."""
    return Window(window.start.replace(tzinfo=zone).astimezone(UTC), window.end.replace(tzinfo=zone).astimezone(UTC))


def explain(flow: FlowAudit, same: AuditResult, clues: Clues, policy: AuditPolicy) -> tuple[Explanation, ...]:
    """Why the flow's row and icekeeper's of the same window differ. `same` was counted after the flow's row.

    The bounds keep an explanation from covering another error. Rows that came to ClickHouse alone after the flow's
    audit are no more than a warning tolerates, those that came to Iceberg no more than ClickHouse had; and rows that
    have merged since, which nothing can count any more, were no more than those that are left.
    """
    if same.ch_row_count is None or same.iceberg_row_count is None:
        return (Explanation(Cause.UNEXPLAINED, f"icekeeper could not count it: {same.notes}"),)
    if _failed(flow, same):
        text = "the flow's audit failed and wrote 0 for what it could not count; icekeeper writes NULL and error"
        return (Explanation(Cause.FLOW_FAILED, text),)
    if flow.ch_row_count is None or flow.iceberg_row_count is None:
        return (Explanation(Cause.UNEXPLAINED, "the flow's row has no counts, and no status error"),)
    to_offload = max(same.ch_row_count, flow.ch_row_count, clues.unmerged or 0)
    in_iceberg = _about_iceberg(flow, flow.iceberg_row_count, same.iceberg_row_count, clues, to_offload)
    late = Fraction(100 * (same.ch_row_count - flow.ch_row_count), max(same.ch_row_count, 1))
    may_grow = late <= Fraction(policy.warning_pct) or (in_iceberg is not None and in_iceberg.cause is Cause.LATER_ROWS)
    found = [_about_clickhouse(flow, flow.ch_row_count, same, same.ch_row_count, clues, may_grow), in_iceberg]
    explanations = [each for each in found if each is not None]
    if flow.iceberg_row_count > flow.ch_row_count and flow.status in _COMPLAINTS:
        surplus = number(flow.iceberg_row_count - flow.ch_row_count)
        text = f"Iceberg held {surplus} rows more: the flow judges the absolute share, icekeeper what is missing"
        explanations.append(Explanation(Cause.SURPLUS, text))
    if not explanations:
        explanations.append(_about_verdicts(flow, same))
    return tuple(explanations)


def _failed(flow: FlowAudit, same: AuditResult) -> bool:
    if flow.status == AuditStatus.ERROR:
        return True
    zeros = not flow.ch_row_count and not flow.iceberg_row_count
    return zeros and flow.status != AuditStatus.OK and bool(same.ch_row_count or same.iceberg_row_count)


def _about_clickhouse(
    flow: FlowAudit, theirs: int, same: AuditResult, ours: int, clues: Clues, may_grow: bool
) -> Explanation | None:
    if theirs == ours:
        return None
    unmerged, difference = clues.unmerged, number(abs(theirs - ours))
    if theirs == unmerged:
        text = f"ClickHouse: the flow counted {difference} rows that are still to be merged (without FINAL)"
        return Explanation(Cause.UNMERGED, text)
    if theirs in clues.in_zone:
        text = f"ClickHouse: the flow's window was read in the server's zone, {clues.zone}"
        return Explanation(Cause.ZONE, text)
    if theirs < ours:
        if not may_grow:
            text = f"ClickHouse holds {difference} rows more, too many to have come late to it alone"
            return Explanation(Cause.UNEXPLAINED, text)
        return _came_later("ClickHouse", flow, theirs, ours)
    if same.reason is Reason.SOURCE_EXPIRED:
        text = f"ClickHouse: its TTL has dropped {difference} rows since the flow's audit"
        return Explanation(Cause.EXPIRED, text)
    if unmerged is not None and theirs <= max(unmerged, _MERGED_AT_MOST * ours):
        text = f"ClickHouse: the flow counted without FINAL; of {difference} rows more some have been merged since"
        return Explanation(Cause.UNMERGED, text)
    return Explanation(Cause.UNEXPLAINED, f"ClickHouse holds {difference} rows less than the flow counted")


def _about_iceberg(flow: FlowAudit, theirs: int, ours: int, clues: Clues, to_offload: int) -> Explanation | None:
    """`to_offload`: the most rows that ClickHouse is known to have had."""
    if theirs == ours:
        return None
    if theirs < ours:
        more = f"Iceberg holds {number(ours - theirs)} rows more"
        if clues.offloaded_since is None:
            return Explanation(Cause.UNEXPLAINED, f"{more}, and whether the offload wrote since is not known")
        if not clues.offloaded_since:
            return Explanation(Cause.UNEXPLAINED, f"{more}, and by the offload's watermark none came since")
        if ours > to_offload:
            return Explanation(Cause.UNEXPLAINED, f"{more}, which is more than ClickHouse had to offload")
        return _came_later("Iceberg", flow, theirs, ours)
    return Explanation(Cause.UNEXPLAINED, f"Iceberg holds {number(theirs - ours)} rows less than the flow counted")


def _came_later(side: str, flow: FlowAudit, theirs: int, ours: int) -> Explanation:
    more = number(ours - theirs)
    if not theirs:
        return Explanation(Cause.UNEXPLAINED, f"{side} holds {more} rows, and the flow counted none")
    text = f"{side}: {more} rows came after the flow's audit at {minute_utc(flow.run_timestamp)}"
    return Explanation(Cause.LATER_ROWS, text)


def _about_verdicts(flow: FlowAudit, same: AuditResult) -> Explanation:
    """Of equal counts."""
    if flow.status == same.status:
        return Explanation(Cause.AGREE, "")
    if same.reason is Reason.SOURCE_EXPIRED:
        return Explanation(Cause.EXPIRED, "the counts are equal; by now the source's TTL may have dropped rows")
    text = (
        "the counts are equal, the verdicts are not: compare the flow's limits with audit.warning_pct and missing_pct"
    )
    return Explanation(Cause.UNEXPLAINED, text)
