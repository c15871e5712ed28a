"""The parts for one command of the command line: made, used, and closed whatever happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from daemon.adapters.spark import SparkEngine
from daemon.adapters.sql.migrations import pending
from daemon.core.errors import PermanentError
from daemon.core.reasons import Reason
from daemon.service.parts import Services, build, spark_options
from daemon.settings import Settings


@asynccontextmanager
async def session(settings: Settings) -> AsyncIterator[Services]:
    """Services with an engine of their own; the JVM starts with the first thing that needs it."""
    engine = SparkEngine(spark_options(settings))
    services = build(settings, engine)
    try:
        yield services
    finally:
        await services.close()
        await engine.stop()


async def require_ledger(services: Services) -> None:
    """Raises where PostgreSQL does not answer or lacks icekeeper's tables: a night whose results go nowhere is none."""
    postgres = services.settings.postgres
    missing = await pending(postgres.dsn, postgres.secret())
    if missing:
        raise PermanentError(
            f"the ledger's tables are missing or old ({', '.join(missing)}): run `icekeeper migrate`",
            reason=Reason.LEDGER_DOWN,
        )
