"""Counting in ClickHouse, as the port `SourceCounter`. What a count means is decided in the core."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from icekeeper.adapters.clickhouse.client import ClickHouseOptions, Client
from icekeeper.adapters.clickhouse.exact import Setting, counts_final, exact_settings, is_local
from icekeeper.adapters.clickhouse.ttl import UnknownTtlError, ttl_of
from icekeeper.core.audit.records import SourceCount, SourceTtl
from icekeeper.core.audit.source_settings import DISTRIBUTED_SETTINGS, EXACT_SETTINGS, FINAL
from icekeeper.core.calendar import Window
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason

# How an event time may be stored. Compared with instants, ClickHouse finds no row of any other type, and no error.
_INSTANT = re.compile(r"^(?:Nullable\(|LowCardinality\()*(?:DateTime|Date)")
# How a plan names the condition of a row policy: by name, or below a Merge table as a filter that no WHERE asked for.
_ROW_FILTER = re.compile(
    r"row[- ]level (?:security )?filter|ReadFromMerge\b[^\w(]*(?:Output:.*\n\W*)?Filter\n", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class SourceServer:
    """The server that answers, and the user that it knows us as."""

    version: str
    user: str


@dataclass(frozen=True, slots=True)
class SourceTable:
    """A table in the system tables: `definition` is its engine with keys and TTL, empty where it can't be read."""

    engine: str
    definition: str


