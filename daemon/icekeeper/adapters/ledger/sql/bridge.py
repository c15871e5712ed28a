"""From SQLAlchemy's connection, which Alembic needs, to asyncpg's below it, which our SQL is written for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection

T = TypeVar("T")


def on_asyncpg(connection: Connection, work: Callable[[Any], Awaitable[T]]) -> T:
    """Runs `work` on the asyncpg connection, inside the transaction that `connection` is in (it must be in one)."""
    adapted: Any = connection.connection.dbapi_connection
    # SQLAlchemy begins with the first statement of its own, and would not know of one begun by ours.
    assert adapted.driver_connection.is_in_transaction()
    result: T = adapted.run_async(work)
    return result


def execute_sql_beside(migration: str, connection: Connection) -> None:
    """Executes the .sql file of the same name as a migration's module, within the caller's transaction."""
    script = Path(migration).with_suffix(".sql").read_text(encoding="utf-8")
    on_asyncpg(connection, lambda asyncpg: asyncpg.execute(script))
