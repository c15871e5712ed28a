"""Counting in ClickHouse over HTTP, as the port `SourceCounter`. What a count means is decided in the core."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

import aiohttp
import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError, OperationalError

from icekeeper.adapters.clickhouse_ttl import UnknownTtlError, ttl_of
from icekeeper.core.audit.records import SourceCount, SourceTtl
from icekeeper.core.calendar import Window
from icekeeper.core.errors import DeadlineExceeded, IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason

# Engines that merge rows of one key: until they have merged, only FINAL counts the rows that will be left.
MERGING_ENGINES = ("ReplacingMergeTree", "SummingMergeTree", "AggregatingMergeTree")

# src/Common/ErrorCodes.cpp of ClickHouse.
_NOT_FOUND = frozenset({47, 60, 81})  # UNKNOWN_IDENTIFIER, UNKNOWN_TABLE, UNKNOWN_DATABASE
_DENIED = frozenset({164, 192, 193, 194, 497, 516})  # READONLY, UNKNOWN_USER, passwords, ACCESS_DENIED, AUTHENTICATION
_TIMEOUT = frozenset({159, 160})  # TIMEOUT_EXCEEDED, TOO_SLOW
_BUSY = frozenset({202, 439})  # TOO_MANY_SIMULTANEOUS_QUERIES, CANNOT_SCHEDULE_TASK
_MEMORY_LIMIT = 241
_CONNECT_TIMEOUT_S = 10
# For queries that a healthy server answers at once.
_PROBE_TIMEOUT = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class ClickHouseOptions:
    """`settings` are ClickHouse settings sent with every query; they win over icekeeper's own."""

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


