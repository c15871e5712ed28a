"""A table of the platform with some whole days, and hands to damage it: by its rows, its files and its manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pyarrow.fs import FileSystem, LocalFileSystem
from pyiceberg.manifest import DATA_FILE_TYPE, DEFAULT_READ_VERSION, DataFile

from icekeeper.core.calendar import Window
from icekeeper.sandbox.table_shapes import SHAPES, TableShape
from icekeeper.sandbox.table_writer import Head, TableWriter
from tests.conftest import COINBASE, SILVER, Night

DAY = timedelta(days=1)
# What tells rows apart, and values to compare; the sources of these tables merge no rows.
KEYS = {
    COINBASE: (("symbol", "sequence_number"), ("price", "quantity")),
    SILVER: (("message_id",), ("price",)),
}
# By key: how often the compared values are there.
KeyedRows = Mapping[tuple[Any, ...], Counter[tuple[Any, ...]]]


@dataclass(frozen=True)
class LakeFile:
    """A data file and its live rows."""

    path: str
    rows: int


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

    async def keyed_rows(self, window: Window) -> KeyedRows:
        """The rows of a window by key; empty for a table that has none."""
        if self.table not in KEYS:
            return {}
        key, compare = KEYS[self.table]
        found: dict[tuple[Any, ...], Counter[tuple[Any, ...]]] = {}
        columns = ", ".join((*key, *compare))
        for row in await self.sql(f"SELECT {columns} FROM {{t}} WHERE {self.within(window)}"):
            found.setdefault(tuple(row[: len(key)]), Counter())[tuple(row[len(key) :])] += 1
        return found

    # --- files

    async def files(self, window: Window) -> list[LakeFile]:
        """The data files that hold rows of a window, by path."""
        rows = await self.sql(f"SELECT _file, count(*) FROM {{t}} WHERE {self.within(window)} GROUP BY 1 ORDER BY 1")
        return [LakeFile(*row) for row in rows]

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
