"""What a role must be granted to keep the ledger without owning its tables. Grants nothing itself."""

from __future__ import annotations

from daemon.adapters.postgres import Postgres
from daemon.adapters.sql.adoption import AUDIT_LOG
from daemon.adapters.sql.migrations import VERSION_TABLE
from daemon.core.errors import PermanentError

_WRITTEN = ("maintenance_runs", "maintenance_tasks", "maintenance_logs", AUDIT_LOG)
_FIND = """
    SELECT wanted, pg_class.oid::regclass::text AS name, quote_ident(nspname) AS schema
    FROM unnest($1::text[]) AS wanted
    LEFT JOIN pg_class ON pg_class.oid = to_regclass(wanted)
    LEFT JOIN pg_namespace ON pg_namespace.oid = relnamespace
"""
# Of a serial id in an adopted table. An identity column needs no right of its own.
_SEQUENCES = """
    SELECT DISTINCT refobjid::regclass::text AS name
    FROM pg_attrdef
    JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid
    JOIN pg_class ON pg_class.oid = refobjid AND relkind = 'S'
    WHERE adrelid = to_regclass($1)
"""


async def grants(postgres: Postgres, role: str) -> list[str]:
    """The statements for the tables' owner to run; with them `role` can store and read, and delete or alter nothing.

    The tables lie where the owner's search_path leads, and the role's must lead there, too. Whatever the offload
    notes is not the ledger's: `role` needs SELECT there. PermanentError before the tables are migrated.
    """
    async with postgres.connection() as connection:
        found = await connection.fetch(_FIND, (*_WRITTEN, VERSION_TABLE))
        sequences = [row["name"] for row in await connection.fetch(_SEQUENCES, AUDIT_LOG)]
    names = {row["wanted"]: row["name"] for row in found}
    if missing := [wanted for wanted, name in names.items() if name is None]:
        raise PermanentError(f"there is no {missing[0]}: run `icekeeper migrate` first", where=str(postgres.target))
    to = 'TO "' + role.replace('"', '""') + '"'
    return [
        *(f"GRANT USAGE ON SCHEMA {schema} {to}" for schema in sorted({row["schema"] for row in found})),
        f"GRANT SELECT, INSERT, UPDATE ON {', '.join(names[table] for table in _WRITTEN)} {to}",
        f"GRANT SELECT ON {names[VERSION_TABLE]} {to}",
        *(f"GRANT USAGE ON SEQUENCE {sequence} {to}" for sequence in sequences),
    ]
