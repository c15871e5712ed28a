"""0005: what each count in Iceberg rests on, and which files are bad. The audit log's columns: ../adoption.py."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.adoption import add_new_columns
from icekeeper.adapters.ledger.sql.bridge import on_asyncpg

revision = "0005_proof"
down_revision = "0004_lookups"


_ACKS = """
    ALTER TABLE maintenance_acks
      ADD COLUMN IF NOT EXISTS bad_file_rows bigint, ADD COLUMN IF NOT EXISTS bad_files jsonb;
    COMMENT ON COLUMN maintenance_acks.bad_file_rows IS
      'rows of the bad files that were acknowledged; NULL where missing rows were';
    COMMENT ON COLUMN maintenance_acks.bad_files IS 'those files, as in maintenance_audit_log';
"""


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    """Within the caller's transaction. PermanentError where a column of that name and another type is there."""
    on_asyncpg(connection, _upgrade)


async def _upgrade(connection: Any) -> None:
    await add_new_columns(connection)
    await connection.execute(_ACKS)
