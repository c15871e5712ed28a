"""Checks of PostgreSQL: connection, a pooler in between, migrations, the role's rights."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from icekeeper.adapters.ledger.sql.grants import TO_TIDY, missing_grants
from icekeeper.adapters.ledger.sql.migrations import pending
from icekeeper.adapters.postgres.embedded.server import DIRECTORY
from icekeeper.adapters.postgres.pooler import Pooler, find_pooler
from icekeeper.core.errors import IcekeeperError
from icekeeper.core.formats import counted, size
from icekeeper.core.reasons import Reason
from icekeeper.doctor.check import Check, Subject, guarded, to_run
from icekeeper.doctor.foreign import foreign_rows
from icekeeper.doctor.installations import examine_installations
from icekeeper.execution.wiring import Services

_DIRECT = "Connect straight to PostgreSQL: let postgres.dsn name its own port"
_TIMEOUT = "SELECT current_setting('statement_timeout')"


async def examine_ledger(services: Services) -> list[Check]:
    """The ledger's database; if it can't be reached, what else is asked there is skipped."""
    postgres, settings = services.postgres, services.settings.postgres
    try:
        version = await postgres.ping()
    except IcekeeperError as exc:
        advice = _unreached(exc) if settings is not None else ""
        checks = [Subject.POSTGRES.failure_of(exc, advice)]
        behind = (Subject.OFFLOAD, Subject.OTHERS) if services.offload_postgres is postgres else (Subject.OTHERS,)
        return [*checks, *(subject.skipped("PostgreSQL can't be reached") for subject in behind)]
    others = partial(guarded, Subject.OTHERS, lambda: foreign_rows(postgres, services.ports.clock()))
    if settings is None:
        return [await _embedded(services, version), *await others()]
    text = f"{postgres.target} answers, version {version}, as role {postgres.target.role!r}"
    checks = [Subject.POSTGRES.passed(text)]
    checks += await guarded(Subject.POSTGRES, lambda: _pooled(services))

    async def tables() -> list[Check]:
        lacking = await missing_grants(postgres)
        if lacking:
            return [lacking_rights(lacking)]
        waiting = await pending(settings.dsn, settings.secret())
        if waiting:
            text = f"the ledger's tables are missing or old ({', '.join(waiting)})"
            return [Subject.POSTGRES.failure(text, "Run `icekeeper migrate`.")]
        checks = [Subject.POSTGRES.passed("the ledger's tables are up to date, and the role may write them")]
        checks += await examine_installations(services)
        if untidy := await missing_grants(postgres, TO_TIDY):
            text = "the role may not delete old log lines: logs.retention is not acted on"
            checks.append(Subject.POSTGRES.warning(text, to_run("the tables' owner", f"{untidy[0]};")))
        return checks

    checks += await guarded(Subject.POSTGRES, tables)
    if (home := services.settings.state_dir / DIRECTORY).is_dir():
        text = f"an embedded ledger is in {home}, which nothing is added to any more"
        advice = f"`icekeeper ledger move` brings its history to {postgres.target}; then remove {home}."
        checks.append(Subject.POSTGRES.warning(text, advice))
    return checks + await others()


def lacking_rights(statements: Sequence[str]) -> Check:
    """The role lacks rights on the ledger: the statements that grant them."""
    text = f"the role lacks rights on the ledger's tables ({counted(len(statements), 'statement')} would give them)"
    return Subject.POSTGRES.failure(text, to_run("the tables' owner", *(f"{each};" for each in statements)))


def _unreached(error: IcekeeperError) -> str:
    if error.reason is Reason.ACCESS_DENIED:
        return "Correct the user in postgres.dsn and postgres.password_file, or the server's pg_hba.conf."
    if "startup parameter" not in str(error):
        return ""
    return f"That is a PgBouncer. {_DIRECT}, or let it take icekeeper's settings: ignore_startup_parameters."


async def _embedded(services: Services, version: str) -> Check:
    """A ledger in `state_dir`: it is up to date and writable where it has come up."""
    async with services.postgres.connection() as connection:
        stored = size(await connection.fetchval("SELECT pg_database_size(current_database())"))
    return Subject.POSTGRES.passed(
        f"the ledger is embedded in {services.settings.state_dir / DIRECTORY}, PostgreSQL {version}, {stored}, and its "
        "tables are up to date; `icekeeper ledger exec psql` opens it, `icekeeper ledger exec pg_dump` backs it up"
    )


async def _pooled(services: Services) -> list[Check]:
    settings = services.settings.postgres
    assert settings is not None  # of a server
    pooler = await find_pooler(settings.dsn, settings.secret())
    async with services.postgres.connection() as connection:
        timeout = await connection.fetchval(_TIMEOUT)
    return pooler_checks(pooler, str(timeout), replicas=services.settings.replicas)


def pooler_checks(pooler: Pooler, statement_timeout: str, *, replicas: bool) -> list[Check]:
    """What a pooler breaks; `statement_timeout` is the one in force. A lease between replicas can't be held at all."""
    if pooler.shares:
        who = "PgBouncer" if pooler.bouncer else "a pooler"
        text = (
            f"{who} is in the way and hands out backends by transaction: a connection's settings and locks get lost, "
            "and a prepared statement may reach a backend that does not know it"
        )
        advice = f"{_DIRECT}, or set pool_mode=session for icekeeper's database or user."
        return [(Subject.POSTGRES.failure if replicas else Subject.POSTGRES.warning)(text, advice)]
    if pooler.bouncer and statement_timeout == "0":
        text = "PgBouncer is in the way and throws icekeeper's statement_timeout away: a statement that hangs, hangs"
        return [Subject.POSTGRES.warning(text, f"{_DIRECT}, or: ALTER ROLE ... SET statement_timeout = '30s';")]
    if pooler.bouncer:
        return [Subject.POSTGRES.passed("PgBouncer is in the way, and pools by session: that does no harm")]
    return []
