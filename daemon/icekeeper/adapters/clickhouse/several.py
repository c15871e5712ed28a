"""The counts of a source of several tables as one. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from icekeeper.core.audit.records import SourceCount


def together(counts: Sequence[SourceCount]) -> SourceCount:
    """The counts of a source's tables as one."""
    if len(counts) == 1:
        return counts[0]
    ttls = [count.ttl for count in counts if count.ttl is not None]
    prints = [count.fingerprint for count in counts if count.fingerprint is not None]
    return SourceCount(
        rows=sum(count.rows for count in counts),
        query=f"SELECT {' + '.join(f'({count.query})' for count in counts)}",
        final=any(count.final for count in counts),
        merges=any(count.merges for count in counts),
        ttl=min(ttls, key=lambda ttl: (ttl.least, ttl.most), default=None),
        fingerprint=sum(prints[1:], prints[0]) if len(prints) == len(counts) else None,
    )
