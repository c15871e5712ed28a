"""What an audit says for the certificate of a UTC day, or against it. Pure; docs/audit.md.

In which order audits count, whenever they reach the ledger: the view maintenance_certificates.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, time, timedelta
from enum import StrEnum
from itertools import groupby

from icekeeper.core.audit.certificates import Certificate, CertifiedBy, CertifiedDay, Uncertified
from icekeeper.core.audit.findings import missing_rows
from icekeeper.core.audit.records import AuditResult, FindingKind, KeyComparison
from icekeeper.core.audit.verdict import missing_keys
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, Proof
from icekeeper.core.reasons import Reason

# Beside the names of columns: it is none.
EACH_ROW = "*"
_DAY = timedelta(days=1)
_PROVEN = frozenset({Proof.FILES, Proof.ROWS})


class RefutedBy(StrEnum):
    """What a later audit has to rest on so that it may certify a day of which an earlier one found something."""

    COUNTS = "counts"
    KEYS = "keys"
    ROWS = "rows"  # the proof


@dataclass(frozen=True, slots=True)
class Evidence:
    """What an audit says for a certificate of a day, or against one.

    `revokes`: missing_rows, changed_rows or bad_files, and what may refute that. `compared`: the columns whose values
    were compared by keys, and EACH_ROW where not only distinct keys were: an audit by fewer refutes nothing.
    `ch_row_count`: of an audit against it only where ClickHouse, which merges no rows, held so many of the very day:
    from fewer nothing can be refuted.
    """

    day: date
    certifies: CertifiedBy | None = None
    revokes: Uncertified | None = None
    refuted_by: RefutedBy | None = None
    compared: tuple[str, ...] = ()
    ch_row_count: int | None = None


def certified_day(table: str, day: date, audit: AuditResult | None, certificate: Certificate | None) -> CertifiedDay:
    """A day by its newest certificate, and by its newest audit that could tell anything."""
    if certificate is not None and certificate.revoked_at is None:
        why = None
    elif certificate is not None:
        why = Uncertified.REVOKED
    else:
        why = Uncertified.NOT_AUDITED if audit is None else uncertified(audit) or Uncertified.FINDING_OPEN
    if audit is None:
        return CertifiedDay(table, day, certificate, why)
    confirmed = _certified_by(audit) if uncertified(audit) is None else None
    return CertifiedDay(table, day, certificate, why, audit.run_timestamp, audit.run_id, confirmed)


def with_skipped(days: Iterable[CertifiedDay], until: date) -> tuple[CertifiedDay, ...]:
    """Days by table, newest first, with those after a table's first one, to `until`, that no audit has seen."""
    filled: list[CertifiedDay] = []
    for table, known in groupby(days, key=lambda day: day.table):
        by_day = {each.day: each for each in known}
        day, oldest = max(until, *by_day), min(by_day)
        while day >= oldest:
            filled.append(by_day.get(day) or certified_day(table, day, None, None))
            day -= timedelta(days=1)
    return tuple(filled)


def evidence(audit: AuditResult) -> tuple[Evidence, ...]:
    """What an audit says for or against certificates, by day; nothing where it could not tell."""
    if uncertified(audit) is None:
        day = audit.window_start.date()
        return (Evidence(day, _certified_by(audit), compared=_compared(audit), ch_row_count=audit.ch_row_count),)
    # The milder first: of a day that has both, the worse stays.
    found = {day: reason for reason, part in sorted(_against(audit), key=_severity) for day in _days(part)}
    refuted_by, compared = _refuted_by(audit), _compared(audit)
    rows = audit.ch_row_count if _is_a_day(audit.window) and audit.ch_merges is False else None
    return tuple(Evidence(day, None, reason, refuted_by, compared, rows) for day, reason in sorted(found.items()))


def uncertified(audit: AuditResult) -> Uncertified | None:
    """Why an audit certifies no day, None where it does certify its own. Other audits are not considered."""
    if not _is_a_day(audit.window):
        return Uncertified.NOT_A_DAY
    if audit.status is AuditStatus.ERROR or audit.ch_row_count is None or audit.iceberg_row_count is None:
        return Uncertified.ERROR if audit.bad_file_rows is None else Uncertified.BAD_FILES
    if audit.reason is Reason.SOURCE_EMPTY:
        return Uncertified.SOURCE_EMPTY
    if _rows(audit, FindingKind.MISSING):
        return Uncertified.MISSING_ROWS
    if _rows(audit, FindingKind.CHANGED):
        return Uncertified.CHANGED_ROWS
    if audit.ch_merges is None:
        return Uncertified.AUDITED_BEFORE
    if not audit.clock_right:
        return Uncertified.CLOCK_SKEW
    return _unsettled(audit) or _unequal(audit, merges=audit.ch_merges)


