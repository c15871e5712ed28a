"""0001: makes the ledger's tables, and makes or adopts the audit log. What adopting means: ../adoption.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.adoption import adopt
from icekeeper.adapters.ledger.sql.bridge import on_asyncpg

revision = "0001_ledger"
down_revision = None

_TABLES = Path(__file__).with_suffix(".sql")
_AUDIT_LOG = Path(__file__).with_name("v0001_audit_log.sql")


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    """Within the caller's transaction. PermanentError where an audit log is there that can't be adopted."""
    on_asyncpg(connection, _upgrade)


async def _upgrade(connection: Any) -> None:
    await connection.execute(_TABLES.read_text(encoding="utf-8"))
    if await connection.fetchval("SELECT to_regclass('maintenance_audit_log')") is None:
        await connection.execute(_AUDIT_LOG.read_text(encoding="utf-8"))
    await adopt(connection)
