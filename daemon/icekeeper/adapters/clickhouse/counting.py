"""Counting in ClickHouse, as the port `SourceCounter`. What a count means is decided in the core."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

from icekeeper.adapters.clickhouse.client import ClickHouseOptions, Client, Rows
from icekeeper.adapters.clickhouse.errors import code_of
from icekeeper.adapters.clickhouse.event_time import (
    bounds,
    is_day,
    is_epoch,
    minute,
    misfit,
    newest,
    quoted,
    unreadable,
    within,
    written_out,
    wrong_unit,
)
from icekeeper.adapters.clickhouse.exact import Setting, counts_final, exact_settings, is_local, require_utc
from icekeeper.adapters.clickhouse.keys import fingerprint, fingerprint_of
from icekeeper.adapters.clickhouse.several import together
from icekeeper.adapters.clickhouse.ttl import ttl_if_known
from icekeeper.core.audit.keys import Key
from icekeeper.core.audit.records import SourceCount
from icekeeper.core.audit.source import Source
from icekeeper.core.audit.source_settings import DISTRIBUTED_SETTINGS, EXACT_SETTINGS, FINAL, TIMEZONE
from icekeeper.core.calendar import Window, is_of_days
from icekeeper.core.errors import DeadlineExceeded, PermanentError
from icekeeper.core.reasons import Reason

# How a plan names the condition of a row policy: by name, or below a Merge table as a filter that no WHERE asked for.
_ROW_FILTER = re.compile(
    r"row[- ]level (?:security )?filter|ReadFromMerge\b[^\w(]*(?:Output:.*\n\W*)?Filter\n", re.IGNORECASE
)
# For a few values of a column: a view may have to compute all its rows for them, and the count goes on without.
_UNKNOWN_FUNCTION = 46
_SAMPLE_TIMEOUT = timedelta(seconds=10)

_Left = Callable[[], timedelta]


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
        self, source: Source, window: Window, final: bool | None, timeout: timedelta, key: Key | None = None
    ) -> SourceCount:
        left = time_left(timeout)
        # One after the other: each has an engine of its own, and settings that keep its count whole.
        async with self._client.within(timeout, str(source)):
            return together([await self._count(source, table, window, final, left, key) for table in source.tables])

    async def count_by_minute(
        self, source: Source, window: Window, final: bool, timeout: timedelta, *, dates: bool = False
    ) -> Mapping[datetime, int]:
        minutes = Counter[datetime]()
        async with self._client.within(timeout, str(source)):
            left = time_left(timeout)
            for table in source.tables:
                if is_day(kind := await self._kind(table, source.timestamp)) and not dates:
                    raise self._unfit(table, f"the event time {source.timestamp} is {kind}, which knows no minutes")
                query = f"{self._select(f'{minute(source)} AS minute, count()', source, table)} GROUP BY minute"
                settings = await self._exact(table, await self._engine(table), final=final)
                for row in await self._query(query, source, table, window, left(), settings, may_be_empty=True):
                    minutes[datetime.fromtimestamp(row[0], UTC)] += int(row[1])
        return minutes

    async def newest(self, source: Source, window: Window, timeout: timedelta) -> datetime | None:
        # FINAL does not matter: merging keeps a row of every key, and the event time is part of it.
        async with self._client.within(timeout, str(source)):
            return await self._newest(source, window, time_left(timeout))

    async def _newest(self, source: Source, window: Window, left: _Left) -> datetime | None:
        found = []
        for table in source.tables:
            settings = await self._exact(table, await self._engine(table), final=None)
            query = self._select(newest(source), source, table)
            ((micros,),) = await self._query(query, source, table, window, left(), settings)
            if micros is not None:
                found.append(datetime.fromtimestamp(0, UTC) + timedelta(microseconds=micros))
        return max(found, default=None)

    async def now(self) -> datetime:
        """The server's clock. Raises like `count`."""
        rows = await self._client.probe("SELECT toUnixTimestamp64Micro(now64(6))", {}, "the time")
        return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=rows[0][0])

    async def zone(self) -> ZoneInfo:
        """The server's time zone, in which it reads instants that are written without one. Raises like `count`."""
        try:
            rows = await self._client.probe("SELECT serverTimezone()", {}, "its time zone")
        except PermanentError as exc:
            if code_of(exc.__cause__) != _UNKNOWN_FUNCTION:
                raise
            # An older server, whose sessions have its own zone.
            rows = await self._client.probe("SELECT timezone()", {}, "its time zone")
        return ZoneInfo(str(rows[0][0]))

    async def server(self) -> SourceServer:
        """The server's version and our user. Raises like `count`."""
        rows = await self._client.probe("SELECT version(), currentUser()", {}, "its version")
        return SourceServer(str(rows[0][0]), str(rows[0][1]))

    async def describe(self, name: str) -> SourceTable | None:
        """A table of a source in the system tables, None where it is not there. Raises like `count`."""
        database, table = self._split(name)
        names = {"database": database, "table": table}
        query = "FROM system.tables WHERE database = {database:String} AND name = {table:String}"
        # Aggregated there is always a row, also where there is no table.
        try:
            rows = await self._client.probe(f"SELECT any(engine), any(engine_full), count() {query}", names, name)
        except PermanentError as exc:
            if exc.reason is not Reason.ACCESS_DENIED:
                raise
            rows = await self._client.probe(f"SELECT any(engine), '', count() {query}", names, name)
        return SourceTable(str(rows[0][0]), str(rows[0][1])) if rows[0][2] else None

    async def rehearse(self, source: Source, final: bool | None, window: Window) -> None:
        """All checks of a count, and the server's plan of it, without counting rows. Raises like `count`."""
        for name in source.tables:
            engine = await self._engine(name)
            await self._require_whole(source, name, window, engine, counts_final(engine, final))

    async def _count(
        self, source: Source, name: str, window: Window, final: bool | None, left: _Left, key: Key | None
    ) -> SourceCount:
        """The count of one of a source's tables."""
        # Read for every audit: a table may have been swapped for another one.
        table = await self.describe(name)
        if table is None:
            text = f"there is no table {'.'.join(self._split(name))} (or no right to see it)"
            raise PermanentError(text, reason=Reason.SOURCE_TABLE_NOT_FOUND, where=self._client.options.where)
        use_final = counts_final(table.engine, final)
        settings = await self._require_whole(source, name, window, table.engine, use_final)
        # Rows that will merge have no fingerprint that lasts, even where they are counted without FINAL. Others have
        # one also with FINAL, which changes nothing there.
        merges = counts_final(table.engine, None)
        keyed = None if merges else key
        query = self._select("count()" if keyed is None else fingerprint_of(keyed), source, name)
        (row,) = await self._query(query, source, name, window, left(), settings)
        rows = int(row[0])
        readable = written_out(query, source, window) + (" SETTINGS final = 1" if use_final else "")
        found = None if keyed is None else fingerprint(row)
        return SourceCount(rows, readable, use_final, ttl_if_known(table.definition), found, merges)

    async def _query(
        self,
        query: str,
        source: Source,
        name: str,
        window: Window,
        timeout: timedelta,
        settings: Mapping[str, str],
        *,
        may_be_empty: bool = False,
    ) -> Rows:
        """A query of `_select`. Text that is no date and time makes it fail: the error then says which."""
        try:
            return await self._client.query(
                query, bounds(source, window), timeout, name, settings, may_be_empty=may_be_empty
            )
        except PermanentError as exc:
            if source.timestamp_as != "text" or exc.reason is not Reason.SOURCE_TYPE:
                raise
            bad = f"SELECT any({quoted(source.timestamp)}), count() FROM {self._table(name)}"
            rows = await self._client.query(
                f"{bad} WHERE {_all_of(unreadable(source), source.where)}", {}, timeout, name
            )
            if not rows[0][1]:
                raise
            text = f"the event time {source.timestamp} is no ISO 8601 date and time in {rows[0][1]} rows, like "
            raise self._unfit(name, f"{text}{rows[0][0]!r}") from exc

    async def _sample(self, source: Source, name: str) -> list[float]:
        """Some values of an event time that is a number; empty where they can't be had at once."""
        value = f"toFloat64({quoted(source.timestamp)})"
        query = f"SELECT groupArray(value) FROM (SELECT {value} AS value FROM {self._table(name)} LIMIT 100)"
        try:
            rows = await self._client.query(query, {}, _SAMPLE_TIMEOUT, name)
        except (DeadlineExceeded, PermanentError):
            return []
        return [float(value) for value in rows[0][0]]

    async def _engine(self, name: str) -> str | None:
        """The table's engine; None where it is not known."""
        table = await self.describe(name)
        return None if table is None else table.engine

    async def _exact(self, source: str, engine: str | None, *, final: bool | None) -> dict[str, str]:
        """The settings that keep a count whole, read each time: a profile may have changed. Raises like `count`."""
        # Without one of its own the session's time zone is the server's.
        value = "if(name = 'session_timezone', timezone(), value)"
        query = f"SELECT name, {value}, readonly FROM system.settings WHERE name IN {{names:Array(String)}}"
        names = [*EXACT_SETTINGS, *DISTRIBUTED_SETTINGS, FINAL]
        rows = await self._client.probe(query, {"names": names}, source)
        seen = [Setting(str(name), str(value), bool(readonly)) for name, value, readonly in rows]
        if TIMEZONE not in {setting.name for setting in seen}:
            ((zone,),) = await self._client.probe("SELECT timezone()", {}, source)
            require_utc(str(zone), self._client.options.where)
        return exact_settings(seen, self._client.options, final=final, local=is_local(engine))

    async def _require_whole(
        self, source: Source, name: str, window: Window, engine: str | None, final: bool
    ) -> dict[str, str]:
        """The settings that keep a count of this window whole.

        PermanentError `source_limited` where they can't be set, `source_type` where the event time can't be compared
        with the window, `source_filtered` where a row policy hides rows from our user. Those of other servers behind a
        Distributed table can't be seen.
        """
        settings = await self._exact(name, engine, final=final)
        await self._require_event_time(source, name, window)
        if source.where:
            await self._require_condition(source, name)
        await self._require_every_row(source, name, window, settings)
        return settings

    async def _require_event_time(self, source: Source, name: str, window: Window) -> None:
        """PermanentError `source_type` where the event time is of another type or unit than the settings say.

        No row would be found then, or the wrong ones.
        """
        kind = await self._kind(name, source.timestamp)
        if (text := misfit(source, kind, ())) or is_epoch(source):
            sample = await self._sample(source, name)
            if text := (text and misfit(source, kind, sample)) or wrong_unit(source, sample):
                raise self._unfit(name, text)
        if is_day(kind) and not is_of_days(window):
            text = f"the event time {source.timestamp} is {kind}, so only whole UTC days can be counted, not {window}"
            raise self._unfit(name, f"{text}: leave --window-hours out, or name a column that has the time")

    async def _require_every_row(self, source: Source, name: str, window: Window, settings: Mapping[str, str]) -> None:
        """PermanentError `source_filtered` where the server's plan of a count hides rows from our user."""
        # Optimised, a plan joins conditions: whose they are is lost.
        explain = f"EXPLAIN actions = 1, optimize = 0 {self._select('count()', source, name)}"
        rows = await self._client.probe(explain, bounds(source, window), name, settings)
        plan = "\n".join(str(row[0]) for row in rows)
        if hidden := _ROW_FILTER.search(plan):
            condition = plan[hidden.end() :].partition("column:")[2].partition("\n")[0].strip()
            text = f"{name}: a row policy hides rows from user {self._client.options.user}: {condition}"
            raise PermanentError(text, reason=Reason.SOURCE_FILTERED, where=self._client.options.where)

    async def _kind(self, name: str, column: str) -> str:
        """The type of a column of one of a source's tables.

        It is asked for by its name: `*` leaves MATERIALIZED and ALIAS columns out, and needs the right to read all.
        """
        described = await self._client.probe(f"DESCRIBE (SELECT {quoted(column)} FROM {self._table(name)})", {}, name)
        return str(described[0][1])

    async def _require_condition(self, source: Source, name: str) -> None:
        """PermanentError `source_type` where the source's condition is none."""
        try:
            await self._client.probe(f"DESCRIBE (SELECT 1 FROM {self._table(name)} WHERE ({source.where}))", {}, name)
        except PermanentError as exc:
            if exc.reason not in (Reason.UNEXPECTED, Reason.SOURCE_TYPE):
                raise
            raise self._unfit(
                name, f"source.where ({source.where}) is no condition on its rows: {exc.args[0]}"
            ) from exc

    def _unfit(self, name: str, text: str) -> PermanentError:
        return PermanentError(f"{name}: {text}", reason=Reason.SOURCE_TYPE, where=self._client.options.where)

    def _split(self, name: str) -> tuple[str, str]:
        database, _, table = name.rpartition(".")
        return database or self._client.options.database, table

    def _select(self, what: str, source: Source, name: str) -> str:
        """A query of a window's rows in one of a source's tables; `bounds` binds its parameters."""
        return f"SELECT {what} FROM {self._table(name)} WHERE {_all_of(within(source), source.where)}"

    def _table(self, name: str) -> str:
        database, table = self._split(name)
        return f"{quoted(database)}.{quoted(table)}"


def time_left(timeout: timedelta) -> _Left:
    """What is left of a time that begins now."""
    now = asyncio.get_running_loop().time
    end = now() + timeout.total_seconds()
    return lambda: timedelta(seconds=max(0.0, end - now()))


def _all_of(condition: str, where: str) -> str:
    return f"({condition}) AND ({where})" if where else condition
