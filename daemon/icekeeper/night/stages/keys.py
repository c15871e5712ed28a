"""Compares the keys of an audit's window, and finds those that differ. What that means: core/audit/verdict.py.

Equal fingerprints of the whole window end it. Else both sides are read by buckets of the keys' hash, only those that
differ in smaller ones, until what differs is few enough to be compared key by key.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import structlog

from icekeeper.core.audit.findings import KeysFound
from icekeeper.core.audit.keys import (
    MOST_BUCKETS,
    Buckets,
    DifferentKey,
    Key,
    KeyQuery,
    KeyRows,
    agreed_key,
    different_keys,
    differing_buckets,
    explorable,
    finer_bits,
    sampled,
)
from icekeeper.core.audit.proof import FILE_REASONS
from icekeeper.core.audit.records import FindingKind, Fingerprint, KeyComparison, LakehouseCount, SourceCount
from icekeeper.core.audit.source import Source
from icekeeper.core.enums import Stage
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.policy import KeyPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.night.stages.context import Deadline, TaskContext

log = structlog.get_logger(__name__)

# Of the queries that find what differs one reads keys, and one counts by the minute; the others tell buckets apart.
_OTHER_QUERIES = 2


@dataclass(frozen=True, slots=True)
class SourceSide:
    """ClickHouse's keys of a window: how they were read, and their fingerprint."""

    query: KeyQuery
    final: bool
    fingerprint: Fingerprint

    def whole(self, found: Mapping[int, Fingerprint]) -> Fingerprint:
        """The fingerprint of all that is compared: everything, or one bucket."""
        return _sum(self.query, found, self.query.within.numbers if self.query.within else (0,))


@dataclass(frozen=True, slots=True)
class BothSides:
    """The keys of a window on both sides: Iceberg's at a snapshot (None: the table has none yet)."""

    source: SourceSide
    snapshot_id: int | None
    iceberg: Fingerprint


