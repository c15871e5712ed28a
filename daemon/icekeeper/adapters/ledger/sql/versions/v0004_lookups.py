"""0004: keeps what Spark said of a task that failed, and finds the tasks of a table without reading all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.bridge import on_asyncpg

revision = "0004_lookups"
down_revision = "0003_hosts"

_SQL = Path(__file__).with_suffix(".sql")


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    """Within the caller's transaction."""
    on_asyncpg(connection, _upgrade)


async def _upgrade(connection: Any) -> None:
    await connection.execute(_SQL.read_text(encoding="utf-8"))
