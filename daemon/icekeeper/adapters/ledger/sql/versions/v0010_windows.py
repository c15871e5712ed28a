"""0010: an audit's row is one of its run, its table and its window, no longer of its run and its table alone.

The audit log's columns: ../adoption.py.
"""

from __future__ import annotations

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.adoption import add_new_columns
from icekeeper.adapters.ledger.sql.bridge import execute_sql_beside, on_asyncpg

revision = "0010_windows"
down_revision = "0009_repairs"


# There is no downgrade: a run may have several rows of a table by then.
def upgrade(connection: Connection) -> None:
    """Within the caller's transaction. PermanentError where a column of that name and another type is there."""
    on_asyncpg(connection, add_new_columns)
    execute_sql_beside(__file__, connection)
