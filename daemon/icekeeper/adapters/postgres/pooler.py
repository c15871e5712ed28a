"""Whether a pooler like PgBouncer is between us and PostgreSQL, and whether it splits sessions. Judges nothing."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import asyncpg

from icekeeper.adapters.postgres.pool import CONNECT_TIMEOUT_S, FOREIGN_ERRORS, Target, translated

# PgBouncer answers itself for a database of this name: by its console, or by a refusal with an error code of its own.
_CONSOLE = "pgbouncer"
_ITS_REFUSAL = "08P01"
_ALL_OF_IT_S = 30.0
_PATIENCE_S = 3.0


@dataclass(frozen=True, slots=True)
class Pooler:
    """`bouncer`: PgBouncer answers at this address. `shares`: statements of one connection reach several backends."""

    bouncer: bool
    shares: bool


async def find_pooler(dsn: str, password: str | None) -> Pooler:
    """Asks with connections of its own and without startup settings, which a PgBouncer may refuse.

    Raises like `Postgres.connection`. A pooler that is no PgBouncer and pools by session is not seen, and does no harm.
    """
    try:
        async with asyncio.timeout(_ALL_OF_IT_S):  # a server may hang after it has let us in
            return Pooler(await _is_bouncer(dsn, password), await _shares(dsn, password))
    except FOREIGN_ERRORS as exc:
        raise translated(exc, Target.of(dsn)) from exc


async def _is_bouncer(dsn: str, password: str | None) -> bool:
    try:
        console = await _connect(dsn, password, database=_CONSOLE)
    except asyncpg.PostgresError as exc:
        # PostgreSQL says that there is no such database, or that its pg_hba.conf has no entry for it.
        return bool(exc.sqlstate == _ITS_REFUSAL)
    try:
        return "bouncer" in str(getattr(console.get_settings(), "server_version", ""))
    finally:
        await console.close()


async def _shares(dsn: str, password: str | None) -> bool:
    """Whether a second client's transaction takes the first client's backend away from it."""
    first = await _connect(dsn, password)
    try:
        second = await _connect(dsn, password)
        try:
            before = await _backend(first)
            async with second.transaction():
                between = await _backend(second)
                try:
                    async with asyncio.timeout(_PATIENCE_S):
                        after = await _backend(first)
                except TimeoutError:  # it waits for the only backend, which the second client holds
                    return True
            return between == before or after != before
        finally:
            second.terminate()
    finally:
        first.terminate()


async def _backend(connection: Any) -> int:
    return int(await connection.fetchval("SELECT pg_backend_pid()"))


async def _connect(dsn: str, password: str | None, **options: Any) -> Any:
    return await asyncpg.connect(dsn, password=password, timeout=CONNECT_TIMEOUT_S, statement_cache_size=0, **options)
