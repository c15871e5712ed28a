"""0008: what audits say for and against the certificates of days. What follows from it: the view of 0012.

The audit log's columns: ../adoption.py. Which audits say what: core/audit/evidence.py.
"""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.adoption import add_new_columns
from icekeeper.adapters.ledger.sql.bridge import execute_sql_beside, on_asyncpg
from icekeeper.adapters.ledger.sql.keepers import grant_to_keepers

revision = "0008_certificates"
down_revision = "0007_findings"


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    """Within the caller's transaction. PermanentError where a column of that name and another type is there."""
    on_asyncpg(connection, add_new_columns)
    execute_sql_beside(__file__, connection)
    on_asyncpg(connection, partial(grant_to_keepers, rights="SELECT, INSERT", relation="maintenance_evidence"))
