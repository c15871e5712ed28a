"""The roles that keep the ledger without owning its tables: what a migration adds is granted to them, too."""

from __future__ import annotations

from typing import Any

# By the rights that `icekeeper migrate --grants` prints; grantee 0 is every role.
_KEEPERS = """
    SELECT DISTINCT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS name
    FROM pg_class CROSS JOIN LATERAL aclexplode(relacl) AS granted
    WHERE pg_class.oid = 'maintenance_acks'::regclass AND privilege_type = 'INSERT' AND grantee <> relowner
"""


async def grant_to_keepers(connection: Any, rights: str, relation: str) -> None:
    """Within the caller's transaction, on an asyncpg connection; none where only the owner keeps the ledger."""
    for keeper in await connection.fetch(_KEEPERS):
        await connection.execute(f"GRANT {rights} ON {relation} TO {keeper['name']}")
