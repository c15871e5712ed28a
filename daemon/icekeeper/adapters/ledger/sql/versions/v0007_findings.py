"""0007: the findings of audits, a column of the audit log (../adoption.py), and a view of one row a finding."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.adoption import add_new_columns
from icekeeper.adapters.ledger.sql.bridge import execute_sql_beside, on_asyncpg
from icekeeper.core.errors import PermanentError

revision = "0007_findings"
down_revision = "0006_keys"

# A view of before has our columns: of a ledger that went back to 0.1 and comes again.
_OTHER = """
    SELECT oid::regclass::text FROM pg_class AS other WHERE oid = to_regclass('maintenance_findings') AND NOT (
      relkind = 'v' AND EXISTS (SELECT FROM pg_attribute WHERE attrelid = other.oid AND attname = 'audit_window_end'))
"""


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    """Within the caller's transaction.

    PermanentError where a column of that name and another type is there, or another relation where the view is to be.
    """
    on_asyncpg(connection, add_new_columns)
    on_asyncpg(connection, _require_the_name)
    execute_sql_beside(__file__, connection)


async def _require_the_name(connection: Any) -> None:
    name = await connection.fetchval(_OTHER)
    if name is not None:
        text = (
            f"{name} is there, and icekeeper keeps a view of that name: rename it, then run `icekeeper migrate` again"
        )
        raise PermanentError(text)
