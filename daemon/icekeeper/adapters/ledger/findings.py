"""Findings, and windows with open ones: until a later audit shows them gone or the day is acknowledged.

When a finding is open, and what an acknowledgement closes: sql/open_windows.sql. What an open one holds up: the core.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from uuid import UUID

from icekeeper.adapters.ledger.installation import Installation
from icekeeper.adapters.ledger.rows import as_bad_files, as_findings, as_reason, known, known_audit, place_of
from icekeeper.adapters.ledger.sql import statement
from icekeeper.adapters.ledger.store import accepted, store_evidence
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.audit.certificates import CertifiedBy
from icekeeper.core.audit.records import AuditResult, Finding, FindingKind, OpenWindow
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus
from icekeeper.core.run_history import FINDINGS

_OPEN = statement("open_windows")
_FOUND, _CERTIFICATES = statement("findings"), statement("certificates")
_OPEN_ROWS, _DAY_AUDITS = statement("open_rows"), statement("day_audits")
_IN_ORDER = "ORDER BY iceberg_table, window_start, window_end"
_ACKNOWLEDGE = f"""
    WITH open AS ({_OPEN}), kept AS (
      INSERT INTO maintenance_acks
        (iceberg_table, day, window_start, window_end, status, rows_missing, bad_file_rows, bad_files, run_id,
         audited_at, note, acked_by, host, installation_id)
      SELECT iceberg_table, window_start::date, window_start, window_end, status, rows_missing, bad_file_rows,
             bad_files, run_id, audited_at, $4, $5, $6, $2
      FROM open WHERE window_start::date = $3
    )
    SELECT * FROM open WHERE window_start::date = $3 {_IN_ORDER}
"""
_ACK = """
    ack.iceberg_table, ack.day, ack.window_start, ack.window_end, ack.status, ack.rows_missing, ack.bad_file_rows,
    ack.note, ack.acked_by, ack.host, ack.acked_at
"""
_ACKS = f"""
    SELECT {_ACK} FROM maintenance_acks AS ack
    WHERE iceberg_table = ANY($1::text[]) AND installation_id = $3 ORDER BY acked_at DESC, id DESC LIMIT $2
"""
# Made on this audit or a later one of its window, or on an earlier one that found as many rows missing, or as many
# rows of bad files.
_ACKS_OF_RUN = f"""
    SELECT DISTINCT ON (audit.iceberg_table, ack.window_start, ack.window_end) {_ACK}
    FROM maintenance_audit_log AS audit
    JOIN maintenance_acks AS ack ON ack.iceberg_table = audit.iceberg_table
      AND ack.window_start = audit.window_start AND ack.window_end = audit.window_end
      AND ack.installation_id = audit.installation_id
    WHERE audit.run_id = $1 AND audit.status::text <> 'ok'
      AND (ack.bad_file_rows IS NULL) = (audit.bad_file_rows IS NULL)
      AND (ack.audited_at >= audit.run_timestamp
           OR coalesce(ack.bad_file_rows, ack.rows_missing)
              >= coalesce(audit.bad_file_rows, {statement("rows_that_differ")}))
    ORDER BY audit.iceberg_table, ack.window_start, ack.window_end, ack.acked_at DESC, ack.id DESC
