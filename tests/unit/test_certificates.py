"""Which audits certify a day, by what, and which days an audit speaks against."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from icekeeper.core.audit.certificates import (
    Certificate,
    CertifiedBy,
    CertifiedDay,
    Uncertified,
)
from icekeeper.core.audit.evidence import EACH_ROW, RefutedBy, certified_day, evidence, uncertified, with_skipped
from icekeeper.core.audit.records import BadFile, FileFault, Finding, FindingKind, KeyComparison
from icekeeper.core.enums import AuditStatus, Proof
from icekeeper.core.reasons import Reason
from tests.unit.reports import AUDIT

START = datetime(2026, 2, 17, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
THE_16TH, THE_17TH, THE_18TH = (date(2026, 2, day) for day in (16, 17, 18))
EQUAL = KeyComparison(("id",), (), distinct=False, clickhouse=1000, iceberg=1000, equal=True, fingerprint="ab")
DISTINCT = replace(EQUAL, distinct=True)
SAMPLED = replace(DISTINCT, sample=(3, 8))
COUNTED = replace(
    AUDIT,
    window_start=START,
    window_end=START + DAY,
    ch_row_count=1000,
    iceberg_row_count=1000,
    delta=0,
    status=AuditStatus.OK,
    missing_hours=(),
    proof=Proof.FILES,
    watermark=START + DAY,
    watermark_read=True,
    ch_merges=False,
    clock_right=True,
)


def found(kind: FindingKind, start: datetime = START, end: datetime = START + HOUR, rows: int = 5) -> Finding:
    return Finding(kind, start, end, rows)


def surplus(rows: int) -> dict[str, Any]:
    return {"iceberg_row_count": 1000 + rows, "delta": rows}


MISSING, CHANGED, EXTRA = (found(kind) for kind in (FindingKind.MISSING, FindingKind.CHANGED, FindingKind.EXTRA))


@pytest.mark.parametrize(
    ("changes", "by"),
    [
        ({}, CertifiedBy.COUNTS),
        ({"proof": Proof.ROWS}, CertifiedBy.COUNTS),
        ({"watermark": None}, CertifiedBy.COUNTS),
        ({"watermark": START + 2 * DAY}, CertifiedBy.COUNTS),
        ({"key_comparison": EQUAL}, CertifiedBy.KEYS),
        # A source that merges rows, of which Iceberg may rightly hold more.
        ({"ch_merges": True, "key_comparison": DISTINCT, **surplus(7)}, CertifiedBy.KEYS),
    ],
)
def test_a_whole_proven_day_without_a_missing_row_is_certified(changes: dict[str, Any], by: CertifiedBy) -> None:
    audit = replace(COUNTED, **changes)
    assert uncertified(audit) is None
    assert [(one.day, one.certifies, one.revokes) for one in evidence(audit)] == [(THE_17TH, by, None)]


UNCOUNTED: dict[str, Any] = {
    "status": AuditStatus.ERROR,
    "ch_row_count": None,
    "iceberg_row_count": None,
    "delta": None,
}
ONE_PERCENT: dict[str, Any] = {"iceberg_row_count": 990, "delta": -10}
DIFFERING = replace(EQUAL, equal=False, explored=1000)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"window_start": START + HOUR}, Uncertified.NOT_A_DAY),
        ({"window_start": START + HOUR, "window_end": START + DAY + HOUR}, Uncertified.NOT_A_DAY),
        ({"window_end": START + 2 * DAY}, Uncertified.NOT_A_DAY),
        ({**UNCOUNTED, "reason": Reason.SOURCE_DOWN}, Uncertified.ERROR),
        ({"status": AuditStatus.ERROR, "reason": Reason.SOURCE_EXPIRED}, Uncertified.ERROR),
        ({**UNCOUNTED, "reason": Reason.FILE_MISSING, "bad_file_rows": 0}, Uncertified.BAD_FILES),
        ({"ch_row_count": 0, "reason": Reason.SOURCE_EMPTY, **surplus(9)}, Uncertified.SOURCE_EMPTY),
        (ONE_PERCENT, Uncertified.MISSING_ROWS),
        ({**ONE_PERCENT, "status": AuditStatus.WARNING}, Uncertified.MISSING_ROWS),
        # Missing by the minute, and a surplus elsewhere.
        ({**surplus(3), "findings": (MISSING, EXTRA)}, Uncertified.MISSING_ROWS),
        ({"key_comparison": replace(DIFFERING, missing=4, duplicate=4)}, Uncertified.MISSING_ROWS),
        ({"key_comparison": replace(DIFFERING, changed=4)}, Uncertified.CHANGED_ROWS),
        ({"ch_merges": None}, Uncertified.AUDITED_BEFORE),
        ({"watermark": START + DAY - HOUR}, Uncertified.BEHIND_WATERMARK),
        ({"watermark": None, "watermark_read": False}, Uncertified.WATERMARK_UNKNOWN),
        ({"clock_right": False}, Uncertified.CLOCK_SKEW),
        ({"proof": Proof.MANIFESTS}, Uncertified.NOT_PROVEN),
        ({"proof": Proof.LENGTHS}, Uncertified.NOT_PROVEN),
        ({"ch_merges": True}, Uncertified.NO_KEY),
        ({"ch_merges": True, "key_comparison": SAMPLED, **surplus(7)}, Uncertified.KEYS_SAMPLED),
        ({"key_comparison": replace(DIFFERING, extra=4), **surplus(4)}, Uncertified.KEYS_DIFFER),
        # Which keys differ is not known, and Iceberg holds no more rows: some are lost, or changed.
        ({"key_comparison": replace(DIFFERING, missing=None)}, Uncertified.CHANGED_ROWS),
        ({"key_comparison": replace(DIFFERING, explored=10, unexplored=990)}, Uncertified.CHANGED_ROWS),
        ({"key_comparison": replace(DIFFERING, missing=None, iceberg=990)}, Uncertified.MISSING_ROWS),
        ({"key_comparison": replace(DIFFERING, missing=None, iceberg=1010)}, Uncertified.KEYS_DIFFER),
        # It found more surplus than there is in all: what was not explored lacks rows.
        ({"key_comparison": replace(DIFFERING, extra=5, unexplored=990, iceberg=1003)}, Uncertified.CHANGED_ROWS),
        ({"key_comparison": replace(DIFFERING, extra=5, unexplored=990, iceberg=1006)}, Uncertified.KEYS_DIFFER),
        ({**surplus(1), "findings": (EXTRA,)}, Uncertified.SURPLUS),
    ],
)
def test_why_an_audit_does_not_certify_its_day(changes: dict[str, Any], why: Uncertified) -> None:
    assert uncertified(replace(COUNTED, **changes)) is why


LATE: dict[str, Any] = {"window_start": START - HOUR, "window_end": START + HOUR}


@pytest.mark.parametrize(
    ("changes", "against"),
    [
        (ONE_PERCENT, {THE_17TH: Uncertified.MISSING_ROWS}),
        ({**ONE_PERCENT, "proof": Proof.MANIFESTS, "ch_merges": None}, {THE_17TH: Uncertified.MISSING_ROWS}),
        ({**surplus(3), "findings": (MISSING, EXTRA)}, {THE_17TH: Uncertified.MISSING_ROWS}),
        ({"findings": (CHANGED,)}, {THE_17TH: Uncertified.CHANGED_ROWS}),
        ({"findings": (CHANGED, MISSING)}, {THE_17TH: Uncertified.MISSING_ROWS}),
        ({**UNCOUNTED, "bad_file_rows": 7}, {THE_17TH: Uncertified.BAD_FILES}),
        # A window of any kind speaks against the days in which something was found.
        ({**ONE_PERCENT, **LATE}, {THE_16TH: Uncertified.MISSING_ROWS, THE_17TH: Uncertified.MISSING_ROWS}),
        ({**ONE_PERCENT, **LATE, "findings": (MISSING,)}, {THE_17TH: Uncertified.MISSING_ROWS}),
        (
            {"window_end": START + 2 * DAY, "findings": (replace(MISSING, end=START + DAY),)},
            {THE_17TH: Uncertified.MISSING_ROWS},
        ),
        (
            {
                "window_end": START + 2 * DAY,
                "findings": (MISSING, found(FindingKind.CHANGED, START + DAY, START + 2 * DAY)),
            },
            {THE_17TH: Uncertified.MISSING_ROWS, THE_18TH: Uncertified.CHANGED_ROWS},
        ),
        ({"key_comparison": replace(DIFFERING, missing=None)}, {THE_17TH: Uncertified.CHANGED_ROWS}),
        ({"key_comparison": replace(DIFFERING, missing=None, iceberg=990)}, {THE_17TH: Uncertified.MISSING_ROWS}),
        # Of several days as a whole it is not known which; rows of the last may be to come.
        ({**ONE_PERCENT, **LATE, "watermark": START - HOUR}, {}),
        ({**ONE_PERCENT, **LATE, "watermark": START}, {THE_16TH: Uncertified.MISSING_ROWS}),
        (
            {
                **ONE_PERCENT,
                "window_start": START - DAY,
                "window_end": START + 2 * DAY,
                "watermark": START + DAY + HOUR,
            },
            {THE_16TH: Uncertified.MISSING_ROWS, THE_17TH: Uncertified.MISSING_ROWS},
        ),
        ({**ONE_PERCENT, **LATE, "watermark": START, "findings": (MISSING,)}, {THE_17TH: Uncertified.MISSING_ROWS}),
        ({**ONE_PERCENT, "watermark": START}, {THE_17TH: Uncertified.MISSING_ROWS}),
        # These say nothing about the rows.
        ({**UNCOUNTED, "reason": Reason.SOURCE_DOWN}, {}),
        ({**ONE_PERCENT, "status": AuditStatus.ERROR, "reason": Reason.SOURCE_EXPIRED}, {}),
        ({"ch_row_count": 0, "reason": Reason.SOURCE_EMPTY, **surplus(9)}, {}),
        ({**surplus(1), "findings": (EXTRA,)}, {}),
        ({"key_comparison": replace(DIFFERING, missing=None, iceberg=1010)}, {}),
        ({"key_comparison": replace(DIFFERING, extra=4)}, {}),
        ({"key_comparison": replace(DIFFERING, duplicate=4), **surplus(4)}, {}),
        ({"watermark": START}, {}),
        ({"proof": Proof.MANIFESTS}, {}),
        ({"window_start": START + HOUR}, {}),
    ],
)
def test_only_rows_found_missing_or_changed_and_bad_files_speak_against_a_day(
    changes: dict[str, Any], against: dict[date, Uncertified]
) -> None:
    said = evidence(replace(COUNTED, **changes))
    assert {one.day: one.revokes for one in said} == against
    assert all(one.certifies is None for one in said)


BAD_FILE = BadFile("s3://w/a.parquet", "day=17", "data", FileFault.MISSING, 10, 1000)
UNREADABLE: dict[str, Any] = {**UNCOUNTED, "reason": Reason.FILE_CORRUPT, "bad_file_rows": 0}


@pytest.mark.parametrize(
    ("changes", "refuted_by"),
    [
        (ONE_PERCENT, RefutedBy.COUNTS),
        ({**ONE_PERCENT, "findings": (found(FindingKind.MISSING, rows=10),)}, RefutedBy.COUNTS),
        # Rows are missing in some minutes, and more than that by the total: it may become right without them.
        ({**surplus(3), "findings": (MISSING, EXTRA)}, RefutedBy.KEYS),
        ({**ONE_PERCENT, "findings": (found(FindingKind.MISSING, rows=15), EXTRA)}, RefutedBy.KEYS),
        ({"key_comparison": replace(DIFFERING, changed=1)}, RefutedBy.KEYS),
        ({**ONE_PERCENT, "key_comparison": replace(DIFFERING, missing=10)}, RefutedBy.KEYS),
        ({**UNREADABLE, "bad_files": (BAD_FILE,), "bad_file_rows": 10}, RefutedBy.COUNTS),
        # What only reading met, footers don't show.
        (UNREADABLE, RefutedBy.ROWS),
        ({**UNREADABLE, "proof": Proof.ROWS}, RefutedBy.ROWS),
    ],
)
def test_what_was_found_is_refuted_by_what_can_see_it(changes: dict[str, Any], refuted_by: RefutedBy) -> None:
    assert [one.refuted_by for one in evidence(replace(COUNTED, **changes))] == [refuted_by]


CERTIFICATE = Certificate(
    COUNTED.iceberg_table, THE_17TH, CertifiedBy.COUNTS, Proof.FILES, START + DAY, START + DAY, UUID(int=1), 1000, 1000
)
REVOKED = replace(
    CERTIFICATE, revoked_at=START + 2 * DAY, revoked_by=UUID(int=2), revoked_reason=Uncertified.CHANGED_ROWS
)


@pytest.mark.parametrize(
    ("audit", "certificate", "why", "by_keys"),
    [
        (COUNTED, CERTIFICATE, None, Uncertified.COUNTS_ONLY),
        (COUNTED, replace(CERTIFICATE, by=CertifiedBy.KEYS), None, None),
        # An error after it, or a source that has expired.
        (replace(COUNTED, **UNCOUNTED), CERTIFICATE, None, Uncertified.COUNTS_ONLY),
        (COUNTED, REVOKED, Uncertified.REVOKED, Uncertified.REVOKED),
        (None, None, Uncertified.NOT_AUDITED, Uncertified.NOT_AUDITED),
        (replace(COUNTED, **ONE_PERCENT), None, Uncertified.MISSING_ROWS, Uncertified.MISSING_ROWS),
        # The ledger knows of something that this audit can't refute.
        (COUNTED, None, Uncertified.FINDING_OPEN, Uncertified.FINDING_OPEN),
    ],
)
def test_a_day_is_certified_by_its_certificate_and_its_audit_says_why_it_has_none(
    audit: Any, certificate: Certificate | None, why: Uncertified | None, by_keys: Uncertified | None
) -> None:
    day = certified_day(COUNTED.iceberg_table, THE_17TH, audit, certificate)
    assert (day.uncertified, day.certified) == (why, why is None)
    assert day.required(CertifiedBy.COUNTS) == day
    assert day.required(CertifiedBy.KEYS).uncertified is by_keys
    assert (day.advice is None) is day.certified


@pytest.mark.parametrize(
    ("changes", "run_id", "by", "why"),
    [
        ({}, COUNTED.run_id, CertifiedBy.COUNTS, None),
        ({"key_comparison": EQUAL}, COUNTED.run_id, CertifiedBy.COUNTS, None),
        ({"key_comparison": EQUAL}, COUNTED.run_id, CertifiedBy.KEYS, None),
        ({}, COUNTED.run_id, CertifiedBy.KEYS, Uncertified.NOT_CONFIRMED),
        ({}, UUID(int=77), CertifiedBy.COUNTS, Uncertified.NOT_CONFIRMED),
        # It revokes nothing, and does not confirm the certificate.
        ({"watermark": START}, COUNTED.run_id, CertifiedBy.COUNTS, Uncertified.NOT_CONFIRMED),
    ],
)
def test_a_day_is_confirmed_by_its_newest_audit_alone(
    changes: dict[str, Any], run_id: UUID, by: CertifiedBy, why: Uncertified | None
) -> None:
    certificate = replace(CERTIFICATE, by=CertifiedBy.KEYS)
    day = certified_day(COUNTED.iceberg_table, THE_17TH, replace(COUNTED, **changes), certificate)
    assert day.required(by, run_id).uncertified is why


@pytest.mark.parametrize(
    ("changes", "compared", "rows"),
    [
        ({}, (), 1000),
        ({"key_comparison": replace(EQUAL, compare=("price",))}, ("id", "price", EACH_ROW), 1000),
        ({"ch_merges": True, "key_comparison": DISTINCT}, ("id",), 1000),
        (ONE_PERCENT, (), 1000),
        # Of these ClickHouse may hold fewer rows later, or held them of another window.
        ({**ONE_PERCENT, "ch_merges": True}, (), None),
        ({**ONE_PERCENT, "window_start": START - HOUR, "findings": (MISSING,)}, (), None),
        ({"key_comparison": replace(DIFFERING, changed=1)}, ("id", EACH_ROW), 1000),
    ],
)
def test_evidence_says_what_was_compared(changes: dict[str, Any], compared: tuple[str, ...], rows: int | None) -> None:
    (said,) = evidence(replace(COUNTED, **changes))
    assert (said.compared, said.ch_row_count) == (compared, rows)


def test_each_reason_says_what_to_do() -> None:
    assert all(why.advice.endswith(".") for why in Uncertified)


def test_days_between_audited_ones_are_listed_as_not_audited() -> None:
    def day(table: str, number: int) -> CertifiedDay:
        return CertifiedDay(table, date(2026, 2, number))

    def not_audited(table: str, number: int) -> CertifiedDay:
        return CertifiedDay(table, date(2026, 2, number), None, Uncertified.NOT_AUDITED)

    days = [day("cold.a", 17), day("cold.a", 14), day("cold.b", 16), day("cold.c", 19)]
    assert with_skipped(days, date(2026, 2, 18)) == (
        not_audited("cold.a", 18), day("cold.a", 17), not_audited("cold.a", 16), not_audited("cold.a", 15),
        day("cold.a", 14), not_audited("cold.b", 18), not_audited("cold.b", 17), day("cold.b", 16), day("cold.c", 19),
    )  # fmt: skip
    assert with_skipped([], date(2026, 2, 18)) == ()