class ClickHouse:
    """The port `SourceCounter`."""

    def __init__(self, options: ClickHouseOptions) -> None:
        self._client = Client(options)

    async def close(self) -> None:
        await self._client.close()

    async def count(
        self, source: str, timestamp: str, window: Window, final: bool | None, timeout: timedelta
    ) -> SourceCount:
        # Read for every audit: a table may have been swapped for another one.
        table = await self.describe(source)
        if table is None:
            text = f"there is no table {'.'.join(self._split(source))} (or no right to see it)"
            raise PermanentError(text, reason=Reason.SOURCE_TABLE_NOT_FOUND, where=self._client.options.where)
        use_final = counts_final(table.engine, final)
        settings = await self._require_whole(source, timestamp, window, table.engine, use_final)
        query = self._count_query(source, timestamp)
        rows = await self._client.query(query, _bounds(window), timeout, source, settings)
        return SourceCount(int(rows[0][0]), _readable(query, window, use_final), use_final, _ttl(table.definition))

    async def count_by_hour(
        self, source: str, timestamp: str, window: Window, final: bool, timeout: timedelta
    ) -> Mapping[datetime, int]:
        hour = f"toUnixTimestamp(toStartOfHour(toTimeZone({_quoted(timestamp)}, 'UTC')))"
        query = f"SELECT {hour} AS hour, count() FROM {self._table(source)} WHERE {_within(timestamp)} GROUP BY hour"
        settings = await self._exact(source, final=final)
        rows = await self._client.query(query, _bounds(window), timeout, source, settings)
        return {datetime.fromtimestamp(row[0], UTC): int(row[1]) for row in rows}

    async def newest(self, source: str, timestamp: str, window: Window, timeout: timedelta) -> datetime | None:
        # FINAL does not matter: merging keeps a row of every key, and the event time is part of it.
        newest = f"toDateTime64(maxOrNull({_quoted(timestamp)}), 6, 'UTC')"
        query = f"SELECT toUnixTimestamp64Micro({newest}) FROM {self._table(source)} WHERE {_within(timestamp)}"
        settings = await self._exact(source, final=None)
        rows = await self._client.query(query, _bounds(window), timeout, source, settings)
        micros = rows[0][0]
        return None if micros is None else datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros)

    async def now(self) -> datetime:
        """The server's clock. Raises like `count`."""
        rows = await self._client.probe("SELECT toUnixTimestamp64Micro(now64(6))", {}, "the time")
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=rows[0][0])

    async def zone(self) -> ZoneInfo:
        """The server's time zone, in which it reads instants that are written without one. Raises like `count`."""
        rows = await self._client.probe("SELECT serverTimezone()", {}, "its time zone")
        return ZoneInfo(str(rows[0][0]))

    async def server(self) -> SourceServer:
        """The server's version and our user. Raises like `count`."""
        rows = await self._client.probe("SELECT version(), currentUser()", {}, "its version")
        return SourceServer(str(rows[0][0]), str(rows[0][1]))

    async def describe(self, source: str) -> SourceTable | None:
        """The table in the system tables, None where it is not there. Raises like `count`."""
        database, table = self._split(source)
        names = {"database": database, "table": table}
        query = "FROM system.tables WHERE database = {database:String} AND name = {table:String}"
        try:
            rows = await self._client.probe(f"SELECT engine, engine_full {query}", names, source)
        except PermanentError as exc:
            if exc.reason is not Reason.ACCESS_DENIED:
                raise
            rows = await self._client.probe(f"SELECT engine, '' {query}", names, source)
        return SourceTable(str(rows[0][0]), str(rows[0][1])) if rows else None

    async def rehearse(self, source: str, timestamp: str, final: bool | None, window: Window) -> None:
        """All checks of a count, and the server's plan of it, without reading rows. Raises like `count`."""
        table = await self.describe(source)
        engine = None if table is None else table.engine
        await self._require_whole(source, timestamp, window, engine, counts_final(engine, final))

    async def _exact(self, source: str, *, final: bool | None, local: bool = True) -> dict[str, str]:
        """The settings that keep a count whole, read each time: a profile may have changed. Raises like `count`."""
        # Without one of its own the session's time zone is the server's.
        value = "if(name = 'session_timezone', timezone(), value)"
        query = f"SELECT name, {value}, readonly FROM system.settings WHERE name IN {{names:Array(String)}}"
        names = [*EXACT_SETTINGS, *DISTRIBUTED_SETTINGS, FINAL]
        rows = await self._client.probe(query, {"names": names}, source)
        seen = (Setting(str(name), str(value), bool(readonly)) for name, value, readonly in rows)
        return exact_settings(seen, self._client.options, final=final, local=local)

    async def _require_whole(
        self, source: str, timestamp: str, window: Window, engine: str | None, final: bool
    ) -> dict[str, str]:
        """The settings that keep a count of this window whole.

        PermanentError `source_limited` where they can't be set, `source_type` where the event time can't be compared
        with instants, `source_filtered` where a row policy hides rows from our user. Those of other servers behind a
        Distributed table can't be seen.
        """
        options = self._client.options
        settings = await self._exact(source, final=final, local=is_local(engine))
        described = await self._client.probe(
            f"DESCRIBE (SELECT {_quoted(timestamp)} FROM {self._table(source)})", {}, source
        )
        kind = str(described[0][1])
        if not _INSTANT.match(kind):
            text = f"{source}: the event time {timestamp} is {kind}, which can't be compared with instants"
            raise PermanentError(text, reason=Reason.SOURCE_TYPE, where=options.where)
        # Optimised, a plan joins conditions: whose they are is lost.
        explain = f"EXPLAIN actions = 1, optimize = 0 {self._count_query(source, timestamp)}"
        rows = await self._client.probe(explain, _bounds(window), source, settings)
        plan = "\n".join(str(row[0]) for row in rows)
        if hidden := _ROW_FILTER.search(plan):
            condition = plan[hidden.end() :].partition("column:")[2].partition("\n")[0].strip()
            text = f"{source}: a row policy hides rows from user {options.user}: {condition}"
            raise PermanentError(text, reason=Reason.SOURCE_FILTERED, where=options.where)
        return settings

    def _split(self, source: str) -> tuple[str, str]:
        database, _, table = source.rpartition(".")
        return database or self._client.options.database, table

    def _count_query(self, source: str, timestamp: str) -> str:
        return f"SELECT count() FROM {self._table(source)} WHERE {_within(timestamp)}"

    def _table(self, source: str) -> str:
        database, table = self._split(source)
        return f"{_quoted(database)}.{_quoted(table)}"


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


def _readable(query: str, window: Window, final: bool) -> str:
    """The query with its parameters written out, so that anyone can run it again."""
    for name, instant in _bounds(window).items():
        literal = f"toDateTime64('{instant:%Y-%m-%d %H:%M:%S}', 6, 'UTC')"
        query = query.replace(f"{{{name}:DateTime64(6,'UTC')}}", literal)
    return f"{query} SETTINGS final = 1" if final else query


def _quoted(identifier: str) -> str:
    """An identifier for ClickHouse SQL; backslash and backtick inside are escaped."""
    return "`" + identifier.replace("\\", "\\\\").replace("`", "\\`") + "`"
