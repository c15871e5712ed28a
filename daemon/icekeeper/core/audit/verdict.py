"""Judging: what two counts mean, and what the tasks of a run add up to. Counting lives in the adapters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from icekeeper.core.audit.records import MissingHour, Verdict, Watermark
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome
from icekeeper.core.policy import AuditPolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import StageResult

_FAILING = frozenset({AuditStatus.MISSING_DATA, AuditStatus.ERROR})


def judge(
    *,
    clickhouse: int,
    iceberg: int,
    window: Window,
    now: datetime,
    policy: AuditPolicy,
    source_ttl: timedelta | None = None,
    watermark: Watermark | None = None,
) -> Verdict:
    """The verdict table of docs/operations.md, on whole numbers of rows.

    Raises ValueError for negative counts.
    """
    if clickhouse < 0 or iceberg < 0:
        raise ValueError(f"counts are never negative: clickhouse {clickhouse}, iceberg {iceberg}")
    delta = iceberg - clickhouse
    delta_pct = percent(delta, clickhouse)
    status, reason, notes = _compare(clickhouse, iceberg, policy)
    if watermark is not None and watermark.at < window.end:
        reason = Reason.OFFLOAD_BEHIND
        notes.append(f"the offload's watermark {watermark.at:%Y-%m-%dT%H:%M:%SZ} lies before the window's end")
    if source_ttl is not None and window.start < now - source_ttl:
        status, reason = AuditStatus.ERROR, Reason.SOURCE_EXPIRED
        notes.insert(0, f"the window begins before {now - source_ttl:%Y-%m-%dT%H:%M:%SZ}, what the source's TTL keeps")
    return Verdict(status, reason, delta, delta_pct, "; ".join(notes))


def percent(delta: int, clickhouse: int) -> Decimal | None:
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
    # Exact, because -1 % and -5 % themselves belong to the milder side: Fraction compares by whole numbers.
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


def fold(tasks: Iterable[StageResult], audits: Iterable[AuditStatus]) -> RunOutcome:
    """What the tasks and audits of a run that came to its end add up to. `held` and `skipped` never lower it."""
    tasks = tuple(tasks)
    failed = [task for task in tasks if task.outcome is TaskOutcome.FAILED]
    audit_ran = any(task.stage is Stage.AUDIT for task in tasks)
    if audit_ran:
        if any(status in _FAILING for status in audits) or any(task.stage is Stage.AUDIT for task in failed):
            return RunOutcome.FAILED
        return RunOutcome.PARTIAL if failed else RunOutcome.SUCCESS
    if not failed:
        return RunOutcome.SUCCESS
    return RunOutcome.FAILED if len(failed) == len(tasks) else RunOutcome.PARTIAL
