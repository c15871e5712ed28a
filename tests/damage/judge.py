"""What an audit of a damaged day may not say, nor its certificate. Pure; what is planted: kinds.py, how rows differ:
truth.py."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from icekeeper.core.audit.certificates import CertifiedBy, CertifiedDay, Uncertified
from icekeeper.core.audit.records import AuditResult, Explanation, FileFault, Finding, FindingKind
from icekeeper.core.enums import AuditStatus, Proof
from icekeeper.core.reasons import Reason
from tests.damage.kinds import Planted
from tests.damage.scene import LakeFile
from tests.damage.truth import CHANGED, DUPLICATE, EXTRA, MISSING, Differing, Truth

_LADDER = (Proof.MANIFESTS, Proof.FILES, Proof.ROWS)
_STATUS = (AuditStatus.OK, AuditStatus.WARNING, AuditStatus.MISSING_DATA)
# So many keys findings name, of those that differ: `audit.sample_keys`, where nothing is set.
_SAMPLES = 20


def judge(
    proof: Proof, planted: Sequence[Planted], audit: AuditResult, truth: Truth, *, keyed: bool = False
) -> Iterator[str]:
    """What is wrong with an audit by this proof; nothing is demanded of it where a bad file is beyond its proof.

    `truth`: of the rows, as they were before a file was hurt. `keyed`: keys were compared.
    """
    bad = [each for each in planted if each.reason is not None]
    seen = [each for each in bad if _LADDER.index(each.seen_by) <= _LADDER.index(proof)]
    if seen:
        yield from _about_files(seen, audit)
    elif not bad:
        yield from _about_rows(audit, truth, keyed)
        yield from _about_findings(audit, truth, keyed)
        if not planted and (audit.reason, audit.proof) != (None, proof):
            yield f"nothing is wrong with the day, and it is called {audit.status} {audit.reason} by {audit.proof}"


def judge_certificate(
    proof: Proof, planted: Sequence[Planted], day: CertifiedDay, truth: Truth, *, keyed: bool
) -> Iterator[str]:
    """What is wrong with a day's certificate, or with its having none, after its first audit; as `judge`."""
    bad = [each for each in planted if each.reason is not None]
    seen = any(_LADDER.index(each.seen_by) <= _LADDER.index(proof) for each in bad)
    if bad and not seen:
        return
    expected: CertifiedBy | None = None
    if not seen and proof is not Proof.MANIFESTS:
        if keyed:
            expected = None if truth.by_key else CertifiedBy.KEYS
        elif not truth.merges and truth.clickhouse == truth.iceberg:
            expected = CertifiedBy.COUNTS
    by = day.certificate.by if day.certificate is not None and day.certified else None
    if by is not expected:
        yield f"certified by {by} instead of {expected} ({day.uncertified})"


def judge_revocation(
    proof: Proof, planted: Sequence[Planted], day: CertifiedDay, truth: Truth, *, keyed: bool
) -> Iterator[str]:
    """What is wrong with the certificate of a day that was damaged after it was given, and audited again."""
    seen = any(each.reason is not None and _LADDER.index(each.seen_by) <= _LADDER.index(proof) for each in planted)
    lost = any(each.kind in (MISSING, CHANGED) for each in expected_findings(truth, keyed=keyed))
    if (day.uncertified is Uncertified.REVOKED) != (seen or lost):
        yield f"its certificate is {day.uncertified or 'in force'}, and {[each.kind for each in planted]} came after it"


def _about_files(seen: Sequence[Planted], audit: AuditResult) -> Iterator[str]:
    reasons = {each.reason for each in seen}
    if audit.status is not AuditStatus.ERROR or audit.reason not in reasons:
        yield f"called {audit.status} {audit.reason} instead of an error with one of {sorted(map(str, reasons))}"
    named = {file.path for file in audit.bad_files}
    planted = {each.file.path: each.file for each in seen if each.file is not None}
    if planted and named != planted.keys():
        yield f"names {sorted(named)} instead of {sorted(planted)}"
    twice = {file.path for file in audit.bad_files if file.fault is FileFault.LISTED_TWICE}
    wrong = [
        one
        for one in audit.findings
        if one.explanation is not Explanation.BAD_FILE
        or one.kind is not (FindingKind.DUPLICATE if set(one.files) & twice else FindingKind.FILE)
    ]
    if wrong or not audit.findings:
        yield f"found {audit.findings} of bad files"
    if planted and sorted(path for one in audit.findings for path in one.files) != sorted(planted):
        yield f"findings name {[one.files for one in audit.findings]} instead of {sorted(planted)}"
    elif planted:
        yield from _about_times(audit, planted)