"""


@dataclass(frozen=True, slots=True)
class Ack:
    """A finding closed by hand: what was known then, and who closed it, when and why. `day` as in 2026-02-17, UTC.

    `bad_file_rows`: of a finding of bad files, as in AuditResult.
    """

    table: str
    day: str
    window: Window
    status: AuditStatus
    rows_missing: int
    note: str
    by: str
    host: str
    at: datetime
    bad_file_rows: int | None = None


@dataclass(frozen=True, slots=True)
class AuditFindings:
    """What the newest audit of a window found there. `open`: neither repaired nor acknowledged.

    The findings of an audit whose verdict is `ok` are never open.
    """

    table: str
    run_id: UUID
    audited_at: datetime
    status: str
    window: Window
    open: bool
    findings: tuple[Finding, ...]


class PostgresFindings:
    """Implements ports.Findings on the ledger's database, of one installation.

    Every method raises what `Postgres.connection` and `Installation` do.
    """

    def __init__(self, postgres: Postgres, installation: Installation) -> None:
        self._postgres = postgres
        self._installation = installation

    async def open_windows(self, table: str) -> tuple[OpenWindow, ...]:
        """The table's open findings, oldest first."""
        return await self.all_open((table,))

    async def all_open(self, tables: Iterable[str]) -> tuple[OpenWindow, ...]:
        """The open findings of these tables, table by table, oldest first."""
        mine = await self._installation.id()
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(f"{_OPEN} {_IN_ORDER}", list(tables), mine)
        return tuple(_open_window(row) for row in rows)

    async def last_audits(self, table: str, days: Window, but_of: datetime) -> Mapping[Window, AuditResult | None]:
        """As the port has it."""
        mine = await self._installation.id()
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_DAY_AUDITS, accepted([table]), days.start, days.end, but_of, mine)
        return {place_of(row)[1]: known_audit(row) for row in rows}

    async def certified_days(
        self, table: str, first: date, last: date, audits: Sequence[AuditResult]
    ) -> Mapping[date, CertifiedBy]:
        """Stores what the audits say, asks, and takes it back."""
        mine = await self._installation.id()
        async with self._postgres.connection() as connection:
            stored = connection.transaction()
            await stored.start()
            try:
                await store_evidence(connection, audits, mine)
                rows = await connection.fetch(_CERTIFICATES, [table], first, last + timedelta(days=1), mine)
            finally:
                await stored.rollback()
        return {row["day"]: CertifiedBy(row["certified_by"]) for row in rows if row["revoked_at"] is None}

    async def open_days(self, tables: Iterable[str]) -> Mapping[tuple[str, AuditStatus], int]:
        """On how many UTC days of each table something is found, by its status; what is nought is left out."""
        days = {
            (finding.table, finding.status, finding.window.start.date())
            for finding in await self.all_open(tables)
            if finding.status in FINDINGS
        }
        return Counter((table, status) for table, status, _ in days)

    async def found(self, tables: Iterable[str], since: datetime, limit: int) -> tuple[AuditFindings, ...]:
        """The findings of so many audits of windows that end after `since`, the newest windows first."""
        names, mine = accepted(list(tables)), await self._installation.id()
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_FOUND, names, since, limit, mine)
        still_open = {_place(one) for one in await self.all_open(names)} if rows else set()
        return tuple(_audit_findings(row, still_open) for row in rows)

    async def open_rows(self, tables: Iterable[str]) -> Mapping[tuple[str, FindingKind], int]:
        """How many rows the open findings of each table are of, by their kind; what is nought is left out."""
        mine = await self._installation.id()
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_OPEN_ROWS, list(tables), mine)
        kinds = ((row, known(FindingKind, row["kind"])) for row in rows)
        return {(row["iceberg_table"], kind): row["rows"] for row, kind in kinds if kind and row["rows"]}

    async def acknowledge(self, table: str, day: date, note: str, by: str, host: str) -> tuple[OpenWindow, ...]:
        """Closes what is open of the table's windows that begin on this UTC day, and returns it; empty: nothing was."""
        mine = await self._installation.settled()
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_ACKNOWLEDGE, [table], mine, day, *accepted((note, by, host)))
        return tuple(_open_window(row) for row in rows)

    async def acks(self, tables: Iterable[str], limit: int) -> tuple[Ack, ...]:
        """The newest acknowledgements of these tables, newest first."""
        mine = await self._installation.id()
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_ACKS, list(tables), limit, mine)
        return tuple(_ack(row) for row in rows)

    async def acks_of_run(self, run_id: UUID) -> Mapping[tuple[str, Window], Ack]:
        """The acknowledgements that close what the run's audits found, by table and window."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_ACKS_OF_RUN, run_id)
        return {place_of(row): _ack(row) for row in rows}


def _open_window(row: Any) -> OpenWindow:
    return OpenWindow(
        table=row["iceberg_table"],
        window=Window(row["window_start"], row["window_end"]),
        status=AuditStatus(row["status"]),
        since=row["since"],
        delta=row["delta"],
        reason=as_reason(row["reason"]),
        bad_files=as_bad_files(row["bad_files"]),
        bad_file_rows=row["bad_file_rows"],
    )


def _place(found: OpenWindow) -> tuple[str, Window, bool]:
    return found.table, found.window, found.bad_file_rows is not None


def _audit_findings(row: Any, still_open: Set[tuple[str, Window, bool]]) -> AuditFindings:
    table, window = row["iceberg_table"], Window(row["window_start"], row["window_end"])
    return AuditFindings(
        table=table,
        run_id=row["run_id"],
        audited_at=row["run_timestamp"],
        status=row["status"],
        window=window,
        open=(table, window, row["of_files"]) in still_open,
        findings=as_findings(row["findings"]),
    )


def _ack(row: Any) -> Ack:
    return Ack(
        table=row["iceberg_table"],
        day=row["day"].isoformat(),
        window=Window(row["window_start"], row["window_end"]),
        status=AuditStatus(row["status"]),
        rows_missing=row["rows_missing"],
        note=row["note"],
        by=row["acked_by"],
        host=row["host"],
        at=row["acked_at"],
        bad_file_rows=row["bad_file_rows"],
    )
