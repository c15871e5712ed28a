"""Which missing rows a repair is ordered for, and the runs that bring them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import groupby

from icekeeper.adapters.ledger.findings import AuditFindings, PostgresFindings
from icekeeper.core.audit.records import FindingKind
from icekeeper.core.enums import AuditStatus
from icekeeper.scheduling.orders import RunRequest

# How far back findings are looked for, and in how many audits.
_SINCE = timedelta(days=400)
_MOST_AUDITS = 1000


async def repairable(
    findings: PostgresFindings, tables: Iterable[str], now: datetime, ids: Collection[str] = ()
) -> list[AuditFindings]:
    """The audits with findings to repair, each with these alone: the `ids`, else all missing rows but those of
    acknowledged days. ValueError with an id that none of them has."""
    found = await findings.found(tables, now - _SINCE, _MOST_AUDITS)
    if unknown := set(ids) - {finding.id for audit in found for finding in audit.findings}:
        raise ValueError(min(unknown))
    chosen = []
    for audit in found:
        # The findings of an audit that is ok are never open, and its rows lack all the same.
        wanted = audit.open or audit.status == AuditStatus.OK
        some = tuple(
            finding
            for finding in audit.findings
            if finding.id and (finding.id in ids if ids else wanted and finding.kind is FindingKind.MISSING)
        )
        if some:
            chosen.append(replace(audit, findings=some))
    return chosen


def repair_requests(chosen: Sequence[AuditFindings], like: RunRequest) -> list[RunRequest]:
    """A run for each audited window, the newest first: it audits the window again."""
    requests = []
    ordered = sorted(chosen, key=lambda audit: (audit.window.end, audit.window.start), reverse=True)
    for window, group in groupby(ordered, key=lambda audit: audit.window):
        audits = list(group)
        ids = tuple(finding.id for audit in audits for finding in audit.findings)
        names = tuple(dict.fromkeys(audit.table for audit in audits))
        requests.append(replace(like, slot=window.end, tables=names, window=window, findings=ids))
    return requests
