"""A JDBC catalog's own tables: our rights on them, where the metadata of a table is, which catalogs are in them."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.errors import IcekeeperError
from icekeeper.doctor.check import PERMISSIONS, Check, Subject, to_run
from icekeeper.settings.systems import Catalog

_RIGHTS = """
    SELECT privilege, quote_ident(current_user) AS role FROM unnest(ARRAY['SELECT', 'UPDATE']) AS privilege
    WHERE to_regclass('iceberg_tables') IS NOT NULL
      AND NOT has_table_privilege(to_regclass('iceberg_tables'), privilege)
"""
_NAMES = "SELECT DISTINCT catalog_name FROM iceberg_tables"
_SQLITE = "jdbc:sqlite:"
_LOCATION = "SELECT metadata_location FROM iceberg_tables WHERE catalog_name = $1 LIMIT 1"


async def no_catalog(catalog: Catalog) -> list[Check]:
    """An error where the database has no catalog: Iceberg would only report that a relation does not exist."""
    rows = await _fetch(catalog, "SELECT current_database() AS name WHERE to_regclass('iceberg_tables') IS NULL")
    if not rows:
        return []
    text = f"the database {rows[0]['name']} has no table iceberg_tables that catalog.properties: jdbc.user can see"
    advice = f"Correct catalog.uri, or let that account use the table's schema and search it ({PERMISSIONS})."
    return [Subject.CATALOG.failure(text, advice)]


async def examine_jdbc(catalog: Catalog) -> list[Check]:
    """The GRANT that is missing for commits. Reading is checked by loading the tables."""
    rows = await _fetch(catalog, _RIGHTS)
    if not rows:
        return []
    privileges = ", ".join(row["privilege"] for row in rows)
    statement = f"GRANT {privileges} ON iceberg_tables TO {rows[0]['role']};"
    text = f"the catalog's account lacks {privileges} on iceberg_tables: no commit would go through"
    return [Subject.CATALOG.failure(text, to_run("its owner", statement))]


async def metadata_location(catalog: Catalog) -> str | None:
    """The metadata file of one of the catalog's tables; None where the catalog can't be queried."""
    rows = await _fetch(catalog, _LOCATION, catalog.name)
    return str(rows[0]["metadata_location"]) if rows else None


async def catalog_names(catalog: Catalog) -> list[str]:
    """The names of the catalogs that the database holds; empty where it is neither PostgreSQL's nor SQLite's."""
    if (catalog.uri or "").startswith(_SQLITE):
        return await asyncio.to_thread(_names_in_sqlite, (catalog.uri or "").removeprefix(_SQLITE))
    return sorted(str(row["catalog_name"]) for row in await _fetch(catalog, _NAMES))


def _names_in_sqlite(path: str) -> list[str]:
    try:
        with closing(
            sqlite3.connect(f"file:{quote(path.removeprefix('file:').partition('?')[0])}?mode=ro", uri=True)
        ) as db:
            return sorted(name for (name,) in db.execute(_NAMES))
    except sqlite3.Error:
        return []


async def _fetch(catalog: Catalog, query: str, *values: object) -> list[Any]:
    """The rows; none where the catalog is elsewhere or refuses: then the error of the JVM's own driver counts."""
    found = dsn(catalog)
    if found is None:
        return []
    postgres = Postgres(*found)
    try:
        async with postgres.connection() as connection:
            return list(await connection.fetch(query, *values))
    except IcekeeperError:
        return []
    finally:
        await postgres.close()


def dsn(catalog: Catalog) -> tuple[str, str | None] | None:
    """A DSN and a password for a JDBC catalog in PostgreSQL; None for any other."""
    uri = catalog.uri or ""
    if catalog.type != "jdbc" or not uri.startswith("jdbc:postgresql://"):
        return None
    url = urlsplit(uri.removeprefix("jdbc:"))
    options = {key: values[-1] for key, values in parse_qs(url.query).items()}
    user = catalog.properties.get("jdbc.user") or options.get("user")
    password = catalog.properties.get("jdbc.password") or options.get("password")
    account = f"{quote(user, safe='')}@" if user else ""
    mode = f"?sslmode={options['sslmode']}" if "sslmode" in options else ""
    return f"postgresql://{account}{url.netloc}{url.path}{mode}", password
