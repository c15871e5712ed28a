"""0006: what an audit compared of the keys of both sides. The audit log's column: ../adoption.py."""

from __future__ import annotations

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.adoption import add_new_columns
from icekeeper.adapters.ledger.sql.bridge import on_asyncpg

revision = "0006_keys"
down_revision = "0005_proof"


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    """Within the caller's transaction. PermanentError where a column of that name and another type is there."""
    on_asyncpg(connection, add_new_columns)
