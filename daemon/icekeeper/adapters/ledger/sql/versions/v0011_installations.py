"""0011: which installation each row is of, and who ordered a run; the view of findings.

The audit log's column: ../adoption.py. Which installation takes the rows of before: ../../installation.py.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sqlalchemy import Connection

from icekeeper.adapters.ledger.sql.adoption import add_new_columns, require_name_of_view
from icekeeper.adapters.ledger.sql.bridge import execute_sql_beside, on_asyncpg
from icekeeper.adapters.ledger.sql.grants import NEEDED
from icekeeper.adapters.ledger.sql.keepers import grant_to_keepers

revision = "0011_installations"
down_revision = "0010_windows"

_GRANTED = (
    "maintenance_installations",
    "maintenance_acks",
    "maintenance_evidence",
    "maintenance_config_loads",
)


# There is no downgrade: the rows are people's records.
def upgrade(connection: Connection) -> None:
    """Within the caller's transaction.

    PermanentError where a column of that name and another type is there, or another relation where a view is to be.
    """
    on_asyncpg(connection, add_new_columns)
    execute_sql_beside(__file__, connection)
    name_is_free = partial(require_name_of_view, view="maintenance_findings", column="audit_window_end")
    on_asyncpg(connection, name_is_free)
    execute_sql_beside(str(Path(__file__).with_name("v0011_findings.sql")), connection)
    for relation in _GRANTED:
        on_asyncpg(connection, partial(grant_to_keepers, rights=NEEDED[relation], relation=relation))
