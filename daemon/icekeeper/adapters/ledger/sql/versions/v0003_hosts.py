"""0003: columns for a run's host and its task in flight, and the table of configuration loads."""

from __future__ import annotations

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.bridge import execute_sql_beside

revision = "0003_hosts"
down_revision = "0002_acks"


def upgrade(connection: Connection) -> None:
    execute_sql_beside(__file__, connection)
