"""The keys of a source's rows, as the port `SourceKeys`. Their SQL: keys.py; what differs: core/audit/keys.py."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta

from icekeeper.adapters.clickhouse.client import Rows
from icekeeper.adapters.clickhouse.counting import ClickHouse, time_left
from icekeeper.adapters.clickhouse.errors import code_of
from icekeeper.adapters.clickhouse.event_time import micros
from icekeeper.adapters.clickhouse.exact import is_local
from icekeeper.adapters.clickhouse.keys import (
    AT,
    column_type,
    columns_of,
    fingerprint,
    fingerprints_query,
    key_rows_query,
)
from icekeeper.core.audit.keys import ColumnType, KeyQuery, KeyRows
from icekeeper.core.audit.records import Fingerprint
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import Window
from icekeeper.core.errors import PermanentError

# src/Common/ErrorCodes.cpp of ClickHouse.
_UNKNOWN_IDENTIFIER = 47


class KeyedClickHouse(ClickHouse):
    """The ports `SourceCounter` and `SourceKeys`."""

    async def column_types(self, source: Source, columns: Sequence[str]) -> Mapping[str, ColumnType]:
        found: dict[str, ColumnType] = {}
        for column in columns:
            types = [await self._column_type(name, column) for name in source.tables]
            there = [each for each in types if each is not None]
            if len(there) == len(types):
                found[column] = _common(there)
        return found

    async def fingerprints(
        self, source: Source, window: Window, final: bool, query: KeyQuery, bits: int, timeout: timedelta
    ) -> Mapping[int, Fingerprint]:
        text = fingerprints_query(query, bits, self._rows_of(source, query))
        rows = await self._answer(text, source, window, final, timeout)
        return {int(bucket): fingerprint(row) for bucket, *row in rows}

    async def key_rows(
        self, source: Source, window: Window, final: bool, query: KeyQuery, timeout: timedelta
    ) -> Mapping[bytes, KeyRows]:
        text = key_rows_query(query, self._rows_of(source, query, f"{micros(source)} AS {AT}"))
        rows = await self._answer(text, source, window, final, timeout)
        return await asyncio.to_thread(_key_rows, rows)  # many rows take a while, and the loop has other work

    async def _column_type(self, name: str, column: str) -> ColumnType | None:
        """The type of one table's column; None where it has none of that name."""
        try:
            return column_type(await self._kind(name, column))
        except PermanentError as exc:
            if code_of(exc.__cause__) != _UNKNOWN_IDENTIFIER:
                raise
            return None

    def _rows_of(self, source: Source, query: KeyQuery, *more: str) -> str:
        """A query of the key's columns, and of more, in all of the source's tables."""
        selected = ", ".join((columns_of(query.key), *more))
        return " UNION ALL ".join(self._select(selected, source, name) for name in source.tables)

    async def _answer(self, text: str, source: Source, window: Window, final: bool, timeout: timedelta) -> Rows:
        left = time_left(timeout)
        async with self._client.within(timeout, str(source)):
            settings = await self._settings_of(source, final)
            return await self._query(text, source, source.tables[0], window, left(), settings, may_be_empty=True)

    async def _settings_of(self, source: Source, final: bool) -> dict[str, str]:
        """The settings that keep one query of all tables whole."""
        engines = [await self._engine(name) for name in source.tables]
        # One query reads them all, by the settings of the one that asks for most. FINAL changes nothing in tables that
        # merge no rows.
        remote = next((engine for engine in engines if not is_local(engine)), engines[0])
        return await self._exact(source.tables[0], remote, final=final)


def _key_rows(rows: Rows) -> dict[bytes, KeyRows]:
    return {bytes.fromhex(text): KeyRows(int(count), int(values), int(at)) for text, count, values, at in rows}


def _common(types: Sequence[ColumnType]) -> ColumnType:
    """The type of a column of several tables."""
    words = " or ".join(dict.fromkeys(each.words for each in types))
    kind = types[0].kind if len({each.kind for each in types}) == 1 else None
    return ColumnType(words, kind, max(each.scale for each in types))