class KeyAudit:
    """The keys of one table's window, in this order: agreed, read in ClickHouse, read in Iceberg, compared.

    Raises like the ports.
    """

    def __init__(
        self,
        policy: TablePolicy,
        rules: KeyPolicy,
        source: Source,
        context: TaskContext,
        deadline: Deadline,
    ) -> None:
        self._policy = policy
        self._rules = rules
        self._source = source
        self._context = context
        self._deadline = deadline

    async def agree(self) -> Key:
        """The key as both sides have it; PermanentError `key_type` where they can't agree."""
        names = {name: self._source.column(name) for name in (*self._rules.columns, *self._rules.compare)}
        ports = self._context.ports
        iceberg = await ports.lakehouse.column_types(self._policy.name, tuple(names))
        source = await ports.source_keys.column_types(self._source, tuple(names.values()))
        return agreed_key(self._rules.columns, self._rules.compare, names, iceberg, source)

    async def read_source(self, key: Key, count: SourceCount) -> SourceSide:
        """ClickHouse's keys: those of the count, or the distinct ones where it merges rows."""
        if count.fingerprint is not None:
            return SourceSide(KeyQuery(key), count.final, count.fingerprint)
        # Values and numbers of rows change when rows of one key merge: only the keys stay.
        part = sampled(self._context.slot, count.rows, self._rules.sample_above)
        side = SourceSide(KeyQuery(replace(key, compare=()), distinct=True, within=part), count.final, Fingerprint())
        found = await self._of_source(side, side.query, part.bits if part else 0, self._deadline)
        return replace(side, fingerprint=side.whole(found))

    async def read_iceberg(self, source: SourceSide, count: LakehouseCount) -> BothSides:
        """Iceberg's keys at the snapshot that was counted.

        PermanentError `count_mismatch` where it holds another number of rows than the count, which may be metadata's.
        """
        query, part = source.query, source.query.within
        found = source.whole(await self._of_iceberg(count.snapshot_id, query, part.bits if part else 0, self._deadline))
        if not query.distinct and found.rows != count.rows:
            text = f"its metadata counts {count.rows} rows of the window, and {found.rows} were read"
            raise PermanentError(text, reason=Reason.COUNT_MISMATCH, where=self._policy.name)
        return BothSides(source, count.snapshot_id, found)

    async def compare(self, sides: BothSides, drill: Deadline) -> tuple[KeyComparison, KeysFound]:
        """Both sides' keys, and those that differ. PermanentError where files can't be read, whatever else is known."""
        query, source, iceberg = sides.source.query, sides.source.fingerprint, sides.iceberg
        part = query.within
        compared = KeyComparison(
            columns=tuple(column.iceberg for column in query.key.columns),
            compare=tuple(column.iceberg for column in query.key.compare),
            distinct=query.distinct,
            clickhouse=source.rows,
            iceberg=iceberg.rows,
            equal=source == iceberg,
            sample=(part.numbers[0], 2**part.bits) if part else None,
            fingerprint=source.text,
        )
        nothing = KeysFound(query.key, (), self._rules.samples)
        if compared.equal:
            return compared, nothing
        self._context.report(Stage.AUDIT, self._policy.name, "keys differ, comparing them")
        try:
            return await self._explored(sides, compared, drill)
        except IcekeeperError as exc:
            if exc.reason in FILE_REASONS:
                raise
            log.warning("keys_not_explored", stage=Stage.AUDIT, table=self._policy.name, error=str(exc))
            rows = max(compared.clickhouse, compared.iceberg)
            unknown = replace(compared, missing=None, extra=None, duplicate=None, changed=None, unexplored=rows)
            return unknown, nothing

    async def _explored(
        self, sides: BothSides, compared: KeyComparison, drill: Deadline
    ) -> tuple[KeyComparison, KeysFound]:
        """The comparison with the keys that differ, as far as the budget goes."""
        query, expected, unexplored = sides.source.query, sides.source.fingerprint, 0
        explored = max(compared.clickhouse, compared.iceberg)
        if explored > self._rules.drill_rows:
            bits, there, sizes = await self._differing(sides, explored, drill)
            chosen = explorable(sizes, self._rules.drill_rows)
            expected = _sum(query, there, chosen)
            explored = sum(sizes[bucket] for bucket in chosen)
            unexplored = sum(sizes.values()) - explored
            query = replace(query, within=Buckets(bits, chosen))
        different = await self._different(sides, query, expected.rows, drill) if explored else []
        rows = dict.fromkeys(FindingKind, 0)
        for key in different:
            rows[key.kind] += key.rows
        found = replace(
            compared,
            missing=rows[FindingKind.MISSING],
            extra=rows[FindingKind.EXTRA],
            duplicate=rows[FindingKind.DUPLICATE],
            changed=rows[FindingKind.CHANGED],
            explored=explored,
            unexplored=unexplored,
        )
        return found, KeysFound(
            query.key,
            different,
            self._rules.samples,
            complete=not (unexplored or query.distinct),
            one_in=compared.sample[1] if compared.sample else 1,
        )

    async def _differing(
        self, sides: BothSides, rows: int, drill: Deadline
    ) -> tuple[int, Mapping[int, Fingerprint], Mapping[int, int]]:
        """By how many bits, and with how many rows, buckets differ, so small that they fit the budget if any do.

        In the middle: all that ClickHouse was last read for.
        """
        query, expected, bits = sides.source.query, sides.source.fingerprint, 0
        there: Mapping[int, Fingerprint] = {}
        sizes: dict[int, int] = {}
        for _ in range(self._rules.drill_queries - _OTHER_QUERIES):
            bits = finer_bits(query.within, rows)
            there = await self._of_source(sides.source, query, bits, drill)
            if _sum(query, there, there) != expected:
                raise _source_changed(self._source)
            sizes = differing_buckets(there, await self._of_iceberg(sides.snapshot_id, query, bits, drill))
            before, rows = rows, sum(sizes.values())
            # Where nearly all of them differ, smaller ones would, too.
            if rows <= self._rules.drill_rows or len(sizes) > MOST_BUCKETS or 4 * rows > 3 * before:
                break
            query, expected = replace(query, within=Buckets(bits, tuple(sizes))), _sum(query, there, sizes)
        return bits, there, sizes

    async def _different(self, sides: BothSides, query: KeyQuery, expected: int, drill: Deadline) -> list[DifferentKey]:
        """The keys that differ, of so many in ClickHouse (of rows, where it does not merge them)."""
        there = await self._context.ports.source_keys.key_rows(
            self._source, self._context.window, sides.source.final, query, drill.remaining()
        )
        ours: Mapping[bytes, KeyRows] = {}
        if sides.snapshot_id is not None:
            name, timestamp = self._policy.name, self._policy.timestamp
            ours = await self._context.ports.lakehouse.key_rows(
                name, timestamp, self._context.window, sides.snapshot_id, query, drill.remaining()
            )
        if (len(there) if query.distinct else sum(key.rows for key in there.values())) != expected:
            raise _source_changed(self._source)
        # Sorting many keys takes a while, and the loop has other work.
        return await asyncio.to_thread(different_keys, there, ours, distinct=query.distinct)

    async def _of_source(
        self, side: SourceSide, query: KeyQuery, bits: int, deadline: Deadline
    ) -> Mapping[int, Fingerprint]:
        return await self._context.ports.source_keys.fingerprints(
            self._source, self._context.window, side.final, query, bits, deadline.remaining()
        )

    async def _of_iceberg(
        self, snapshot_id: int | None, query: KeyQuery, bits: int, deadline: Deadline
    ) -> Mapping[int, Fingerprint]:
        if snapshot_id is None:
            return {}
        name, timestamp = self._policy.name, self._policy.timestamp
        return await self._context.ports.lakehouse.fingerprints(
            name, timestamp, self._context.window, snapshot_id, query, bits, deadline.remaining()
        )


def _sum(query: KeyQuery, buckets: Mapping[int, Fingerprint], some: Iterable[int]) -> Fingerprint:
    empty = Fingerprint(values=(0, 0) if query.key.compare else ())
    return sum((buckets[number] for number in some if number in buckets), empty)


def _source_changed(source: Source) -> TransientError:
    """Iceberg's snapshot is pinned: rows that came to ClickHouse since would be taken for missing."""
    return TransientError(f"{source} was written to while its keys were compared", reason=Reason.CONFLICT)
