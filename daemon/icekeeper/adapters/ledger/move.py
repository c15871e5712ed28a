"""Brings all rows of one ledger into another, as `icekeeper ledger move` does. Both have to be migrated."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from graphlib import TopologicalSorter
from typing import Any
from uuid import UUID

import asyncpg

from icekeeper.adapters.postgres.pool import (
    CONNECT_TIMEOUT_S,
    FOREIGN_ERRORS,
    Postgres,
    Target,
    quoted_exactly,
    translated,
)
from icekeeper.core.errors import PermanentError

# So much of a table is kept in memory, the rest on disk.
_IN_MEMORY = 64 * 1024**2
# A table refers to its parents: their rows go first.
_TABLES = r"""
    SELECT child.relname AS name, array_remove(array_agg(parent.relname), NULL) AS parents
    FROM pg_class AS child
    LEFT JOIN pg_constraint AS key ON key.conrelid = child.oid AND key.contype = 'f' AND key.confrelid <> child.oid
    LEFT JOIN pg_class AS parent ON parent.oid = key.confrelid
    WHERE child.relkind = 'r' AND child.relname LIKE 'maintenance\_%' AND pg_table_is_visible(child.oid)
    GROUP BY child.relname
"""
# Without the numbers that a database gives out itself: the other one has given out the same to other rows.
_COLUMNS = """
    SELECT attname FROM pg_attribute
    WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attidentity = '' ORDER BY attnum
"""
# Tables whose rows say what is so now, with their key: the server's own row is the newer one.
_INSTALLATIONS = "maintenance_installations"
_LIVE = {_INSTALLATIONS: "installation_id", "maintenance_holds": "hold_id"}
# Rows that may have changed on the server: an installation that has been at work there has its row, holds are released.
_KEYS = {table: [key] for table, key in _LIVE.items()}
_STAGING = "icekeeper_moved"


@dataclass(frozen=True, slots=True)
class MovedTable:
    """How many rows the old ledger has, and how many of them the new one had not."""

    table: str
    rows: int
    moved: int


async def move(
    source: Postgres, target: Postgres, *, dry_run: bool = False, renamed: tuple[UUID, str] | None = None
) -> tuple[MovedTable, ...]:
    """Adds to `target` the rows of `source` that it lacks, in one transaction; `dry_run`: and takes that back.

    `renamed`: an installation of the source, and the name that it gets in `target` unless it has one there already.
    PermanentError where `target` has other rows in their place, as of another history of the same runs, or where not
    each row is found there afterwards. Raises like `Postgres.connection`, too.
    """
    async with _connected(source) as old, _connected(target) as new, old.transaction(isolation="repeatable_read"):
        transaction = new.transaction()
        await transaction.start()
        try:
            parents = {row["name"]: row["parents"] for row in await old.fetch(_TABLES)}
            moved = [
                await _move(table, old, new, target.target, renamed)
                for table in TopologicalSorter(parents).static_order()
            ]
        except BaseException:
            await transaction.rollback()
            raise
        await (transaction.rollback() if dry_run else transaction.commit())
        return tuple(moved)


async def _move(table: str, old: Any, new: Any, target: Target, renamed: tuple[UUID, str] | None) -> MovedTable:
    names = [quoted_exactly(row["attname"]) for row in await old.fetch(_COLUMNS, table)]
    columns = ", ".join(names)
    await new.execute(f"DROP TABLE IF EXISTS {_STAGING}")
    await new.execute(f"CREATE TEMPORARY TABLE {_STAGING} ON COMMIT DROP AS SELECT {columns} FROM {table} WITH NO DATA")
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as file:
        await old.copy_from_query(f"SELECT {columns} FROM {table}", output=file)
        file.seek(0)
        await new.copy_to_table(_STAGING, source=file)
    if table == _INSTALLATIONS and renamed is not None:
        await new.execute(f"UPDATE {_STAGING} SET name = $2 WHERE installation_id = $1", *renamed)
    compared = _KEYS.get(table, names)
    here, there = (", ".join(f"{alias}.{name}" for name in compared) for alias in ("moved", "own"))
    # As texts, because not every type can be compared.
    same = f"ROW({there})::text = ROW({here})::text"
    if key := _LIVE.get(table):
        same = f"own.{key} = moved.{key}"
    lacking = f"NOT EXISTS (SELECT FROM {table} AS own WHERE {same})"
    try:
        status = await new.execute(
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {_STAGING} AS moved WHERE {lacking}"
        )
    except asyncpg.UniqueViolationError as exc:
        text = f"has another row of {table} in place of one that would be moved: {exc.detail} Nothing was moved"
        if table == _INSTALLATIONS:
            text = (
                f"has another installation of that name: {exc.detail} Nothing was moved; with --as NAME "
                "this one gets another name there"
            )
        raise PermanentError(text, where=str(target)) from exc
    rows = await new.fetchval(f"SELECT count(*) FROM {_STAGING}")
    if lost := await new.fetchval(f"SELECT count(*) FROM {_STAGING} AS moved WHERE {lacking}"):
        text = f"{lost} of {rows} rows of {table} are other rows once they are stored. Nothing was moved"
        raise PermanentError(text, where=str(target))
    return MovedTable(table, rows, int(status.split()[-1]))


@asynccontextmanager
async def _connected(postgres: Postgres) -> AsyncIterator[Any]:
    """A connection of its own: what it does takes longer than any other statement may."""
    try:
        connection = await asyncpg.connect(
            postgres.dsn,
            password=postgres.password,
            timeout=CONNECT_TIMEOUT_S,
            statement_cache_size=0,
            server_settings={"application_name": "icekeeper ledger move", "timezone": "UTC"},
        )
        try:
            yield connection
        finally:
            await connection.close(timeout=CONNECT_TIMEOUT_S)
    except FOREIGN_ERRORS as exc:
        raise translated(exc, postgres.target) from exc
