"""What an audit of a damaged day may not say. Pure; what is planted: kinds.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import AuditStatus, Proof
from tests.damage.kinds import Planted

_LADDER = (Proof.MANIFESTS, Proof.FILES, Proof.ROWS)


def judge(proof: Proof, planted: Sequence[Planted], healthy: int, clickhouse: int, audit: AuditResult) -> Iterator[str]:
    """What is wrong with an audit by this proof; nothing is demanded of it where a bad file is beyond its proof.

    `healthy`: Iceberg's rows before anything was planted. `clickhouse`: those of the source.
    """
    bad = [each for each in planted if each.reason is not None]
    seen = [each for each in bad if _LADDER.index(each.seen_by) <= _LADDER.index(proof)]
    if seen:
        yield from _about_files(seen, audit)
    elif not bad:
        yield from _about_rows(healthy + sum(each.rows for each in planted), clickhouse, audit)
        if not planted and (audit.reason, audit.proof) != (None, proof):
            yield f"nothing is wrong with the day, and it is called {audit.status} {audit.reason} by {audit.proof}"


def _about_files(seen: Sequence[Planted], audit: AuditResult) -> Iterator[str]:
    reasons = {each.reason for each in seen}
    if audit.status is not AuditStatus.ERROR or audit.reason not in reasons:
        yield f"called {audit.status} {audit.reason} instead of an error with one of {sorted(map(str, reasons))}"
    named, planted = {file.path for file in audit.bad_files}, {each.path for each in seen if each.path is not None}
    if planted and named != planted:
        yield f"names {sorted(named)} instead of {sorted(planted)}"


def _about_rows(iceberg: int, clickhouse: int, audit: AuditResult) -> Iterator[str]:
    if (audit.ch_row_count, audit.iceberg_row_count) != (clickhouse, iceberg):
        yield f"counted {audit.ch_row_count} and {audit.iceberg_row_count}, there are {clickhouse} and {iceberg}"
    missing = 100 * (clickhouse - iceberg)
    if missing <= clickhouse:
        status = AuditStatus.OK
    else:
        status = AuditStatus.WARNING if missing <= 5 * clickhouse else AuditStatus.MISSING_DATA
    if audit.status is not status:
        yield f"called {audit.status}, it is {status}"
