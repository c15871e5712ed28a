"""A shop's orders, as a user has them: an Iceberg table of many small files, written and read by pyiceberg alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import time_machine
from pyiceberg.catalog import Catalog
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import StaticTable, Table
from pyiceberg.transforms import DayTransform
from pyiceberg.types import DecimalType, LongType, NestedField, StringType, TimestamptzType

from icekeeper.sandbox import Sandbox

NAMESPACE, NAME = "shop", "orders"
TABLE = f"{NAMESPACE}.{NAME}"
COMMITS, ROWS = 12, 8
SCHEMA = Schema(
    NestedField(1, "id", LongType(), required=True),
    NestedField(2, "customer", StringType()),
    NestedField(3, "amount", DecimalType(10, 2)),
    NestedField(4, "placed_at", TimestamptzType(), required=True),
)
_BY_DAY = PartitionSpec(PartitionField(source_id=4, field_id=1000, transform=DayTransform(), name="day"))
# What a table is after its first night: a file for each of its two days, and the last three snapshots.
KEPT = (2, 3)


def audited_day() -> date:
    """The day that a night audits now, if it begins at 02:00."""
    return (datetime.now(UTC) - timedelta(hours=2)).date() - timedelta(days=1)


def slot_after(day: date) -> datetime:
    """The slot whose night audits a day."""
    return datetime(day.year, day.month, day.day, 2, tzinfo=UTC) + timedelta(days=1)


def orders(day: date, commit: int) -> pa.Table:
    """The rows of a commit: half of them are of a day, half of the one before."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    numbers = range(commit * ROWS, (commit + 1) * ROWS)
    columns = [
        list(numbers),
        [None if number % 5 == 0 else f"customer {number % 3}" for number in numbers],
        [Decimal(number).scaleb(-2) + 1 for number in numbers],
        [midnight + timedelta(minutes=7 * number, days=-(number % 2)) for number in numbers],
    ]
    return pa.table(columns, schema=SCHEMA.as_arrow())


def write(catalog: Catalog, day: date, *, location: str | None = None, ago: timedelta = timedelta(days=30)) -> Table:
    """Makes the table and its commits, all of a month ago."""
    catalog.create_namespace_if_not_exists(NAMESPACE)
    with time_machine.travel(datetime.now(UTC) - ago, tick=True):
        table = catalog.create_table(TABLE, SCHEMA, location=location, partition_spec=_BY_DAY)
        for commit in range(COMMITS):
            table.append(orders(day, commit))
    return table


@dataclass(frozen=True)
class Content:
    """All rows of a table, in order, and what they lie in."""

    rows: pa.Table
    files: int
    snapshots: int

    @classmethod
    def of(cls, table: Table) -> Content:
        rows = table.scan().to_arrow().cast(SCHEMA.as_arrow()).sort_by("id")
        return cls(rows, len(list(table.scan().plan_files())), len(table.snapshots()))

    @classmethod
    def at(cls, metadata: str | Path) -> Content:
        """By a metadata file, whatever catalog names it."""
        return cls.of(StaticTable.from_metadata(str(metadata)))


@contextmanager
def sqlite(directory: Path) -> Iterator[SqlCatalog]:
    """The catalog `lake` in a file of SQLite, with a warehouse beside it."""
    (directory / "warehouse").mkdir(exist_ok=True)
    uri = f"sqlite:///{directory}/catalog.db"
    catalog = SqlCatalog("lake", uri=uri, warehouse=f"file://{directory}/warehouse")
    try:
        yield catalog
    finally:
        catalog.close()


def fill_warehouse(directory: Path, day: date) -> tuple[Content, Path]:
    """A table in `directory`/warehouse/shop/orders that no catalog of icekeeper's names yet; its newest metadata."""
    catalog = SqlCatalog("lake", uri="sqlite:///:memory:", warehouse=f"file://{directory}/warehouse")
    try:
        table = write(catalog, day, location=f"file://{directory}/warehouse/{NAMESPACE}/{NAME}")
        return Content.of(table), Path(table.metadata_location.removeprefix("file://"))
    finally:
        catalog.close()


def fill_sqlite(directory: Path, day: date) -> Content:
    with sqlite(directory) as catalog:
        return Content.of(write(catalog, day))


def read_sqlite(directory: Path) -> Content:
    with sqlite(directory) as catalog:
        return Content.of(catalog.load_table(TABLE))


def offload_into(box: Sandbox, database: str, day: date) -> None:
    """The same rows in ClickHouse."""
    box.clickhouse.execute(f"CREATE DATABASE {database}")
    box.clickhouse.execute(
        "CREATE TABLE orders (id Int64, customer Nullable(String), amount Decimal(10, 2), "
        "placed_at DateTime64(6, 'UTC')) ENGINE = MergeTree ORDER BY id",
        database=database,
    )
    rows = pa.concat_tables([orders(day, commit) for commit in range(COMMITS)])
    insert(box, database, "orders", rows)


def insert(box: Sandbox, database: str, table: str, rows: pa.Table) -> None:
    buffer = pa.BufferOutputStream()
    with pa.ipc.new_stream(buffer, rows.schema) as writer:
        writer.write_table(rows)
    names = ", ".join(rows.column_names)
    data = buffer.getvalue().to_pybytes()
    box.clickhouse.execute(f"INSERT INTO {table} ({names}) FORMAT ArrowStream", database=database, data=data)