@dataclass(frozen=True, slots=True)
class SourceServer:
    """The server that answers, and the user that it knows us as."""

    version: str
    user: str


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table in ClickHouse's system tables: `definition` is its engine with keys and TTL, `column` the type of the
    event-time column, None where it does not exist or may not be seen."""

    engine: str
    definition: str
    column: str | None


class ClickHouse:
    """The port `SourceCounter`. It connects with the first query, and again after a failure."""

    def __init__(self, options: ClickHouseOptions) -> None:
        self._options = options
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()
        self._users: Counter[AsyncClient] = Counter()

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def count(
        self, source: str, timestamp: str, window: Window, final: bool | None, timeout: timedelta
    ) -> SourceCount:
        engine, definition = await self._engine(source)
        use_final = any(name in engine for name in MERGING_ENGINES) if final is None else final
        query = f"SELECT count() FROM {self._table(source, use_final)} WHERE {_within(timestamp)}"
        rows = await self._query(query, _bounds(window), timeout, source)
        return SourceCount(int(rows[0][0]), _readable(query, window), use_final, _ttl(definition))

    async def count_by_hour(
        self, source: str, timestamp: str, window: Window, final: bool, timeout: timedelta
    ) -> Mapping[datetime, int]:
        hour = f"toUnixTimestamp(toStartOfHour(toTimeZone({_quoted(timestamp)}, 'UTC')))"
        query = (
            f"SELECT {hour} AS hour, count() FROM {self._table(source, final)} WHERE {_within(timestamp)} GROUP BY hour"
        )
        rows = await self._query(query, _bounds(window), timeout, source)
        return {datetime.fromtimestamp(row[0], UTC): int(row[1]) for row in rows}

    async def newest(self, source: str, timestamp: str, window: Window, timeout: timedelta) -> datetime | None:
        # Without FINAL: merging keeps a row of every key, and the event time is part of it.
        newest = f"toDateTime64(maxOrNull({_quoted(timestamp)}), 6, 'UTC')"
        query = f"SELECT toUnixTimestamp64Micro({newest}) FROM {self._table(source, False)} WHERE {_within(timestamp)}"
        rows = await self._query(query, _bounds(window), timeout, source)
        micros = rows[0][0]
        return None if micros is None else datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros)

    async def now(self) -> datetime:
        """The server's clock. Raises like `count`."""
        rows = await self._probe("SELECT toUnixTimestamp64Micro(now64(6))", {}, "the time")
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=rows[0][0])

    async def zone(self) -> ZoneInfo:
        """The server's time zone, in which it reads instants that are written without one. Raises like `count`."""
        rows = await self._probe("SELECT serverTimezone()", {}, "its time zone")
        return ZoneInfo(str(rows[0][0]))

    async def server(self) -> SourceServer:
        """The server's version and our user. Raises like `count`."""
        rows = await self._probe("SELECT version(), currentUser()", {}, "its version")
        return SourceServer(str(rows[0][0]), str(rows[0][1]))

    async def describe(self, source: str, timestamp: str) -> SourceTable | None:
        """The table in the system tables, None where it is not there. Raises like `count`."""
        found = await self._defined(source)
        if found is None:
            return None
        database, table = self._split(source)
        names = {"database": database, "table": table, "column": timestamp}
        where = "WHERE database = {database:String} AND table = {table:String} AND name = {column:String}"
        columns = await self._probe(f"SELECT type FROM system.columns {where}", names, source)
        return SourceTable(*found, str(columns[0][0]) if columns else None)

    async def rehearse(self, source: str, timestamp: str, final: bool, window: Window) -> None:
        """Lets the server plan a count, with all its checks, without reading rows. Raises like `count`."""
        query = f"EXPLAIN SELECT count() FROM {self._table(source, final)} WHERE {_within(timestamp)}"
        await self._probe(query, _bounds(window), source)

    async def _engine(self, source: str) -> tuple[str, str]:
        """The table's engine and definition, read for every audit: a table may have been swapped for another one."""
        found = await self._defined(source)
        if found is None:
            database, table = self._split(source)
            raise PermanentError(
                f"there is no table {database}.{table} (or no right to see it)",
                reason=Reason.SOURCE_TABLE_NOT_FOUND,
                where=self._options.where,
            )
        return found

    async def _defined(self, source: str) -> tuple[str, str] | None:
        """The engine, and its definition with keys and TTL, empty where that may not be read; None: no such table."""
        database, table = self._split(source)
        names = {"database": database, "table": table}
        query = "FROM system.tables WHERE database = {database:String} AND name = {table:String}"
        try:
            rows = await self._probe(f"SELECT engine, engine_full {query}", names, source)
        except PermanentError as exc:
            if exc.reason is not Reason.ACCESS_DENIED:
                raise
            rows = await self._probe(f"SELECT engine, '' {query}", names, source)
        return (str(rows[0][0]), str(rows[0][1])) if rows else None

    async def _probe(self, query: str, parameters: Mapping[str, Any], what: str) -> Sequence[Sequence[Any]]:
        """A query that a healthy server answers at once: one that hangs is down, and no count is begun on it."""
        try:
            return await self._query(query, parameters, _PROBE_TIMEOUT, what)
        except DeadlineExceeded as exc:
            raise TransientError(f"hangs: {exc.args[0]}", reason=Reason.SOURCE_DOWN, where=exc.where) from exc

    async def _query(
        self, query: str, parameters: Mapping[str, Any], timeout: timedelta, source: str
    ) -> Sequence[Sequence[Any]]:
        seconds = max(1, round(timeout.total_seconds()))
        settings = {
            # A zone-less DateTime64 is read in the session's time zone, which is the server's by default.
            "session_timezone": "UTC",
            "max_execution_time": seconds,
            **self._options.settings,
        }
        try:
            async with asyncio.timeout(timeout.total_seconds()), self._connection() as client:
                result = await client.query(query, parameters=dict(parameters), settings=settings)
        except TimeoutError as exc:
            raise DeadlineExceeded(f"no count of {source} within {seconds} s", where=self._options.where) from exc
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
        options = self._options
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
        where, code = self._options.where, getattr(error, "code", None)
        message = _first_line(error)
        if code in _NOT_FOUND:
            return PermanentError(f"{source}: {message}", reason=Reason.SOURCE_TABLE_NOT_FOUND, where=where)
        if code in _DENIED:
            text = f"user {self._options.user} was refused for {source}: {message}"
            return PermanentError(text, reason=Reason.ACCESS_DENIED, where=where)
        if code in _TIMEOUT:
            return DeadlineExceeded(f"{source}: {message}", where=where)
        if code == _MEMORY_LIMIT:
            return TransientError(f"{source}: {message}", reason=Reason.SOURCE_OUT_OF_MEMORY, where=where)
        if code in _BUSY or (code is None and isinstance(error, OperationalError | aiohttp.ClientError | OSError)):
            return TransientError(f"{source}: {message}", reason=Reason.SOURCE_DOWN, where=where)
        return PermanentError(f"{source}: {message}", reason=Reason.UNEXPECTED, where=where)

    def _split(self, source: str) -> tuple[str, str]:
        database, _, table = source.rpartition(".")
        return database or self._options.database, table

    def _table(self, source: str, final: bool) -> str:
        database, table = self._split(source)
        return f"{_quoted(database)}.{_quoted(table)}{' FINAL' if final else ''}"


def _ttl(definition: str) -> SourceTtl | None:
    """The TTL for judging a count: where it is unknown the window is judged as if there were none; doctor says so."""
    try:
        return ttl_of(definition)
    except UnknownTtlError:
        return None


def _within(column: str) -> str:
    # Typed parameters: an instant compares the same in whatever time zone the column, the session or the server is.
    return f"{_quoted(column)} >= {{low:DateTime64(6,'UTC')}} AND {_quoted(column)} < {{high:DateTime64(6,'UTC')}}"


def _bounds(window: Window) -> dict[str, datetime]:
    return {"low": window.start, "high": window.end}


def _readable(query: str, window: Window) -> str:
    """The query with its parameters written out, so that anyone can run it again."""
    for name, instant in _bounds(window).items():
        literal = f"toDateTime64('{instant:%Y-%m-%d %H:%M:%S}', 6, 'UTC')"
        query = query.replace(f"{{{name}:DateTime64(6,'UTC')}}", literal)
    return query


def _quoted(identifier: str) -> str:
    """An identifier for ClickHouse SQL; backslash and backtick inside are escaped."""
    return "`" + identifier.replace("\\", "\\\\").replace("`", "\\`") + "`"


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:400]
