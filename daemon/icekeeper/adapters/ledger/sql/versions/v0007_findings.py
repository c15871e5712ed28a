"""0007: the findings of audits, a column of the audit log (../adoption.py). A row each shows the view of 0011."""

from __future__ import annotations

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.adoption import add_new_columns
from icekeeper.adapters.ledger.sql.bridge import on_asyncpg

revision = "0007_findings"
down_revision = "0006_keys"


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    """Within the caller's transaction. PermanentError where a column of that name and another type is there."""
    on_asyncpg(connection, add_new_columns)
