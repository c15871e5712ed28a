"""The connection to ClickHouse's HTTP interface: queries with a deadline, and errors in the core's terms."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from icekeeper.core.errors import DeadlineExceeded, IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason

Rows = Sequence[Sequence[Any]]

# src/Common/ErrorCodes.cpp of ClickHouse.
_NOT_FOUND = frozenset({47, 60, 81})  # UNKNOWN_IDENTIFIER, UNKNOWN_TABLE, UNKNOWN_DATABASE
_DENIED = frozenset({164, 192, 193, 194, 497, 516})  # READONLY, UNKNOWN_USER, passwords, ACCESS_DENIED, AUTHENTICATION
_TIMEOUT = frozenset({159, 160})  # TIMEOUT_EXCEEDED, TOO_SLOW
_BUSY = frozenset({202, 439})  # TOO_MANY_SIMULTANEOUS_QUERIES, CANNOT_SCHEDULE_TASK
_MEMORY_LIMIT = 241
_UNREADABLE = frozenset({6, 38, 41})  # CANNOT_PARSE_TEXT, CANNOT_PARSE_DATE, CANNOT_PARSE_DATETIME
# TOO_MANY_ROWS, LIMIT_EXCEEDED, TOO_MANY_BYTES, TOO_MANY_ROWS_OR_BYTES, SETTING_CONSTRAINT_VIOLATION
_LIMITED = frozenset({158, 290, 307, 396, 452})
_CONNECT_TIMEOUT_S = 10
# For queries that a healthy server answers at once.
PROBE_TIMEOUT = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class ClickHouseOptions:
    """`settings` are ClickHouse settings sent with every query that our user may change; they win over icekeeper's own,
    except for those that keep a count whole."""

    url: str
    database: str
    user: str = "default"
    password: str = ""
    settings: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or (8443 if parts.scheme == "https" else 8123)

    @property
    def where(self) -> str:
        """How errors name this server: never with its password."""
        parts = urlsplit(self.url)
        return f"ClickHouse {parts.scheme}://{parts.hostname}:{self.port} (database {self.database})"


class Client:
    """One user's access to one server. It connects with the first query, and again after a failure."""

    def __init__(self, options: ClickHouseOptions) -> None:
        self.options = options
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()
        self._users: Counter[AsyncClient] = Counter()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def probe(
        self, query: str, parameters: Mapping[str, Any], what: str, settings: Mapping[str, str] | None = None
    ) -> Rows:
        """A query that a healthy server answers at once: one that hangs is down, and no count is begun on it."""
        try:
            return await self.query(query, parameters, PROBE_TIMEOUT, what, settings)
        except DeadlineExceeded as exc:
            raise TransientError(f"hangs: {exc.args[0]}", reason=Reason.SOURCE_DOWN, where=exc.where) from exc

    async def query(
        self,
        query: str,
        parameters: Mapping[str, Any],
        timeout: timedelta,
        source: str,
        settings: Mapping[str, str] | None = None,
    ) -> Rows:
        """The rows of the answer. `settings` win over those of the options."""
        seconds = max(1, round(timeout.total_seconds()))
        ours = {
            # A zone-less DateTime64 is read in the session's time zone, which is the server's by default.
            "session_timezone": "UTC",
            "max_execution_time": seconds,
            **self.options.settings,
        }
        try:
            async with asyncio.timeout(timeout.total_seconds()), self._connection() as client:
                known = client.server_settings
                sent = {name: value for name, value in ours.items() if name not in known or not known[name].readonly}
                result = await client.query(query, parameters=dict(parameters), settings=sent | dict(settings or {}))
        except TimeoutError as exc:
            raise DeadlineExceeded(f"no count of {source} within {seconds} s", where=self.options.where) from exc
        except (ClickHouseError, aiohttp.ClientError, OSError) as exc:
            raise self._translated(exc, source) from exc
        return result.result_rows

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncClient]:
        """The shared connection. After a failed query it is not given out again; its last user closes it."""
        # Two queries at once must not open two connections: one would stay open.
        async with self._connecting:
            if self._client is None:
                self._client = await self._connect()
            client = self._client
        self._users[client] += 1
        try:
            yield client
        except BaseException:
            if self._client is client:
                self._client = None
            raise
        finally:
            self._users[client] -= 1
            if not self._users[client]:
                del self._users[client]
                if client is not self._client:
                    with suppress(ClickHouseError, aiohttp.ClientError, OSError):
                        await client.close()

    async def _connect(self) -> AsyncClient:
        options = self.options
        parts = urlsplit(options.url)
        return await clickhouse_connect.get_async_client(
            host=parts.hostname,
            port=options.port,
            secure=parts.scheme == "https",
            username=options.user,
            password=options.password,
            database=options.database,
            connect_timeout=_CONNECT_TIMEOUT_S,
            # A session would serialize queries on the server, and a count needs none.
            autogenerate_session_id=False,
            client_name="icekeeper",
        )

    def _translated(self, error: Exception, source: str) -> IcekeeperError:
        where, code = self.options.where, getattr(error, "code", None)
        message = _first_line(error)
        if code in _NOT_FOUND:
            return PermanentError(f"{source}: {message}", reason=Reason.SOURCE_TABLE_NOT_FOUND, where=where)
        if code in _DENIED:
            text = f"user {self.options.user} was refused for {source}: {message}"
            return PermanentError(text, reason=Reason.ACCESS_DENIED, where=where)
        if code in _TIMEOUT:
            return DeadlineExceeded(f"{source}: {message}", where=where)
        if code in _LIMITED:
            return PermanentError(f"{source}: {message}", reason=Reason.SOURCE_LIMITED, where=where)
        if code in _UNREADABLE:
            return PermanentError(f"{source}: {message}", reason=Reason.SOURCE_TYPE, where=where)
        if code == _MEMORY_LIMIT:
            return TransientError(f"{source}: {message}", reason=Reason.SOURCE_OUT_OF_MEMORY, where=where)
        if code in _BUSY or (code is None and isinstance(error, OperationalError | aiohttp.ClientError | OSError)):
            return TransientError(f"{source}: {message}", reason=Reason.SOURCE_DOWN, where=where)
        return PermanentError(f"{source}: {message}", reason=Reason.UNEXPECTED, where=where)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:400]
