"""Rows of a source in a file, as the port `RepairSource`, their values converted exactly or not at all."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from icekeeper.adapters.clickhouse.client import ClickHouseOptions, writing_to
from icekeeper.adapters.clickhouse.event_time import bounds, instant_micros, micros, quoted
from icekeeper.adapters.clickhouse.keyed import KeyedClickHouse
from icekeeper.adapters.clickhouse.keys import unwrapped
from icekeeper.core.audit.repair import SourceColumn, SourceRows
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import Window

_INTEGER = r"U?Int\d+|Bool"
# By Iceberg's type: what ClickHouse may hold, and what it is cast to. accurateCast raises where a value doesn't fit.
_CASTS = {
    "boolean": (r"Bool", "Bool"),
    "int": (_INTEGER, "Int32"),
    "long": (_INTEGER, "Int64"),
    "float": (r"Float32|U?Int(?:8|16)", "Float32"),
    "double": (r"Float(?:32|64)|U?Int(?:8|16|32)", "Float64"),
}
_TEXT = r"String|FixedString\(\d+\)|UUID|Enum(?:8|16)\(.*\)"
_INSTANT = r"DateTime(?:64)?(?:\(.*\))?|Date(?:32)?"
_FINER = re.compile(r"DateTime64\([789]\b")  # than a microsecond
_DECIMAL = re.compile(r"decimal\((\d+), (\d+)\)")
_SOURCE_DECIMAL = re.compile(r"Decimal\(\d+, (\d+)\)")
_CAST, _CAST_OR_NULL = "accurateCast(", "accurateCastOrNull("
_PREFIX = "repair-"
# Parquet as Spark reads it, whatever the user's profile says.
_FORMAT = {
    "output_format_parquet_string_as_string": "1",
    "output_format_parquet_compression_method": "zstd",
    "output_format_parquet_fixed_string_as_fixed_byte_array": "0",
}


def converted(words: str, there: str, column: str) -> str | None:
    """The SQL of a column as a value of Iceberg's type; None where not every value has exactly one.

    `there`: its type in ClickHouse's words.
    """
    name, kind = quoted(column), unwrapped(there)
    if words in _CASTS:
        fitting, cast = _CASTS[words]
        return f"accurateCast({name}, 'Nullable({cast})')" if re.fullmatch(fitting, kind) else None
    if decimal := _DECIMAL.fullmatch(words):
        scale = int(decimal[2])
        source = _SOURCE_DECIMAL.fullmatch(kind)
        fits = int(source[1]) <= scale if source else re.fullmatch(_INTEGER, kind) is not None
        return f"accurateCast({name}, 'Nullable(Decimal({decimal[1]}, {scale}))')" if fits else None
    if words in ("timestamp", "timestamptz"):
        instant = f"fromUnixTimestamp64Micro({instant_micros(name)}, 'UTC')"
        return instant if re.fullmatch(_INSTANT, kind) and not _FINER.match(kind) else None
    if words == "date":
        return f"toDate32({name})" if re.fullmatch(r"Date(?:32)?", kind) else None
    if words in ("string", "uuid"):
        return f"toString({name})" if re.fullmatch(_TEXT, kind) else None
    nested = {"list<string>": r"Array\((.*)\)", "map<string, string>": r"Map\((?:LowCardinality\()?String\)?, (.*)\)"}
    if words in nested and (inner := re.fullmatch(nested[words], kind)) and unwrapped(inner[1]) == "String":
        return name
    return None


class RowsClickHouse(KeyedClickHouse):
    """The ports `SourceCounter`, `SourceKeys` and `RepairSource`."""

    def __init__(self, options: ClickHouseOptions, directory: Path) -> None:
        """`directory`: on this host, for rows on their way."""
        super().__init__(options)
        self._directory = directory

    async def examine(
        self, source: Source, window: Window, final: bool, columns: Sequence[SourceColumn], timeout: timedelta
    ) -> SourceRows:
        types = await self.column_types(source, [each.source for each in columns])
        there = [each for each in columns if each.source in types]
        unfit = {
            each.column.name: types[each.source].words
            for each in there
            if any(_selected(source, each, words) is None for words in types[each.source].words.split(" or "))
        }
        required = [each for each in there if each.column.required]
        casts = {
            each: cast
            for each in there
            if (cast := _selected(source, each, types[each.source].words.partition(" or ")[0])) is not None
            and cast.startswith(_CAST)
        }
        counts = ["count()", *(f"countIf(isNull({quoted(each.source)}))" for each in required)]
        for each, cast in casts.items():
            held = f"{_CAST_OR_NULL}{cast.removeprefix(_CAST)}"
            counts.append(f"countIf(isNotNull({quoted(each.source)}) AND isNull({held}))")
        read = (quoted(each.source) for each in (*required, *casts))
        names = ", ".join(dict.fromkeys([quoted(source.timestamp), *read]))
        text = f"SELECT {', '.join(counts)} FROM ({self._union(names, source)})"
        ((rows, *numbers),) = await self._answer(text, source, window, final, timeout)
        nulls, large = numbers[: len(required)], numbers[len(required) :]
        return SourceRows(
            rows=int(rows),
            absent=frozenset(each.column.name for each in columns if each.source not in types),
            unfit=unfit,
            nulls={each.column.name: int(n) for each, n in zip(required, nulls, strict=True) if n},
            too_large={each.column.name: int(n) for each, n in zip(casts, large, strict=True) if n},
        )

    @asynccontextmanager
    async def exported(
        self, source: Source, window: Window, final: bool, columns: Sequence[SourceColumn], timeout: timedelta
    ) -> AsyncIterator[str]:
        types = await self.column_types(source, [each.source for each in columns])
        # Of names that both sides have an alias would hide the column.
        selected = ", ".join(
            f"{_selected(source, each, types[each.source].words.partition(' or ')[0])} AS c{number}"
            for number, each in enumerate(columns)
        )
        names = ", ".join(dict.fromkeys([quoted(source.timestamp), *(quoted(each.source) for each in columns)]))
        query = f"SELECT {selected} FROM ({self._union(names, source)})"
        settings = await self._settings_of(source, final)
        await asyncio.to_thread(self._remove_leftovers)
        # Only we may read it.
        with writing_to(self._directory):
            made = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._directory)
        with made as directory:
            path = Path(directory, "rows.parquet")
            parameters = bounds(source, window)
            await self._client.save(query, parameters, timeout, str(source), path, settings, _FORMAT)
            yield str(path)

    def _remove_leftovers(self) -> None:
        """Removes the rows of a repair whose process was killed: there is one run at a time."""
        for left in self._directory.glob(f"{_PREFIX}*"):
            shutil.rmtree(left, ignore_errors=True)

    def _union(self, names: str, source: Source) -> str:
        return " UNION ALL ".join(self._select(names, source, table) for table in source.tables)


def _selected(source: Source, each: SourceColumn, there: str) -> str | None:
    """The SQL of a column; an event time is read as the source's settings say it is stored."""
    if each.source == source.timestamp and source.timestamp_as not in (None, "date"):
        instant = f"fromUnixTimestamp64Micro({micros(source)}, 'UTC')"
        return instant if each.column.words in ("timestamp", "timestamptz") else None
    return converted(each.column.words, there, each.source)