def _about_times(audit: AuditResult, planted: Mapping[str, LakeFile]) -> Iterator[str]:
    for one in audit.findings:
        files = [planted[path] for path in one.files]
        if one.rows != sum(file.rows for file in files):
            yield f"{one} has not the rows of {files}"
        if not all(one.start <= file.first <= file.last < one.end for file in files):
            yield f"{one} does not hold the times of {files}"


def _about_rows(audit: AuditResult, truth: Truth, keyed: bool) -> Iterator[str]:
    clickhouse, iceberg = truth.clickhouse, truth.iceberg
    if (audit.ch_row_count, audit.iceberg_row_count) != (clickhouse, iceberg):
        yield f"counted {audit.ch_row_count} and {audit.iceberg_row_count}, there are {clickhouse} and {iceberg}"
    # A surplus elsewhere hides no row that is missing.
    lost = [each.rows for each in expected_findings(truth, keyed=keyed) if each.kind is MISSING]
    missing = max(clickhouse - iceberg, sum(lost))
    severity = 0 if 100 * missing <= clickhouse else 1 if 100 * missing <= 5 * clickhouse else 2
    if keyed:
        differs = bool(truth.rows(DUPLICATE) or truth.rows(CHANGED))
        severity = max(severity, differs)
        if (audit.reason is Reason.CONTENT_MISMATCH) != differs:
            yield f"its reason is {audit.reason}, and {truth.by_key}"
        found, expected = audit.key_comparison, [truth.rows(kind) for kind in (MISSING, EXTRA, DUPLICATE, CHANGED)]
        if found is None or [found.missing, found.extra, found.duplicate, found.changed] != expected:
            yield f"found {found} instead of {expected}"
    if audit.status is not _STATUS[severity]:
        yield f"called {audit.status}, it is {_STATUS[severity]}"


# --- findings


def expected_findings(truth: Truth, *, keyed: bool) -> Sequence[Differing]:
    """The rows that findings have to name: those of keys, or of minutes where the numbers of the window differ."""
    if keyed and (truth.by_key or not truth.merges):
        return truth.by_key
    fewer, more = truth.iceberg < truth.clickhouse, truth.iceberg > truth.clickhouse and not truth.merges
    return truth.by_minute if fewer or more else ()


def _about_findings(audit: AuditResult, truth: Truth, keyed: bool) -> Iterator[str]:
    expected = expected_findings(truth, keyed=keyed)
    for kind in (MISSING, EXTRA, DUPLICATE, CHANGED):
        rows = [each for each in expected if each.kind is kind]
        # Numbers alone don't tell doubled rows from others.
        kinds = {kind} if keyed else {EXTRA, DUPLICATE} if kind is EXTRA else {kind} - {DUPLICATE}
        found = [one for one in audit.findings if one.kind in kinds]
        for one in found:
            yield from _about_finding(one, rows, keyed)
        lost = [each for each in rows if not any(one.start <= each.at < one.end for one in found)]
        if lost:
            yield f"no finding of kind {kind} holds {lost}"
        if sum(one.rows for one in found) != sum(each.rows for each in rows):
            yield f"the findings of kind {kind} have {[one.rows for one in found]} rows instead of {rows}"
    named = sum(len(one.sample_keys) for one in audit.findings)
    if named != (min(_SAMPLES, len(expected)) if keyed else 0):
        yield f"findings name {named} keys of {len(expected)}"


def _about_finding(found: Finding, rows: Sequence[Differing], keyed: bool) -> Iterator[str]:
    within = [each for each in rows if found.start <= each.at < found.end]
    if not within or found.rows != sum(each.rows for each in within):
        yield f"{found} instead of {within}"
    if keyed and not {*found.sample_keys} <= {each.key for each in within}:
        yield f"{found} names keys that are none of {within}"