def _unsettled(audit: AuditResult) -> Uncertified | None:
    """Rows may still come, or files were not proven."""
    if not audit.watermark_read:
        return Uncertified.WATERMARK_UNKNOWN
    if audit.watermark is not None and audit.watermark < audit.window_end:
        return Uncertified.BEHIND_WATERMARK
    return None if audit.proof in _PROVEN else Uncertified.NOT_PROVEN


def _unequal(audit: AuditResult, *, merges: bool) -> Uncertified | None:
    if audit.key_comparison is not None:
        if not audit.key_comparison.equal:
            return Uncertified.KEYS_DIFFER
        # Where ClickHouse merges rows their number proves nothing.
        return None if audit.key_comparison.sample is None else Uncertified.KEYS_SAMPLED
    if merges:
        return Uncertified.NO_KEY
    return None if audit.ch_row_count == audit.iceberg_row_count else Uncertified.SURPLUS


def _certified_by(audit: AuditResult) -> CertifiedBy:
    return CertifiedBy.COUNTS if audit.key_comparison is None else CertifiedBy.KEYS


def _rows(audit: AuditResult, kind: FindingKind) -> bool:
    """Whether rows are missing or changed, by any way of comparing."""
    if any(finding.kind is kind and finding.rows for finding in audit.findings):
        return True
    compared = audit.key_comparison
    if kind is FindingKind.MISSING:
        return (audit.delta or 0) < 0 or (compared is not None and missing_keys(compared) > 0)
    return compared is not None and (bool(compared.changed) or _surely_differ(compared))


def _surely_differ(compared: KeyComparison) -> bool:
    """Whether keys that were not all explored are lost or changed: they differ, and what was found more of in Iceberg
    explains all that it holds more."""
    explored = compared.missing is not None and not compared.unexplored
    more = (compared.extra or 0) + (compared.duplicate or 0) - (compared.missing or 0)
    return not compared.equal and not explored and compared.iceberg - compared.clickhouse <= more


def _compared(audit: AuditResult) -> tuple[str, ...]:
    compared = audit.key_comparison
    if compared is None:
        return ()
    return (*compared.columns, *compared.compare, *(() if compared.distinct else (EACH_ROW,)))


def _refuted_by(audit: AuditResult) -> RefutedBy:
    """What may refute what the audit found: what it found it by, or something stronger."""
    if audit.status is AuditStatus.ERROR:
        # Files that their footers have shown to be bad are named. What only reading has met, footers don't show.
        return RefutedBy.COUNTS if audit.bad_files else RefutedBy.ROWS
    if audit.key_comparison is not None and not audit.key_comparison.equal:
        return RefutedBy.KEYS
    # Where some minutes have a surplus the total may become right while rows are missing in others.
    return RefutedBy.COUNTS if missing_rows(audit.findings) <= -(audit.delta or 0) else RefutedBy.KEYS


def _against(audit: AuditResult) -> Iterator[tuple[Uncertified, Window]]:
    """Parts of the window whose rows are missing, changed or in bad files; a source that has expired says nothing."""
    if audit.status is AuditStatus.ERROR:
        if audit.bad_file_rows is not None:
            yield from _found(audit, FindingKind.FILE, Uncertified.BAD_FILES, FindingKind.DUPLICATE)
        return
    if audit.ch_row_count is None or audit.iceberg_row_count is None or audit.reason is Reason.SOURCE_EMPTY:
        return
    for kind, reason in (
        (FindingKind.MISSING, Uncertified.MISSING_ROWS),
        (FindingKind.CHANGED, Uncertified.CHANGED_ROWS),
    ):
        if _rows(audit, kind):
            yield from _found(audit, kind, reason)


def _found(
    audit: AuditResult, kind: FindingKind, reason: Uncertified, *more: FindingKind
) -> Iterator[tuple[Uncertified, Window]]:
    """When they were found; the whole window where no finding says.

    Of what was found somewhere in several days the days that the offload had come to the end of: in others it may be to
    come.
    """
    parts = [Window(finding.start, finding.end) for finding in audit.findings if finding.kind in (kind, *more)]
    for part in parts or [audit.window]:
        anywhere = part == audit.window and len([*_days(part)]) > 1
        if kind is FindingKind.FILE or not anywhere or audit.watermark is None:
            yield reason, part
            continue
        reached = audit.watermark.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        if part.start < (end := min(reached, part.end) if audit.watermark < part.end else part.end):
            yield reason, Window(part.start, end)


def _severity(found: tuple[Uncertified, Window]) -> bool:
    return found[0] is not Uncertified.CHANGED_ROWS


def _is_a_day(window: Window) -> bool:
    return window.end - window.start == _DAY and window.start.astimezone(UTC).time() == time()


def _days(part: Window) -> Iterator[date]:
    """The UTC days that it has any of."""
    day, last = part.start.astimezone(UTC).date(), (part.end - timedelta.resolution).astimezone(UTC).date()
    while day <= last:
        yield day
        day += _DAY
