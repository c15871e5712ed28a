"""Brings the ledger's tables up to date: Alembic over asyncpg, without env.py. The migrations: versions/."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from icekeeper.adapters.ledger.sql.adoption import AUDIT_LOG
from icekeeper.adapters.ledger.sql.bridge import on_asyncpg
from icekeeper.adapters.ledger.store import store_lines, store_run
from icekeeper.adapters.postgres.pool import CONNECT_TIMEOUT_S, FOREIGN_ERRORS, Target, translated
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import AuditStatus, RunOutcome, Trigger
from icekeeper.core.errors import PermanentError
from icekeeper.core.runs import RunReport

# Its own name, so that another Alembic may keep its version in the same database.
VERSION_TABLE = "icekeeper_schema_version"
# One migration at a time in a database: an advisory lock under a number of our own.
_LOCK_KEY = int.from_bytes(b"icekeepr", "big")
_SETTINGS = {
    "application_name": "icekeeper migrate",
    "timezone": "UTC",
    # A statement that waits behind a long query blocks every later query on the table.
    "lock_timeout": "30s",
    "statement_timeout": "10min",
}
_COMMAND_TIMEOUT_S = 660.0  # a little more than the server's own limit, in case the server is gone
_UNSAFE_NEW_ENUM_VALUE = "55P04"


async def migrate(dsn: str, password: str | None) -> list[str]:
    """Applies what is pending, all or nothing, and names it, oldest first; empty where nothing was.

    The role becomes the owner of the tables, and must own an audit log that is adopted. PermanentError where
    something prevents it, TransientError `ledger_down` where the server is away or a lock can't be had.
    """
    async with _transaction(dsn, password) as connection:
        return await connection.run_sync(_upgrade)


async def pending(dsn: str, password: str | None) -> list[str]:
    """The migrations that `migrate` would apply, oldest first; changes nothing. Raises like `migrate`."""
    async with _transaction(dsn, password) as connection:
        return await connection.run_sync(_pending)


@asynccontextmanager
async def _transaction(dsn: str, password: str | None) -> AsyncIterator[AsyncConnection]:
    target = Target.of(dsn)

    async def connect() -> Any:
        # By asyncpg itself, because SQLAlchemy reads a DSN's options (sslmode, several hosts) in another way.
        return await asyncpg.connect(
            dsn,
            password=password,
            timeout=CONNECT_TIMEOUT_S,
            command_timeout=_COMMAND_TIMEOUT_S,
            statement_cache_size=0,
            server_settings=_SETTINGS,
        )

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect, poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            yield connection
    except DBAPIError as exc:
        cause = exc.orig.__cause__ if exc.orig is not None else None
        raise translated(cause if isinstance(cause, Exception) else exc, target) from exc
    except FOREIGN_ERRORS as exc:
        raise translated(exc, target) from exc
    except CommandError as exc:
        text = f"its tables are of a newer icekeeper ({exc}): install that one, or a later one"
        raise PermanentError(text, where=str(target)) from exc
    except PermanentError as exc:
        exc.where = exc.where or str(target)
        raise
    finally:
        await engine.dispose()


def _scripts() -> ScriptDirectory:
    home = Path(__file__).parent
    return ScriptDirectory(home, version_locations=[home / "versions"])


def _pending(connection: Connection) -> list[str]:
    scripts = _scripts()
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    steps: Any = scripts._upgrade_revs("head", context.get_current_heads())  # type: ignore[arg-type]  # as Alembic calls it
    return [step.revision.revision for step in steps]


def _upgrade(connection: Connection) -> list[str]:
    # Held until the transaction ends. A process that has waited for it finds nothing left to do.
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock($1)", (_LOCK_KEY,))
    applied = _pending(connection)
    if not applied:
        return []
    scripts = _scripts()
    context = MigrationContext.configure(
        connection,
        opts={
            "version_table": VERSION_TABLE,
            # As in Alembic's own `upgrade` command.
            "fn": lambda heads, _context: scripts._upgrade_revs("head", heads),
        },
    )
    # The scripts get the connection as an argument: `alembic.op` is global, and two migrations at a time (of two
    # databases) would share it.
    context.run_migrations(connection=connection)
    on_asyncpg(connection, _prove)
    return applied


async def _prove(connection: Any) -> None:
    """Stores a run of each kind and rolls it back, so that a refusal shows now and not every night."""
    for status in AuditStatus:
        attempt = connection.transaction()
        await attempt.start()
        try:
            sample = _sample(status)
            await store_run(connection, sample, uuid4())
            await store_lines(connection, sample.run_id, 1, [{"event": "proof"}])
        except asyncpg.PostgresError as exc:
            if exc.sqlstate == _UNSAFE_NEW_ENUM_VALUE:
                continue  # a value that this very transaction has added
            detail = f" ({exc.detail})" if exc.detail else ""
            raise PermanentError(
                f"a row with the status {status} is refused by the tables as they are: {exc}{detail}. Change the "
                f"column, constraint or trigger of {AUDIT_LOG} that it names, and run `icekeeper migrate` again. "
                "Nothing was changed"
            ) from exc
        finally:
            await attempt.rollback()


def _sample(status: AuditStatus) -> RunReport:
    """A run with an audit that needs wide columns: no counts, or enormous ones."""
    slot = datetime(1970, 1, 1, tzinfo=UTC)
    nothing = AuditResult(
        run_id=uuid4(),
        slot=slot,
        trigger=Trigger.SCHEDULE,
        run_timestamp=slot,
        iceberg_table="cold.proof",
        ch_source="proof",
        layer="bronze",
        audit_window_hours=24,
        window_start=slot - timedelta(days=1),
        window_end=slot,
        ch_row_count=None,
        iceberg_row_count=None,
        delta=None,
        delta_pct=None,
        status=status,
        reason=None,
        notes="proof " * 500,
    )
    rows = 10**12
    much = replace(nothing, ch_row_count=1, iceberg_row_count=rows + 1, delta=rows, delta_pct=Decimal(100 * rows))
    return RunReport(
        run_id=nothing.run_id,
        slot=slot,
        trigger=Trigger.SCHEDULE,
        outcome=RunOutcome.SUCCESS,
        started_at=slot,
        finished_at=slot,
        settings_hash="",
        tasks=(),
        audits=(nothing if status is AuditStatus.ERROR else much,),
    )
