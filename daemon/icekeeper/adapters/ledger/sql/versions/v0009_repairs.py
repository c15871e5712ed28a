"""0009: which findings are being repaired or were, and by whom."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.bridge import execute_sql_beside, on_asyncpg
from icekeeper.adapters.ledger.sql.keepers import grant_to_keepers

revision = "0009_repairs"
down_revision = "0008_certificates"


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    execute_sql_beside(__file__, connection)
    on_asyncpg(connection, partial(grant_to_keepers, rights="SELECT, INSERT, UPDATE", relation="maintenance_repairs"))
