"""The installation that the tests of a ledger keep their rows as, where it does not matter which."""

from __future__ import annotations

from uuid import UUID

from icekeeper.adapters.ledger.identity import Identity
from icekeeper.adapters.ledger.installation import Installation
from icekeeper.adapters.postgres.pool import Postgres

SOLE = UUID("50100000-0000-4000-8000-000000000001")
_TABLES = ("runs", "audit_log", "acks", "evidence", "repairs", "config_loads")
_MAKE = f"INSERT INTO maintenance_installations VALUES ('{SOLE}', 'sole', '', '{{}}') ON CONFLICT DO NOTHING;"
# Rows that a test inserts itself are of it, too.
MAKE_SOLE = _MAKE + "".join(
    f"ALTER TABLE maintenance_{table} ALTER installation_id SET DEFAULT '{SOLE}';" for table in _TABLES
)


def sole(postgres: Postgres) -> Installation:
    """Found by its name, so that all of a test's are the same."""
    return Installation(postgres, Identity("sole"))
