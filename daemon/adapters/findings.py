"""Open findings: what audits found missing, until a later audit is `ok` or somebody acknowledges the day."""

from __future__ import annotations

from daemon.adapters.postgres import Postgres
from daemon.core.model import AuditStatus, Window
from daemon.core.restraints import Finding

_OPEN = """
    SELECT window_start, window_end, status, delta, since FROM (
      SELECT DISTINCT ON (window_start, window_end) window_start, window_end, status::text AS status, delta,
        min(run_timestamp) FILTER (WHERE status::text <> 'ok') OVER (PARTITION BY window_start, window_end) AS since
      FROM maintenance_audit_log
      WHERE iceberg_table = $1
      ORDER BY window_start, window_end, run_timestamp DESC, id DESC
    ) AS newest
    WHERE status <> 'ok'
    ORDER BY window_start
"""


class PostgresFindings:
    """Implements ports.Findings on the ledger's database."""

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres

    async def open_findings(self, table: str) -> tuple[Finding, ...]:
        """The table's windows whose last audit was no `ok`, oldest first. Raises what `Postgres.connection` does."""
        async with self._postgres.connection() as connection:
            rows = await connection.fetch(_OPEN, table)
        return tuple(
            Finding(
                table=table,
                window=Window(row["window_start"], row["window_end"]),
                status=AuditStatus(row["status"]),
                since=row["since"],
                delta=row["delta"],
            )
            for row in rows
        )
