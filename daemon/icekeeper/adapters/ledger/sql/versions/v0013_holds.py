"""0013: what operators have put on hold, and who released it."""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.bridge import execute_sql_beside, on_asyncpg
from icekeeper.adapters.ledger.sql.grants import NEEDED
from icekeeper.adapters.ledger.sql.keepers import grant_to_keepers

revision = "0013_holds"
down_revision = "0012_overlaps"


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    execute_sql_beside(__file__, connection)
    relation = "maintenance_holds"
    on_asyncpg(connection, partial(grant_to_keepers, rights=NEEDED[relation], relation=relation))
