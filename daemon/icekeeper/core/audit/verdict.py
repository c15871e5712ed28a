"""The verdict of an audit: what the two counts of a window mean. Counting lives in the adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from fractions import Fraction

from icekeeper.core.audit.records import FindingKind, KeyComparison, MissingHour, SourceTtl, Verdict
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


# From the mildest on.
SEVERITY = (AuditStatus.OK, AuditStatus.WARNING, AuditStatus.MISSING_DATA, AuditStatus.ERROR)


def judge_keys(verdict: Verdict, keys: KeyComparison, policy: AuditPolicy) -> Verdict:
    """The verdict of the counts and the one of the keys together: the worse of the two.

    Missing keys are judged by their share of ClickHouse's, like missing rows; where not all could be explored, by the
    share that was found in the explored part. Duplicate rows and changed values are a warning, and so is whatever could
    not be explored: it may hide them. Keys that only Iceberg has are noted.
    """
    note = f"{verdict.note}; {_key_note(keys)}"
    if keys.equal:
        return replace(verdict, note=note)
    unknown = keys.missing is None or keys.unexplored > 0
    differs = bool(keys.duplicate or keys.changed)
    found = _status(Fraction(missing_keys(keys), keys.clickhouse), policy) if keys.clickhouse else AuditStatus.OK
    status = max(
        verdict.status, found, AuditStatus.WARNING if differs or unknown else AuditStatus.OK, key=SEVERITY.index
    )
    reason = Reason.CONTENT_MISMATCH if differs and verdict.status is not AuditStatus.ERROR else verdict.reason
    return replace(verdict, status=status, reason=reason, note=note)


def judge_missing(verdict: Verdict, missing: int, clickhouse: int, policy: AuditPolicy) -> Verdict:
    """The worse of the verdict and that of rows that are missing by the minute: a surplus elsewhere hides none."""
    found = _status(Fraction(missing, clickhouse), policy)
    if SEVERITY.index(found) <= SEVERITY.index(verdict.status):
        return verdict
    return replace(verdict, status=found, note=f"{verdict.note}; by the minute it lacks {missing} of {clickhouse} rows")


def judge_surplus(
    verdict: Verdict, clickhouse: int, iceberg: int, policy: AuditPolicy, *, merges: bool, keys: KeyComparison | None
) -> Verdict:
    """The verdict of everything else, and a surplus of Iceberg's that is larger than `surplus_pct` allows.

    It is noted beside what is worse. Where the source merges rows (`merges`) Iceberg may rightly hold more, and where
    the keys are equal none is there twice.
    """
    if policy.surplus_pct is None or not clickhouse or merges or (keys is not None and keys.equal):
        return verdict
    if verdict.status is AuditStatus.ERROR or 100 * (iceberg - clickhouse) <= Fraction(policy.surplus_pct) * clickhouse:
        return verdict
    note = f"{verdict.note}; the surplus is more than audit.surplus_pct ({policy.surplus_pct:f} %)"
    if verdict.status is not AuditStatus.OK:
        return replace(verdict, note=note)
    return replace(verdict, status=AuditStatus.WARNING, reason=Reason.CONTENT_MISMATCH, note=note)


def missing_keys(keys: KeyComparison) -> Fraction:
    """How many keys are missing; where some could not be explored, by what was found among those that were."""
    at_least = Fraction(max(keys.clickhouse - keys.iceberg, 0))
    if not keys.missing:
        return at_least
    return max(at_least, keys.missing * Fraction(keys.explored + keys.unexplored, keys.explored))


def _key_note(keys: KeyComparison) -> str:
    what = "distinct keys" if keys.distinct else "keys"
    if keys.sample is not None:
        what = f"{what} of one {keys.sample[1]}th of all"
    by = f"by {', '.join(keys.columns)}" + (f" with {', '.join(keys.compare)}" if keys.compare else "")
    if keys.equal:
        return f"{what} equal {by}"
    if keys.missing is None:
        return f"{what} differ {by}, and which of them could not be found out"
    found = {each: getattr(keys, each.value) for each in _WORDS}
    parts = [f"{rows} {_WORDS[difference]}" for difference, rows in found.items() if rows]
    note = f"{what} differ {by}: {', '.join(parts) or 'no difference is left when they are read again'}"
    if keys.unexplored:
        note = f"{note}, among {keys.explored} rows; {keys.unexplored} rows more were not explored (audit.drill_rows)"
    return note


_WORDS = {
    FindingKind.MISSING: "missing",
    FindingKind.EXTRA: "in Iceberg only",
    FindingKind.DUPLICATE: "duplicate",
    FindingKind.CHANGED: "changed",
}


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
    status = _status(Fraction(missing, clickhouse), policy)
    return status, None, [f"iceberg lacks {missing} of {clickhouse} rows"]


def _status(missing: Fraction, policy: AuditPolicy) -> AuditStatus:
    """By the share that is missing. Exactly 1 % or 5 % belongs to the milder side: Fraction compares exactly."""
    if 100 * missing > Fraction(policy.missing_pct):
        return AuditStatus.MISSING_DATA
    if 100 * missing > Fraction(policy.warning_pct):
        return AuditStatus.WARNING
    return AuditStatus.OK


def missing_hours(clickhouse: Mapping[datetime, int], iceberg: Mapping[datetime, int]) -> tuple[MissingHour, ...]:
    """The hours (by their starts) that hold fewer rows in Iceberg than in ClickHouse, in order."""
    return tuple(
        MissingHour(hour, rows, iceberg.get(hour, 0))
        for hour, rows in sorted(clickhouse.items())
        if iceberg.get(hour, 0) < rows
    )
