"""The rights that a role needs to keep the ledger without owning its tables, and those it lacks. Grants nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping

from icekeeper.adapters.ledger.sql.adoption import AUDIT_LOG
from icekeeper.adapters.ledger.sql.migrations import VERSION_TABLE
from icekeeper.adapters.postgres.pool import Postgres, quoted_exactly
from icekeeper.core.errors import PermanentError

_WRITTEN = (
    "maintenance_runs",
    "maintenance_tasks",
    "maintenance_logs",
    "maintenance_repairs",
    "maintenance_holds",
    "maintenance_installations",
    AUDIT_LOG,
)
# Acknowledgements, configuration loads and what audits say of certificates are never changed: an installation takes
# those of before.
_ADDED_TO = ("maintenance_acks", "maintenance_config_loads", "maintenance_evidence")
# The rights on each table.
NEEDED = {
    **dict.fromkeys(_WRITTEN, "SELECT, INSERT, UPDATE"),
    **dict.fromkeys(_ADDED_TO, "SELECT, INSERT, UPDATE (installation_id)"),
    "maintenance_certificates": "SELECT",
    VERSION_TABLE: "SELECT",
}
# For `logs.retention`: without it the lines stay, and all else works.
TO_TIDY = {"maintenance_logs": "DELETE"}
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
_SEQUENCES_LACKING = """
    SELECT DISTINCT refobjid::regclass::text AS name
    FROM pg_attrdef
    JOIN pg_depend ON classid = 'pg_attrdef'::regclass AND objid = pg_attrdef.oid
    JOIN pg_class ON pg_class.oid = refobjid AND relkind = 'S'
    WHERE adrelid = ANY($1::bigint[]::oid[])
      -- PostgreSQL may try the condition before the join, and of a table it would be an error.
      AND CASE WHEN relkind = 'S' THEN NOT has_sequence_privilege(refobjid, 'USAGE') END
"""
# The system's catalog shows a table also to those who may use neither it nor its schema. Of several schemas the one
# that the role's search_path leads to counts, or would lead to if the role might use it.
_LACKING = """
    SELECT DISTINCT ON (relname) relname::text AS wanted, format('%I.%I', nspname, relname) AS name, nspname AS schema,
           quote_ident(nspname) AS quoted_schema, nspname = ANY($3) AS on_path,
           has_schema_privilege(relnamespace, 'USAGE') AS usage, pg_class.oid::bigint AS oid,
           ARRAY(SELECT right_ FROM unnest(string_to_array(rights, ', ')) AS right_
                 LEFT JOIN pg_attribute ON attrelid = pg_class.oid AND attname = substring(right_ FROM '[(](.*)[)]')
                 WHERE CASE WHEN attname IS NOT NULL
                              THEN NOT has_column_privilege(pg_class.oid, attnum, split_part(right_, ' ', 1))
                            -- A column that a migration is still to add.
                            WHEN right_ LIKE '%(%' THEN false
                            ELSE NOT has_table_privilege(pg_class.oid, right_) END) AS lacking
    FROM unnest($1::text[], $2::text[]) AS wanted (table_name, rights)
    JOIN pg_class ON relname = table_name AND relkind IN ('r', 'p', 'v')
    JOIN pg_namespace ON pg_namespace.oid = relnamespace
    ORDER BY relname, array_position($3, nspname::text) NULLS LAST, pg_class.oid
"""


async def grants(postgres: Postgres, role: str) -> list[str]:
    """The statements for the tables' owner to run; with them `role` can store and read, delete log lines and
    nothing else, and alter nothing.

    The tables lie where the owner's search_path leads, and the role's must lead there, too. Whatever the offload
    notes is not the ledger's: `role` needs SELECT there. PermanentError before the tables are migrated.
    """
    async with postgres.connection() as connection:
        found = await connection.fetch(_FIND, tuple(NEEDED))
        sequences = [row["name"] for row in await connection.fetch(_SEQUENCES, AUDIT_LOG)]
    names = {row["wanted"]: row["name"] for row in found}
    if missing := [wanted for wanted, name in names.items() if name is None]:
        raise PermanentError(f"there is no {missing[0]}: run `icekeeper migrate` first", where=str(postgres.target))
    to = f"TO {quoted_exactly(role)}"
    return [
        *(f"GRANT USAGE ON SCHEMA {schema} {to}" for schema in sorted({row["schema"] for row in found})),
        *(
            f"GRANT {rights} ON {', '.join(names[table] for table in NEEDED if NEEDED[table] == rights)} {to}"
            for rights in dict.fromkeys(NEEDED.values())
        ),
        *(f"GRANT {rights} ON {names[table]} {to}" for table, rights in TO_TIDY.items()),
        *(f"GRANT USAGE ON SEQUENCE {sequence} {to}" for sequence in sequences),
    ]


async def missing_grants(postgres: Postgres, needed: Mapping[str, str] = NEEDED) -> list[str]:
    """The statements that the role of this very connection still needs to keep the ledger; empty where it may.

    Empty, too, before the tables are migrated: see `migrations.pending`.
    """
    async with postgres.connection() as connection:
        role = await connection.fetchval("SELECT quote_ident(current_user)")
        path = await connection.fetchval("SELECT current_setting('search_path')")
        user = await connection.fetchval("SELECT current_user::text")
        schemas = [user if part == "$user" else part for part in _names(path)]
        found = await connection.fetch(_LACKING, list(needed), list(needed.values()), schemas)
        if VERSION_TABLE in needed and VERSION_TABLE not in {row["wanted"] for row in found}:
            return []
        sequences = await connection.fetch(_SEQUENCES_LACKING, [row["oid"] for row in found])
    closed = sorted({row["quoted_schema"] for row in found if not row["usage"]})
    off_path = sorted({row["quoted_schema"] for row in found if not row["on_path"]})
    return [
        *(f"GRANT USAGE ON SCHEMA {schema} TO {role}" for schema in closed),
        *([f"ALTER ROLE {role} SET search_path = {', '.join(off_path)}"] if off_path else []),
        *(f"GRANT {', '.join(row['lacking'])} ON {row['name']} TO {role}" for row in found if row["lacking"]),
        *(f"GRANT USAGE ON SEQUENCE {row['name']} TO {role}" for row in sequences),
    ]


def _names(search_path: str) -> list[str]:
    """The schemas of a search_path, as they are called.

    >>> _names('"$user", public')
    ['$user', 'public']
    """
    parts = re.findall(r'"((?:[^"]|"")*)"|([^\s,"]+)', search_path)
    return [exact.replace('""', '"') if exact else plain for exact, plain in parts]
