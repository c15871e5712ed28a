"""0012: when audits began to count: one that overlaps another in time refutes nothing that the other one has found.

The audit log's columns: ../adoption.py. The view of certificates, which follow from all that audits say.
"""

from __future__ import annotations

from functools import partial

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.adoption import add_new_columns, require_name_of_view
from icekeeper.adapters.ledger.sql.bridge import execute_sql_beside, on_asyncpg
from icekeeper.adapters.ledger.sql.keepers import grant_to_keepers

revision = "0012_overlaps"
down_revision = "0011_installations"


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    """Within the caller's transaction.

    PermanentError where a column of that name and another type is there, or another relation where the view is to be.
    """
    on_asyncpg(connection, add_new_columns)
    name_is_free = partial(require_name_of_view, view="maintenance_certificates", column="certified_by")
    on_asyncpg(connection, name_is_free)
    execute_sql_beside(__file__, connection)
    on_asyncpg(connection, partial(grant_to_keepers, rights="SELECT", relation="maintenance_certificates"))
