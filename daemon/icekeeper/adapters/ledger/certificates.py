"""Certificates of days as the ledger has them. What certifies and what revokes: core/audit/evidence.py.

In which order audits count: the view maintenance_certificates, sql/versions/v0012_overlaps.sql.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from uuid import UUID

from icekeeper.adapters.ledger.installation import Installation
from icekeeper.adapters.ledger.rows import known, known_audit, place_of
from icekeeper.adapters.ledger.sql import statement
from icekeeper.adapters.ledger.store import accepted
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.audit.certificates import (
    Certificate,
    CertifiedBy,
    CertifiedDay,
    CertifiedTable,
    Uncertified,
)
from icekeeper.core.audit.evidence import certified_day
from icekeeper.core.calendar import Window
from icekeeper.core.enums import Proof

_CERTIFICATES, _DAY_AUDITS = statement("certificates"), statement("day_audits")
_TABLES, _OF_RUN = statement("certified_tables"), statement("certificates_of_run")


class PostgresCertificates:
    """Of one installation. Every method raises what `Postgres.connection` and `Installation` do."""

    def __init__(self, postgres: Postgres, installation: Installation) -> None:
        self._postgres = postgres
        self._installation = installation

    async def days(self, tables: Iterable[str], first: date, last: date) -> tuple[CertifiedDay, ...]:
        """These tables' UTC days from `first` to `last` that were audited or certified; by table, newest first.

        ValueError where there is no day after `last`.
        """
        names, end = accepted(list(tables)), _day_after(last)
        mine = await self._installation.id()
        instants = (datetime.combine(day, time(), UTC) for day in (first, end))
        async with self._postgres.snapshot() as connection:
            certificates = await connection.fetch(_CERTIFICATES, names, first, end, mine)
            audits = await connection.fetch(_DAY_AUDITS, names, *instants, None, mine)
        certified = {(row["iceberg_table"], row["day"]): _certificate(row) for row in certificates}
        audited = {(row["iceberg_table"], row["window_start"].date()): known_audit(row) for row in audits}
        days: dict[str, set[date]] = {}
        for table, day in (*certified, *audited):
            days.setdefault(table, set()).add(day)
        return tuple(
            certified_day(table, day, audited.get((table, day)), certified.get((table, day)))
            for table in names
            for day in sorted(days.get(table, ()), reverse=True)
        )

    async def day(self, table: str, day: date) -> CertifiedDay:
        """One day of a table."""
        found = await self.days([table], day, day)
        return found[0] if found else certified_day(table, day, None, None)

    async def of_tables(
        self, tables: Iterable[str], now: datetime, expected: Iterable[date] = ()
    ) -> Mapping[str, CertifiedTable]:
        """How far each of these tables is certified, and how long the oldest day that is not can still be counted.

        `expected`: the days that nights should have audited by now.
        """
        mine = await self._installation.id()
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_TABLES, list(tables), now, list(expected), mine)
        return {row["table"]: CertifiedTable(row["until"], row["expires"]) for row in rows}

    async def of_run(self, run_id: UUID) -> Mapping[tuple[str, Window], CertifiedBy]:
        """By what the days that the run audited are certified now, by table and window."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_OF_RUN, run_id)
        return {place_of(row): CertifiedBy(row["certified_by"]) for row in rows}


def _certificate(row: Any) -> Certificate:
    return Certificate(
        table=row["iceberg_table"],
        day=row["day"],
        by=CertifiedBy(row["certified_by"]),
        proof=Proof(row["proof"]),
        certified_at=row["certified_at"],
        audited_at=row["audited_at"],
        run_id=row["run_id"],
        ch_row_count=row["ch_row_count"],
        iceberg_row_count=row["iceberg_row_count"],
        fingerprint=row["fingerprint"],
        snapshot_id=row["snapshot_id"],
        watermark=row["watermark"],
        revoked_at=row["revoked_at"],
        revoked_by=row["revoked_by"],
        revoked_reason=known(Uncertified, row["revoked_reason"]),
    )


def _day_after(day: date) -> date:
    try:
        return day + timedelta(days=1)
    except OverflowError as exc:
        raise ValueError(f"there is no day after {day}") from exc
