"""The verdict of an audit: what the two counts of a window mean. Counting lives in the adapters."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from icekeeper.core.audit.records import MissingHour, SourceTtl, Verdict
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus
from icekeeper.core.formats import iso_second
from icekeeper.core.policy import AuditPolicy
from icekeeper.core.reasons import Reason


def judge(
    *,
    clickhouse: int,
    iceberg: int,
    window: Window,
    now: datetime,
    policy: AuditPolicy,
    source_ttl: SourceTtl | None = None,
    watermark: datetime | None = None,
    newest: datetime | None = None,
) -> Verdict:
    """The verdict table of docs/operations.md, on whole numbers of rows.

    `newest`: the event time of the source's newest row of the window, needed where the watermark lies before the
    window's end. Raises ValueError for negative counts.
    """
    if clickhouse < 0 or iceberg < 0:
        raise ValueError(f"counts are never negative: clickhouse {clickhouse}, iceberg {iceberg}")
    delta = iceberg - clickhouse
    delta_pct = delta_percent(delta, clickhouse)
    status, reason, notes = _compare(clickhouse, iceberg, policy)
    # Not the window's end: the watermark is the newest row that was offloaded, of candles the start of the newest one.
    if watermark is not None and newest is not None and watermark < newest:
        reason = Reason.OFFLOAD_BEHIND
        notes.append(
            f"the offload's watermark {iso_second(watermark)} lies before the window's newest row, "
            f"{iso_second(newest)}: rows are still to be offloaded"
        )
    # Also where the TTL counts from another column: a row is ingested after its event, so it lives at least as long.
    if source_ttl is not None and window.start < now - source_ttl.least:
        status, reason = AuditStatus.ERROR, Reason.SOURCE_EXPIRED
        kept = iso_second(now - source_ttl.least)
        notes.insert(0, f"the window begins before {kept}, what the source's TTL keeps ({source_ttl})")
    return Verdict(status, reason, delta, delta_pct, "; ".join(notes))


def delta_percent(delta: int, clickhouse: int) -> Decimal | None:
    """100 * delta / clickhouse to four places, None where clickhouse is 0. For reading, not for judging."""
    if clickhouse == 0:
        return None
    exact = Fraction(100 * delta, clickhouse)
    return Decimal(round(exact * 10_000)) / 10_000


def _compare(clickhouse: int, iceberg: int, policy: AuditPolicy) -> tuple[AuditStatus, Reason | None, list[str]]:
    missing = clickhouse - iceberg
    if clickhouse == 0:
        surplus = f", iceberg {iceberg}" if iceberg else ""
        return AuditStatus.OK, Reason.SOURCE_EMPTY, [f"clickhouse holds no row of the window{surplus}"]
    if missing <= 0:
        if missing == 0:
            return AuditStatus.OK, None, ["equal"]
        return AuditStatus.OK, None, [f"iceberg holds {-missing} rows more"]
    # A loss of exactly 1 % or 5 % belongs to the milder side: Fraction compares exactly.
    share = Fraction(100 * missing, clickhouse)
    note = f"iceberg lacks {missing} of {clickhouse} rows"
    if share > Fraction(policy.missing_pct):
        return AuditStatus.MISSING_DATA, None, [note]
    if share > Fraction(policy.warning_pct):
        return AuditStatus.WARNING, None, [note]
    return AuditStatus.OK, None, [note]


def missing_hours(clickhouse: Mapping[datetime, int], iceberg: Mapping[datetime, int]) -> tuple[MissingHour, ...]:
    """The hours (by their starts) that hold fewer rows in Iceberg than in ClickHouse, in order."""
    return tuple(
        MissingHour(hour, rows, iceberg.get(hour, 0))
        for hour, rows in sorted(clickhouse.items())
        if iceberg.get(hour, 0) < rows
    )
