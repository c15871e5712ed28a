"""0001: makes the ledger's tables, and makes or adopts the audit log. What adopting means: ../adoption.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.adoption import AUDIT_LOG, adopt
from icekeeper.adapters.ledger.sql.bridge import execute_sql_beside, on_asyncpg

revision = "0001_ledger"
down_revision = None


def upgrade(connection: Connection) -> None:
    """PermanentError where an audit log exists that can't be adopted."""
    execute_sql_beside(__file__, connection)
    on_asyncpg(connection, _make_or_adopt)


async def _make_or_adopt(connection: Any) -> None:
    if await connection.fetchval("SELECT to_regclass($1)", AUDIT_LOG) is None:
        await connection.execute(Path(__file__).with_name("v0001_audit_log.sql").read_text(encoding="utf-8"))
    await adopt(connection)
