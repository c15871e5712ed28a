"""0002: the table of acknowledgements, and the index that the query of open findings uses."""

from __future__ import annotations

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.bridge import execute_sql_beside

revision = "0002_acks"
down_revision = "0001_ledger"


def upgrade(connection: Connection) -> None:
    execute_sql_beside(__file__, connection)
