"""0004: a column for Spark's log of a task that failed, and an index for the tasks of a table."""

from __future__ import annotations

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.bridge import execute_sql_beside

revision = "0004_lookups"
down_revision = "0003_hosts"


def upgrade(connection: Connection) -> None:
    execute_sql_beside(__file__, connection)
