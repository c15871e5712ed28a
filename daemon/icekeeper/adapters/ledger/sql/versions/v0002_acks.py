"""0002: makes the table of acknowledgements, and the index that open findings are looked up by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.bridge import on_asyncpg

revision = "0002_acks"
down_revision = "0001_ledger"

_SQL = Path(__file__).with_suffix(".sql")


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    """Within the caller's transaction."""
    on_asyncpg(connection, _upgrade)


async def _upgrade(connection: Any) -> None:
    await connection.execute(_SQL.read_text(encoding="utf-8"))
