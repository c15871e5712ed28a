"""Older days that are audited again: which, and what their new verdict means for the night. Counting is the night's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from icekeeper.core.audit.evidence import evidence
from icekeeper.core.audit.findings import missing_rows
from icekeeper.core.audit.records import AuditResult, SourceCount
from icekeeper.core.audit.verdict import SEVERITY
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Proof
from icekeeper.core.policy import AuditPolicy, TablePolicy
from icekeeper.core.reasons import Reason

_DAY = timedelta(days=1)
# From here on verdicts are of rows that are lost.
_LOSSES = SEVERITY.index(AuditStatus.MISSING_DATA)


def older_days(tables: Iterable[TablePolicy], window: Window) -> Iterator[tuple[TablePolicy, Window]]:
    """The days before a night's own that each table's audit looks back at.

    The oldest days of all tables come first: the next night does not come back to them.
    """
    days = [(policy, policy.audit.lookback // _DAY) for policy in tables if policy.audit is not None]
    for back in range(max((most for _, most in days), default=0), 0, -1):
        day = Window(window.start - back * _DAY, window.end - back * _DAY)
        yield from ((policy, day) for policy, most in days if back <= most)


def has_expired(day: Window, now: datetime, keeps: timedelta | None) -> bool:
    """Whether the source, which `keeps` rows so long (None: not known), may have dropped some of the day."""
    return keeps is not None and day.start < now - keeps


def is_left_alone(now: AuditResult, before: AuditResult | None) -> bool:
    """Whether an older day keeps the verdict and certificate it has, or its having none.

    The source has dropped rows of it, or a side could not be counted now; or ClickHouse holds no row of it any more,
    and the ledger has a verdict.
    """
    keeps = None if now.source_ttl_s is None else timedelta(seconds=now.source_ttl_s)
    if now.reason is Reason.SOURCE_EXPIRED or has_expired(now.window, now.run_timestamp, keeps):
        return True
    return _severity(now) is None and (before is not None or now.status is AuditStatus.ERROR)


def is_worse(now: AuditResult, before: AuditResult | None) -> bool:
    """Whether a day's new verdict is worse than the one that the ledger has of it; a first one: whether it is not ok.

    From the mildest on: ok, a warning, missing rows, bad files; of both of the last more rows are worse than fewer,
    also where bad files have become missing rows. What revokes a certificate is worse than what did not,
    whatever the settings tolerate. An audit that could not count is no verdict.
    """
    found, known = _severity(now), None if before is None else _severity(before)
    if found is None:
        return False
    if before is None or known is None:
        return now.status is not AuditStatus.OK
    lost = found[0] >= _LOSSES <= known[0] and found[1] > known[1]
    return found > known or lost or (_revokes(now) and not _revokes(before))


def _revokes(audit: AuditResult) -> bool:
    return any(day.revokes is not None for day in evidence(audit))


def _severity(audit: AuditResult) -> tuple[int, int] | None:
    """None where the audit says nothing of the day."""
    rows = 0
    if audit.status is AuditStatus.ERROR:
        if audit.bad_file_rows is None:
            return None
        rows = audit.bad_file_rows
    elif audit.reason is Reason.SOURCE_EMPTY:
        return None
    elif audit.status is AuditStatus.MISSING_DATA:
        keys = 0 if audit.key_comparison is None else audit.key_comparison.missing or 0
        rows = max(-(audit.delta or 0), missing_rows(audit.findings), keys)
    return SEVERITY.index(audit.status), rows


def may_be_reused(before: AuditResult, warm: SourceCount, rules: AuditPolicy) -> bool:
    """Whether what Iceberg held at the last audit is still what to compare with, where the day's files are the same.

    Both sides were equal by the same rules, and ClickHouse has the very rows that it had.
    """
    if before.status is not AuditStatus.OK or before.findings or before.delta != 0:
        return False
    if rules.proof is Proof.ROWS and before.proof is not Proof.ROWS:
        return False
    if (before.ch_query, before.ch_row_count, before.ch_final) != (warm.query, warm.rows, warm.final):
        return False
    compared = before.key_comparison
    if rules.keys is None or compared is None:
        return rules.keys is None and compared is None
    # Of a source that merges rows the fingerprint is not of the very rows, and perhaps of a part of the keys.
    same_key = (compared.columns, compared.compare) == (rules.keys.columns, rules.keys.compare)
    if not same_key or compared.distinct or not compared.equal or warm.fingerprint is None:
        return False
    return compared.fingerprint == warm.fingerprint.text
