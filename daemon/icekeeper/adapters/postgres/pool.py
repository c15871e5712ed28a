"""PostgreSQL: the pool, and its errors translated. The offload's table: offload.py; the ledger's: adapters/ledger."""

from __future__ import annotations

import asyncio
import getpass
import os
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg

from icekeeper.core.errors import ConfigError, IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason

CONNECT_TIMEOUT_S = 10.0
# The server's limit is the shorter one: its error says more than our timeout.
STATEMENT_TIMEOUT_S = 30.0
COMMAND_TIMEOUT_S = STATEMENT_TIMEOUT_S + 5.0

# Everything that asyncpg and the socket below it raise; `translated` makes our errors of them.
FOREIGN_ERRORS: tuple[type[Exception], ...] = (
    OSError,  # TimeoutError and ConnectionError are among them
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)

# SQLSTATE classes and codes (the manual's appendix A) after which a retry may succeed: connections, conflicts,
# resources, operator intervention and time limits, I/O; a lock not granted, an idle transaction that was ended, and a
# former primary that is a standby now.
_PASSING = ("08", "40", "53", "57", "58", "55P03", "25P03", "25006")
# What TLS says of connections that end in the middle.
_CUT = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
_CUT_REASONS = ("APPLICATION_DATA_AFTER_CLOSE_NOTIFY", "PROTOCOL_IS_SHUTDOWN", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC")
_PROTOCOL_VIOLATION = "08P01"  # in class 08, but a PgBouncer answers so whenever a setting is one that it refuses
_LOGIN_REFUSED = ("28000", "28P01")
_NO_RIGHT = "42501"
_NO_DATABASE = "3D000"
_NO_SCHEMA = "3F000"
_NOT_MIGRATED = ("42P01", "42703")  # no such table, no such column

_DSN_ADVICE = "write it as postgresql://USER@HOST:PORT/DATABASE (@, / and : in names percent-encoded)"
_HOSTS = re.compile(r"(?:(?:\[[0-9A-Fa-f:.]+\]|[^:/@\[\],]*)(?::\d+)?,?)*")
_NAME_PART = re.compile(r'"((?:[^"]|"")+)"|([^."]+)')


def quoted(name: str) -> str:
    """A table's name as an SQL identifier: `a.b` becomes `"a"."b"`.

    As in SQL, parts are folded to lower case unless they are quoted already. ConfigError where it is no name.
    """
    parts = []
    position = 0
    while match := _NAME_PART.match(name, position):
        exact, plain = match.groups()
        parts.append(exact.replace('""', '"') if exact else plain.strip().lower())
        position = match.end() + 1
        if name[match.end() : position] != ".":
            break
    if position <= len(name) or not all(parts) or "\0" in name:
        raise ConfigError([f"{name!r} is no table's name: write table or schema.table"])
    return ".".join(map(quoted_exactly, parts))


def quoted_exactly(name: str) -> str:
    """One name as an SQL identifier, exactly as it is written: a role's, or a part of a table's."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True, slots=True)
class Target:
    """A DSN without its password, for messages."""

    hosts: str
    database: str
    role: str

    def __str__(self) -> str:
        return f"PostgreSQL {self.hosts}/{self.database}"

    @classmethod
    def of(cls, dsn: str) -> Target:
        """Reads it with asyncpg's defaults. ConfigError, which doesn't show it, where it is no PostgreSQL DSN."""
        try:
            url = urlsplit(dsn)
            options = {key: values[-1] for key, values in parse_qs(url.query).items()}
            account, _, hosts = url.netloc.rpartition("@")
        except ValueError:
            # Without its cause, which quotes the DSN: most likely a password is not percent-encoded.
            raise ConfigError([f"the PostgreSQL DSN can't be read: {_DSN_ADVICE}"]) from None
        malformed = url.scheme not in ("postgresql", "postgres") or "@" in url.path or not _HOSTS.fullmatch(hosts)
        if malformed:
            raise ConfigError([f"the PostgreSQL DSN is none: {_DSN_ADVICE}"])
        env = os.environ.get
        role = unquote(account.partition(":")[0]) or options.get("user") or env("PGUSER") or getpass.getuser()
        database = unquote(url.path[1:]) or options.get("database") or options.get("dbname") or env("PGDATABASE")
        port = options.get("port") or env("PGPORT") or "5432"
        names = (hosts or options.get("host") or env("PGHOST") or "localhost").split(",")
        return cls(",".join(h if re.search(r":\d+$", h) else f"{h}:{port}" for h in names), database or role, role)


def translated(error: Exception, target: Target) -> IcekeeperError:
    """Our error for one of asyncpg's or the socket's.

    The reason of a PermanentError shows what it is about: `ledger_down` and `access_denied` are about the database,
    which is not migrated, missing, or closed to us, and would refuse any record; `unexpected` is about this statement.
    """
    if isinstance(error, asyncpg.PostgresError):
        return _server_error(error, target)
    if isinstance(error, ssl.SSLError) and not _is_cut(error):  # some of which are ValueErrors as well
        text = f"TLS failed: {error}. Check sslmode, sslrootcert, sslcert and sslkey of the DSN, and the certificates"
        return TransientError(text, reason=Reason.LEDGER_DOWN, where=str(target))
    if isinstance(error, ValueError):  # asyncpg's DataError and ClientConfigurationError
        return PermanentError(f"the driver refused it: {error}", where=str(target))
    text = f"{error}" or "no answer in time"
    return TransientError(f"does not answer: {text}", reason=Reason.LEDGER_DOWN, where=str(target))


def _is_cut(error: ssl.SSLError) -> bool:
    """Whether a connection was cut off or garbled, as by a server that restarts: that is about no certificate."""
    return isinstance(error, _CUT) or getattr(error, "reason", None) in _CUT_REASONS


def _server_error(error: Any, target: Target) -> IcekeeperError:
    state: str = error.sqlstate or ""
    message = " ".join(str(part) for part in (error.message, error.detail, error.hint) if part)[:1000] or repr(error)
    where = str(target)
    if state.startswith(_PASSING) and state != _PROTOCOL_VIOLATION:
        return TransientError(f"can't serve us now: {message}", reason=Reason.LEDGER_DOWN, where=where)
    if state in _LOGIN_REFUSED:
        text = f"refused role {target.role!r}: {message}. Check its password, its rights and the server's pg_hba.conf"
        return PermanentError(text, reason=Reason.ACCESS_DENIED, where=where)
    if state == _NO_RIGHT:
        text = f"role {target.role!r} lacks a right: {message}. Let the owner GRANT it, or let the owner run this"
        return PermanentError(text, reason=Reason.ACCESS_DENIED, where=where)
    # Also of a migrated ledger: PostgreSQL hides the tables of a schema that a role may not use.
    not_migrated = f"run `icekeeper migrate`; if that was done, give role {target.role!r} the schema and a search_path"
    advice = {
        _NO_DATABASE: "create the database, or name another in the DSN",
        _NO_SCHEMA: f"create a schema for role {target.role!r}, or set its search_path",
        **dict.fromkeys(_NOT_MIGRATED, not_migrated),
    }.get(state)
    if advice is not None:
        return PermanentError(f"{message}: {advice}", reason=Reason.LEDGER_DOWN, where=where)
    return PermanentError(f"refused it: {message} (SQLSTATE {state})", where=where)


class OwnServer(Protocol):
    """A server that is started when it is needed: adapters/postgres/embedded."""

    async def ensure(self) -> None:
        """Returns when it answers, or raises as `Postgres.connection` does."""

    async def aclose(self) -> None:
        """It is needed no more."""


class Postgres:
    """A pool that connects when it is first needed, and again after the server was away."""

    def __init__(
        self, dsn: str, password: str | None, application_name: str = "icekeeper", *, server: OwnServer | None = None
    ) -> None:
        """Connects to nothing. ConfigError where the DSN can't be read. `server`: what answers at the DSN, if it is
        started by us, and again where it does not answer."""
        self.target = Target.of(dsn)
        self._server = server
        self.dsn = dsn
        self.password = password
        self._application_name = application_name
        self._pool: Any = None
        self._opening = asyncio.Lock()
        self._closed = False

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """An asyncpg connection, its session in UTC; errors of the body are translated, too.

        TransientError `ledger_down` where the server is away, PermanentError where it refuses.
        """
        try:
            pool = await self._opened()
            async with AsyncExitStack() as held:
                # The timeout also bounds the release, which waits for a cancelled statement.
                acquiring = partial(pool.acquire, timeout=CONNECT_TIMEOUT_S)
                try:
                    connection = await held.enter_async_context(acquiring())
                except (ConnectionError, FileNotFoundError, asyncpg.CannotConnectNowError):
                    if self._server is None:
                        raise
                    await self._server.ensure()
                    connection = await held.enter_async_context(acquiring())
                yield connection
        except FOREIGN_ERRORS as exc:
            raise translated(exc, self.target) from exc

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Any]:
        """A connection that reads one state of all rows: a run that is being stored is either open or complete."""
        async with (
            self.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield connection

    async def ping(self) -> str:
        """Asks the server for its version, e.g. `18.0`; raises like `connection`."""
        async with self.connection() as connection:
            return str(await connection.fetchval("SHOW server_version"))

    async def now(self) -> datetime:
        """The time of the server's clock; raises like `connection`."""
        async with self.connection() as connection:
            now: datetime = await connection.fetchval("SELECT clock_timestamp()")
        return now

    async def close(self, timeout: float = 5.0) -> None:
        """Waits at most `timeout` seconds for statements under way, then cuts them off. Closed, it stays closed."""
        self._closed = True
        async with self._opening:
            pool, self._pool = self._pool, None
        try:
            if pool is not None:
                async with asyncio.timeout(timeout):
                    await pool.close()
        except FOREIGN_ERRORS:
            pool.terminate()
        finally:
            if self._server is not None:
                await self._server.aclose()

    async def _opened(self) -> Any:
        if self._pool is None and self._server is not None:
            await self._server.ensure()  # which all wait for together
        async with self._opening:
            if self._closed:
                raise TransientError("the pool is closed", reason=Reason.LEDGER_DOWN, where=str(self.target))
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self.dsn,
                    password=self.password,
                    min_size=0,  # so that the server may be down while we start
                    max_size=4,
                    max_inactive_connection_lifetime=60.0,
                    timeout=CONNECT_TIMEOUT_S,
                    command_timeout=COMMAND_TIMEOUT_S,
                    # A cached statement breaks when its table is altered, and behind PgBouncer; ours are few.
                    statement_cache_size=0,
                    server_settings={
                        "application_name": self._application_name,
                        "timezone": "UTC",
                        "statement_timeout": f"{STATEMENT_TIMEOUT_S:g}s",
                    },
                )
            return self._pool
