"""A table of the platform with some whole days, and hands to damage it: by its rows, its files and its manifests."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from pyarrow.fs import FileSystem, LocalFileSystem
from pyiceberg.manifest import DATA_FILE_TYPE, DEFAULT_READ_VERSION, DataFile
from pyiceberg.types import DecimalType

from icekeeper.core.calendar import Window
from icekeeper.sandbox.table_shapes import SHAPES, TableShape
from icekeeper.sandbox.table_writer import Head, TableWriter
from icekeeper.sandbox.world_spec import from_micros, to_micros
from tests.conftest import COINBASE, GOLD, SILVER, Night
from tests.damage.truth import KeyedRows, Row

DAY = timedelta(days=1)
# What tells rows apart, and values to compare. The source of gold merges rows: of its values nothing can be told.
KEYS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    COINBASE: (("symbol", "sequence_number"), ("price", "quantity", "exchange_timestamp")),
    SILVER: (("message_id",), ("price", "quantity", "timestamp")),
    GOLD: (("exchange", "canonical_symbol", "window_start"), ()),
}


@dataclass(frozen=True)
class LakeFile:
    """A data file, all of its rows, and of those of a window the first and last event time."""

    path: str
    rows: int
    first: datetime
    last: datetime


@dataclass(frozen=True)
class Scene:
    """One table of a night's world."""

    night: Night
    table: str

    @property
    def shape(self) -> TableShape:
        return SHAPES[self.table]

    @property
    def symbol(self) -> str:
        """The column that names what was traded."""
        return "symbol" if self.shape.layer == "bronze" else "canonical_symbol"

    # --- rows

    def within(self, window: Window) -> str:
        """The SQL condition on rows of a window."""
        return (
            f"{self.shape.timestamp} >= timestamp'{window.start:%Y-%m-%d %H:%M:%S} UTC' "
            f"AND {self.shape.timestamp} < timestamp'{window.end:%Y-%m-%d %H:%M:%S} UTC'"
        )

    async def sql(self, statement: str) -> list[Any]:
        """Runs Spark SQL; `{t}` in it is the table."""
        return await self.night.sql(statement.replace("{t}", f"{{c}}.{self.table}"))

    async def rows(self, condition: str) -> int:
        ((rows,),) = await self.sql(f"SELECT count(*) FROM {{t}} WHERE {condition}")
        return int(rows)

    async def symbols(self, condition: str) -> list[str]:
        rows = await self.sql(f"SELECT DISTINCT {self.symbol} FROM {{t}} WHERE {condition} ORDER BY 1")
        return [row[0] for row in rows]

    async def in_iceberg(self, window: Window) -> KeyedRows:
        """The rows of a window in Iceberg, by key."""
        texts = ", ".join(f"CAST({name} AS STRING)" for name in self._compared)
        at = f"unix_micros({self.shape.timestamp})"
        return self._keyed(await self.sql(f"SELECT {at}, {texts} FROM {{t}} WHERE {self.within(window)}"))

    @property
    def merges(self) -> bool:
        """Whether ClickHouse merges rows of the table."""
        return self.shape.engine != "MergeTree"

    def in_source(self, window: Window) -> KeyedRows:
        """The rows of a window in ClickHouse, by key; as if they were merged."""
        texts, time = ", ".join(f"toString({name})" for name in self._compared), self.shape.timestamp
        bounds = {"low": to_micros(window.start), "high": to_micros(window.end)}
        at = f"toUnixTimestamp64Micro(toDateTime64({time}, 6, 'UTC'))"
        answer = self.clickhouse(
            f"SELECT {at} AS at, {texts} FROM {{t}} {'FINAL' if self.merges else ''} "
            "WHERE at >= {low:Int64} AND at < {high:Int64} FORMAT JSONCompactEachRow",
            bounds,
        )
        return self._keyed(map(json.loads, answer.splitlines()))

    def clickhouse(self, statement: str, parameters: Mapping[str, object] | None = None) -> bytes:
        """Runs a statement in ClickHouse, which merges no rows that it inserts; `{t}` in it is the source."""
        world = self.night.world
        return world.clickhouse.execute(
            statement.replace("{t}", self.shape.source),
            database=world.clickhouse_database,
            parameters=parameters or {},
            settings={"optimize_on_insert": 0, "output_format_json_quote_64bit_integers": 0},
        )

    @property
    def _compared(self) -> tuple[str, ...]:
        """The columns of key and compared values, without the event time."""
        key, compare = KEYS[self.table]
        return tuple(name for name in (*key, *compare) if name != self.shape.timestamp)

    def _keyed(self, rows: Iterable[Any]) -> KeyedRows:
        """Rows, each of its event time in microseconds and texts, by key."""
        key, compare = KEYS[self.table]
        decimals = {field.name for field in self.shape.schema.fields if isinstance(field.field_type, DecimalType)}
        found: dict[tuple[str | None, ...], list[Row]] = defaultdict(list)
        for micros, *texts in rows:
            at = from_micros(int(micros))
            values = dict(zip(self._compared, texts, strict=True))
            values[self.shape.timestamp] = at.isoformat().replace("+00:00", "Z")
            numbers = {name: Decimal(values[name]) for name in decimals & values.keys() if values[name] is not None}
            compared = {**values, **numbers}
            row = Row(at, tuple(compared[name] for name in compare))
            found[tuple(values[name] for name in key)].append(row)
        return found

    # --- files

    async def files(self, window: Window) -> list[LakeFile]:
        """The data files that hold rows of a window, by path."""
        at = f"CASE WHEN {self.within(window)} THEN unix_micros({self.shape.timestamp}) END"
        found = await self.sql(
            f"SELECT _file, count(*), min({at}), max({at}) AS last FROM {{t}} GROUP BY 1 "
            "HAVING last IS NOT NULL ORDER BY 1"
        )
        return [LakeFile(path, rows, from_micros(first), from_micros(last)) for path, rows, first, last in found]

    def read(self, path: str) -> bytes:
        files, name = self._opened(path)
        with files.open_input_stream(name) as stream:
            return bytes(stream.read())

    def write(self, path: str, body: bytes) -> None:
        files, name = self._opened(path)
        with files.open_output_stream(name) as stream:
            stream.write(body)

    def delete(self, path: str) -> None:
        files, name = self._opened(path)
        files.delete_file(name)

    def _opened(self, path: str) -> tuple[FileSystem, str]:
        scheme, _, name = path.partition(":")
        name = name.lstrip("/")
        return (LocalFileSystem(), f"/{name}") if scheme == "file" else (self.night.box.s3.filesystem(), name)

    # --- manifests

    def append(self, path: str, change: Callable[[DataFile], DataFile]) -> DataFile:
        """Commits one more entry, made from that of a file that is there; the new one."""
        catalog = self.night.world.catalog
        metadata, files = catalog.load(self.shape)
        snapshot = metadata.current_snapshot()
        assert snapshot is not None
        entries = [e.data_file for m in snapshot.manifests(files) for e in m.fetch_manifest_entry(files)]
        (entry,) = [entry for entry in entries if entry.file_path == path]
        head = Head.of(metadata, files)
        with catalog.uploads() as put:
            added = change(entry)
            new, _ = TableWriter(metadata, put).append(head, [added], head.timestamp_ms + 1)
        catalog.commit(self.shape, metadata, new)
        return added


def changed(entry: DataFile, **values: Any) -> DataFile:
    """A manifest entry with other values in some of its fields."""
    fields = [field.name for field in DATA_FILE_TYPE[DEFAULT_READ_VERSION].fields]
    copy = DataFile(*(entry[place] for place in range(len(fields))))
    for name, value in values.items():
        copy[fields.index(name)] = value
    return copy


def day_of(slot: datetime) -> Window:
    """The UTC day before a slot's."""
    end = slot.replace(hour=0, minute=0, second=0, microsecond=0)
    return Window(end - DAY, end)
