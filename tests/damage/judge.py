"""What an audit of a damaged day may not say. Pure; what is planted: kinds.py."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import AuditStatus, Proof
from icekeeper.core.reasons import Reason
from tests.damage.kinds import Planted
from tests.damage.scene import KeyedRows

_LADDER = (Proof.MANIFESTS, Proof.FILES, Proof.ROWS)
_STATUS = (AuditStatus.OK, AuditStatus.WARNING, AuditStatus.MISSING_DATA)


@dataclass(frozen=True)
class KeyTruth:
    """How the rows of a day differ from those that it had: counted here, without icekeeper's help."""

    missing: int
    extra: int
    duplicate: int
    changed: bool

    @classmethod
    def of(cls, before: KeyedRows, now: KeyedRows) -> KeyTruth:
        counts = {key: (_rows(before, key), _rows(now, key)) for key in {*before, *now}}
        return cls(
            missing=sum(max(0, had - has) for had, has in counts.values()),
            extra=sum(has for had, has in counts.values() if not had),
            duplicate=sum(max(0, has - had) for had, has in counts.values() if had),
            changed=any(had == has and before[key] != now[key] for key, (had, has) in counts.items() if had),
        )


def _rows(rows: KeyedRows, key: tuple[Any, ...]) -> int:
    return sum(rows[key].values()) if key in rows else 0


def judge(
    proof: Proof,
    planted: Sequence[Planted],
    healthy: int,
    clickhouse: int,
    audit: AuditResult,
    keys: KeyTruth | None = None,
) -> Iterator[str]:
    """What is wrong with an audit by this proof; nothing is demanded of it where a bad file is beyond its proof.

    `healthy`: Iceberg's rows before anything was planted. `clickhouse`: those of the source. `keys`: of an audit that
    compares them.
    """
    bad = [each for each in planted if each.reason is not None]
    seen = [each for each in bad if _LADDER.index(each.seen_by) <= _LADDER.index(proof)]
    if seen:
        yield from _about_files(seen, audit)
    elif not bad:
        yield from _about_rows(healthy + sum(each.rows for each in planted), clickhouse, audit, keys)
        if not planted and (audit.reason, audit.proof) != (None, proof):
            yield f"nothing is wrong with the day, and it is called {audit.status} {audit.reason} by {audit.proof}"


def _about_files(seen: Sequence[Planted], audit: AuditResult) -> Iterator[str]:
    reasons = {each.reason for each in seen}
    if audit.status is not AuditStatus.ERROR or audit.reason not in reasons:
        yield f"called {audit.status} {audit.reason} instead of an error with one of {sorted(map(str, reasons))}"
    named, planted = {file.path for file in audit.bad_files}, {each.path for each in seen if each.path is not None}
    if planted and named != planted:
        yield f"names {sorted(named)} instead of {sorted(planted)}"


def _about_rows(iceberg: int, clickhouse: int, audit: AuditResult, keys: KeyTruth | None) -> Iterator[str]:
    if (audit.ch_row_count, audit.iceberg_row_count) != (clickhouse, iceberg):
        yield f"counted {audit.ch_row_count} and {audit.iceberg_row_count}, there are {clickhouse} and {iceberg}"
    missing = max(clickhouse - iceberg, 0 if keys is None else keys.missing)
    severity = 0 if 100 * missing <= clickhouse else 1 if 100 * missing <= 5 * clickhouse else 2
    if keys is not None:
        differs = bool(keys.duplicate or keys.changed)
        severity = max(severity, differs)
        if (audit.reason is Reason.CONTENT_MISMATCH) != differs:
            yield f"its reason is {audit.reason}, and {keys}"
        found = audit.key_comparison
        if found is None or KeyTruth(found.missing, found.extra, found.duplicate, bool(found.changed)) != keys:  # type: ignore[arg-type]
            yield f"found {found} instead of {keys}"
    if audit.status is not _STATUS[severity]:
        yield f"called {audit.status}, it is {_STATUS[severity]}"
