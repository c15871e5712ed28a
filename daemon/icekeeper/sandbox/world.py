"""A built world: its databases and catalog, icekeeper's settings for it, and its rows. world_builder.py builds it."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import yaml
from pyiceberg.catalog import Catalog
from pyiceberg.expressions import AlwaysTrue

from icekeeper.sandbox.catalogs import LakeCatalog
from icekeeper.sandbox.errors import SandboxError
from icekeeper.sandbox.file_slices import micros
from icekeeper.sandbox.servers.clickhouse import ClickHouse
from icekeeper.sandbox.servers.postgres import Postgres
from icekeeper.sandbox.servers.process import LOOPBACK, free_ports
from icekeeper.sandbox.table_shapes import Layer, TableShape
from icekeeper.sandbox.trades import Ticks, late_rows_of, rows_of
from icekeeper.sandbox.watermarks import RepairRequests, Watermarks
from icekeeper.sandbox.world_spec import WorldSpec, to_micros


@dataclass(frozen=True)
class WorldTable:
    """One table of a world, as icekeeper's settings name it."""

    name: str
    source: str
    timestamp: str
    layer: Layer


class World:
    """Up to ten tables, each in ClickHouse and Iceberg, isolated from the sandbox's other worlds."""

    def __init__(
        self, spec: WorldSpec, name: str, clickhouse: ClickHouse, postgres: Postgres, catalog: LakeCatalog
    ) -> None:
        self.spec = spec
        self.name = name
        self.catalog_name = catalog.name
        self.clickhouse_database = name
        self.postgres_database = name
        self.tables = tuple(
            WorldTable(shape.iceberg, shape.source, shape.timestamp, shape.layer) for shape in spec.shapes
        )
        self.clickhouse = clickhouse
        self.postgres = postgres
        self.catalog = catalog
        self.watermarks = Watermarks(postgres, name)
        self.repair_requests = RepairRequests(postgres, name)
        self._late_calls = 0

    # --- icekeeper's settings

    def catalog_settings(self) -> dict[str, Any]:
        """The document below icekeeper's settings key `catalog`."""
        return self.catalog.settings()

    def settings(self, state_dir: Path) -> dict[str, Any]:
        """A whole settings document for icekeeper, with passwords."""
        (http_port,) = free_ports(1)
        return {
            "spark": {"driver_memory": "2g"},
            "catalog": self.catalog_settings(),
            "clickhouse": {
                "url": self.clickhouse.url,
                "database": self.clickhouse_database,
                "user": self.clickhouse.user,
                "password": self.clickhouse.password,
            },
            "postgres": {"dsn": self.postgres.dsn(self.postgres_database), "password": self.postgres.password},
            "offload": {"table": "offload_watermarks", "every": f"{self.spec.step_us // 10**6}s"},
            "tables": [
                {
                    "name": table.name,
                    "source": table.source,
                    "timestamp": table.timestamp,
                    "layer": table.layer,
                }
                for table in self.tables
            ],
            "http": {"listen": f"{LOOPBACK}:{http_port}"},
            "state_dir": str(state_dir),
        }

    def write_config(self, path: Path, state_dir: Path) -> Path:
        """The settings as a YAML file that only its owner can read."""
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(yaml.safe_dump(self.settings(state_dir), sort_keys=False))
        return path

    def pyiceberg_catalog(self) -> Catalog:
        """The catalog, for reading tables. A hadoop catalog shows them as of this call, without later commits."""
        return self.catalog.pyiceberg()

    # --- counting

    def rows_iceberg(self, table: str, start: datetime | None = None, end: datetime | None = None) -> int:
        """Live rows of the Iceberg table with `start <= event time < end`."""
        shape = self._shape(table)
        bounds = [
            f"{shape.timestamp} {operator} '{moment.astimezone(UTC).isoformat()}'"
            for operator, moment in ((">=", start), ("<", end))
            if moment is not None
        ]
        table_now = self.catalog.pyiceberg().load_table(shape.identifier)
        return table_now.scan(row_filter=" AND ".join(bounds) or AlwaysTrue()).count()

    def rows_clickhouse(
        self, table: str, start: datetime | None = None, end: datetime | None = None, *, final: bool = False
    ) -> int:
        """Rows of the ClickHouse table with `start <= event time < end`.

        `final` counts them as if merged; on a plain MergeTree, which refuses FINAL, that is the same.
        """
        shape = self._shape(table)
        where = "1"
        bounds: dict[str, int] = {}
        for name, operator, moment in (("low", ">=", start), ("high", "<", end)):
            if moment is not None:
                where += f" AND {shape.timestamp} {operator} fromUnixTimestamp64Micro({{{name}:Int64}}, 'UTC')"
                bounds[name] = to_micros(moment)
        how = "FINAL" if final and shape.engine != "MergeTree" else ""
        sql = f"SELECT count() FROM {shape.source} {how} WHERE {where}"
        return int(self.clickhouse.execute(sql, database=self.clickhouse_database, parameters=bounds))

    def watermark(self, table: str) -> datetime | None:
        """The event time of the newest row that is offloaded, 1970 if there is none."""
        return self.watermarks.at(self._shape(table).source)

    # --- rows in ClickHouse

    def insert(self, shape: TableShape, rows: pa.Table) -> None:
        """Puts rows into ClickHouse as one insert, unmerged."""
        if rows.num_rows == 0:
            return
        buffer = pa.BufferOutputStream()
        with pa.ipc.new_stream(buffer, rows.schema) as writer:
            writer.write_table(rows)
        columns = ", ".join(f"`{name}`" for name in rows.column_names)
        self.clickhouse.execute(
            f"INSERT INTO {shape.source} ({columns}) FORMAT ArrowStream",
            database=self.clickhouse_database,
            data=buffer.getvalue().to_pybytes(),
            # By default ClickHouse merges equal keys of one insert at once.
            settings={"optimize_on_insert": 0, "max_partitions_per_insert_block": 0},
        )

    def read(self, shape: TableShape, low_us: int, high_us: int) -> pa.Table:
        """What the offload reads: rows with `low < event time <= high`, unmerged, with the Iceberg table's columns."""
        kinds = dict(shape.clickhouse_columns)
        columns = ", ".join(
            # ClickHouse gives Arrow a DateTime as a number.
            f"toDateTime64(`{name}`, 0, 'UTC') AS `{name}`" if kinds[name] == "DateTime" else f"`{name}`"
            for name in shape.offloaded_columns
        )
        sql = (
            f"SELECT {columns} FROM {shape.source} "
            f"WHERE {shape.timestamp} > fromUnixTimestamp64Micro({{low:Int64}}, 'UTC') "
            f"AND {shape.timestamp} <= fromUnixTimestamp64Micro({{high:Int64}}, 'UTC') FORMAT ArrowStream"
        )
        body = self.clickhouse.execute(
            sql,
            database=self.clickhouse_database,
            parameters={"low": low_us, "high": high_us},
            settings={"output_format_arrow_low_cardinality_as_dictionary": 0},
        )
        return pa.ipc.open_stream(io.BytesIO(body)).read_all()

    def late_rows(self, table: str, start: datetime, rows: int | None = None, fraction: float | None = None) -> int:
        """Adds rows to ClickHouse in the hour from `start`, behind the watermark: they will never be offloaded.

        Give a number of rows, or a fraction of what ClickHouse holds of that hour now. They have keys of their own,
        so FINAL counts them. On gold they fall on window starts: for `ohlcv_1d` only the hour of midnight has one.
        Returns how many were added. Raises SandboxError if they aren't behind the watermark.
        """
        shape = self._shape(table)
        end = start + timedelta(hours=1)
        if (rows is None) == (fraction is None):
            raise ValueError("give either rows or a fraction")
        if rows is None:
            rows = round(self.rows_clickhouse(table, start, end) * (fraction or 0.0))
        if rows == 0:
            return 0
        self._late_calls += 1
        # Ticks are open below and closed above, hours the other way round.
        low, high = to_micros(start) - 1, to_micros(end) - 1000
        added = late_rows_of(shape, low, high, rows, self._late_calls)
        watermark = self.watermark(table)
        if watermark is None or (added.num_rows and micros(added, shape.timestamp).max() > to_micros(watermark)):
            raise SandboxError(f"{table}: {start} to {end} is not behind the watermark {watermark}")
        self.insert(shape, added)
        return int(added.num_rows)

    def lose_hour(self, table: str, day: datetime, hour: int) -> int:
        """As if the offload had lost that hour: as many rows again arrive in ClickHouse as it holds of the hour.

        Iceberg then has half of the hour. (A whole missing hour: `WorldSpec.lost`, or `Offload.run(lose=...)`.)
        """
        midnight = day.replace(hour=0, minute=0, second=0, microsecond=0)
        return self.late_rows(table, midnight + timedelta(hours=hour), fraction=1.0)

    def trade(self, until: datetime) -> None:
        """Inserts the rows of all tables with event times from `traded_until` to `until` into ClickHouse.

        The offload copies them at its next run.
        """
        low, high = to_micros(self.traded_until()), to_micros(until)
        if high <= low:
            return
        step, volume = self.spec.step_us, self.spec.volume
        full = (high - low) // step
        edges = low + np.arange(full + 1, dtype=np.int64) * step
        rest = int(high - edges[-1])
        for shape in self.spec.shapes:
            if full:
                self.insert(shape, rows_of(shape, Ticks(edges[:-1], edges[1:]), volume, self.spec.seed).offered)
            if rest:
                part = replace(volume, rows=max(1, volume.rows * rest // step))
                ticks = Ticks(edges[-1:], edges[-1:] + rest)
                self.insert(shape, rows_of(shape, ticks, part, self.spec.seed).offered)
        self.postgres.execute(self.postgres_database, "UPDATE sandbox_world SET traded_until = $1", until)

    def traded_until(self) -> datetime:
        """Up to which event time ClickHouse has rows."""
        rows = self.postgres.execute(self.postgres_database, "SELECT traded_until FROM sandbox_world")
        moment: datetime = rows[0][0]
        return moment

    def merge(self, table: str) -> None:
        """Has ClickHouse merge the table's parts now; no TTL is applied."""
        shape = self._shape(table)
        self.clickhouse.execute(f"SYSTEM STOP TTL MERGES {shape.source}", database=self.clickhouse_database)
        self.clickhouse.execute(f"OPTIMIZE TABLE {shape.source} FINAL", database=self.clickhouse_database)

    def _shape(self, table: str) -> TableShape:
        if table not in self.spec.tables:
            raise SandboxError(f"the world {self.name} has no table {table}; it has {', '.join(self.spec.tables)}")
        return next(shape for shape in self.spec.shapes if shape.iceberg == table)


def hours_mask(shape: TableShape, rows: pa.Table, hours: Sequence[datetime]) -> Any:
    """True for the rows (a numpy array of bool) whose event time lies in none of these hours."""
    at = micros(rows, shape.timestamp)
    kept = np.ones(rows.num_rows, dtype=bool)
    for hour in hours:
        start = to_micros(hour)
        kept &= (at < start) | (at >= start + 3_600_000_000)
    return kept


def valid_name(name: str) -> str:
    """The name, if it can be a database, a catalog and a bucket; raises ValueError if not."""
    if not re.fullmatch(r"[a-z][a-z0-9_]{1,30}", name):
        raise ValueError(f"{name!r} can't name a world: lower-case letters, digits and _, 2 to 31 of them")
    return name
