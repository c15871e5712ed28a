"""The platform's ten tables in ClickHouse and Iceberg: names, types, partitions, engines, in both generations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema, assign_fresh_schema_ids
from pyiceberg.transforms import DayTransform, IdentityTransform, MonthTransform, Transform
from pyiceberg.types import (
    BooleanType,
    DecimalType,
    IcebergType,
    IntegerType,
    ListType,
    LongType,
    MapType,
    NestedField,
    StringType,
    TimestamptzType,
)

Layer = Literal["bronze", "silver", "gold"]
# Bronze of the older generation merges rows (ReplacingMergeTree) and has no table properties in Iceberg; silver has
# three nested columns that were dropped later.
Generation = Literal["current", "older"]

NAMESPACE = "cold"
EXCHANGES = ("binance", "kraken", "coinbase")
# The window of each gold table.
GOLD_WINDOWS = {
    "1m": timedelta(minutes=1),
    "5m": timedelta(minutes=5),
    "15m": timedelta(minutes=15),
    "30m": timedelta(minutes=30),
    "1h": timedelta(hours=1),
    "1d": timedelta(days=1),
}
ICEBERG_PROPERTIES = {
    "write.format.default": "parquet",
    "write.parquet.compression-codec": "zstd",
    "write.parquet.compression-level": "3",
    "write.metadata.metrics.default": "full",
    "history.expire.max-snapshot-age-ms": "604800000",
}
_MONEY = DecimalType(38, 8)
_YEAR = timedelta(days=365)
# Columns of which a manifest keeps counts and no bounds.
_ONLY_COUNTED = {
    "bronze": ("symbol",),
    "silver": ("canonical_symbol", "exchange", "asset_class"),
    "gold": ("canonical_symbol",),
}


@dataclass(frozen=True)
class TableShape:
    """One table of the platform.

    `sequence` is the column whose maximum the offload stores beside its watermark, if the table has one.
    `clickhouse_columns` are (name, type) pairs; those named like an Iceberg column are what the offload reads.
    ClickHouse drops a row `source_ttl` after the time in `ttl_column`. `window` is the gold tables' candle;
    `version_column` is there on ReplacingMergeTree.
    """

    iceberg: str
    source: str
    timestamp: str
    layer: Layer
    source_ttl: timedelta
    ttl_column: str
    schema: Schema
    properties: Mapping[str, str]
    partition: PartitionSpec
    clickhouse_columns: tuple[tuple[str, str], ...]
    engine: str
    order_by: str
    partition_by: str | None = None
    exchange: str | None = None
    sequence: str | None = None
    version_column: str | None = None
    window: timedelta | None = None

    @property
    def identifier(self) -> tuple[str, str]:
        """(namespace, name) of the Iceberg table."""
        namespace, _, name = self.iceberg.partition(".")
        return namespace, name

    @property
    def offloaded_columns(self) -> tuple[str, ...]:
        """The columns of the Iceberg table, in its order."""
        return tuple(field.name for field in self.schema.fields)

    def max_sequence(self, rows: pa.Table) -> int | None:
        """The largest sequence number of some rows, if the table has one."""
        return None if self.sequence is None else int(pc.max(rows.column(self.sequence)).as_py())

    def ddl(self) -> str:
        """The CREATE TABLE of the ClickHouse side, for its database.

        Three table settings stop background and TTL merges, so that unmerged rows stay unmerged and no row of a world's
        past is dropped during a test; the TTL can still be read.
        """
        years = self.source_ttl // _YEAR
        ttl = f"{years} YEAR" if years else f"{self.source_ttl.days} DAY"
        columns = ",\n    ".join(f"`{name}` {kind}" for name, kind in self.clickhouse_columns)
        partition = f"PARTITION BY {self.partition_by}\n" if self.partition_by else ""
        return (
            f"CREATE TABLE {self.source} (\n    {columns}\n)\nENGINE = {self.engine}\n{partition}"
            f"ORDER BY ({self.order_by})\n"
            f"TTL toDateTime({self.ttl_column}) + INTERVAL {ttl}\n"
            "SETTINGS max_number_of_merges_with_ttl_in_pool = 0, "
            "max_bytes_to_merge_at_min_space_in_pool = 1, max_bytes_to_merge_at_max_space_in_pool = 1"
        )


def _schema(*columns: tuple[str, IcebergType]) -> Schema:
    fields = [NestedField(number, name, kind, required=False) for number, (name, kind) in enumerate(columns, start=1)]
    return assign_fresh_schema_ids(Schema(*fields))


def _partition(schema: Schema, *fields: tuple[str, Transform[Any, Any], str]) -> PartitionSpec:
    """As Spark names them: the source column, and the transform if there is one."""
    return PartitionSpec(
        *(
            PartitionField(schema.find_field(column).field_id, 1000 + number, transform, name)
            for number, (column, transform, name) in enumerate(fields)
        ),
        spec_id=0,
    )


def _properties(layer: Layer) -> dict[str, str]:
    counted = {f"write.metadata.metrics.column.{name}": "counts" for name in _ONLY_COUNTED[layer]}
    return {**ICEBERG_PROPERTIES, **counted}


def _bronze(exchange: str, generation: Generation) -> TableShape:
    older = generation == "older"
    replacing = older and exchange != "coinbase"
    money = DecimalType(18, 8) if older else _MONEY
    schema = _schema(
        ("exchange_timestamp", TimestamptzType()),
        ("sequence_number", LongType()),
        ("symbol", StringType()),
        ("price", money),
        ("quantity", money),
        ("quote_volume", money),
        ("event_time", TimestamptzType()),
        ("kafka_offset", LongType()),
        ("kafka_partition", IntegerType()),
        ("ingestion_timestamp", TimestamptzType()),
    )
    columns = [
        ("exchange_timestamp", "DateTime64(3)"),
        ("sequence_number", "UInt64"),
        ("symbol", "LowCardinality(String)"),
        ("price", "Decimal(18, 8)"),
        ("quantity", "Decimal(18, 8)"),
        ("quote_volume", "Decimal(18, 8)"),
        ("event_time", "DateTime64(3)"),
        ("kafka_offset", "UInt64"),
        ("kafka_partition", "UInt16"),
        ("ingestion_timestamp", "DateTime"),
    ]
    order_by = "exchange_timestamp, sequence_number"
    if exchange == "coinbase":
        order_by = f"symbol, {order_by}"
    if replacing:
        order_by = f"exchange, canonical_symbol, {order_by}"
        columns += [
            ("exchange", "LowCardinality(String)"),
            ("canonical_symbol", "LowCardinality(String)"),
            ("_version", "UInt64"),
        ]
    return TableShape(
        iceberg=f"{NAMESPACE}.bronze_trades_{exchange}",
        source=f"bronze_trades_{exchange}",
        timestamp="exchange_timestamp",
        layer="bronze",
        source_ttl=timedelta(days=7),
        ttl_column="exchange_timestamp" if older or exchange == "coinbase" else "ingestion_timestamp",
        schema=schema,
        properties={} if older else _properties("bronze"),
        partition=_partition(schema, ("exchange_timestamp", DayTransform(), "exchange_timestamp_day")),
        clickhouse_columns=tuple(columns),
        engine="ReplacingMergeTree(_version)" if replacing else "MergeTree",
        order_by=order_by,
        exchange=exchange,
        sequence="sequence_number",
        version_column="_version" if replacing else None,
    )


def _silver(generation: Generation) -> TableShape:
    texts = ("message_id", "trade_id", "exchange", "symbol", "canonical_symbol", "asset_class", "currency")
    moments = ("timestamp", "ingestion_timestamp", "processed_at")
    money = ("price", "quantity", "quote_volume")
    words = ListType(0, StringType(), element_required=False)
    fields: tuple[tuple[str, IcebergType], ...] = (
        *((name, StringType()) for name in texts),
        *((name, _MONEY) for name in money),
        ("side", StringType()),
        ("trade_conditions", words),
        *((name, TimestamptzType()) for name in moments),
        ("source_sequence", LongType()),
        ("platform_sequence", LongType()),
        ("vendor_data", MapType(0, StringType(), 0, StringType(), value_required=False)),
        ("is_valid", BooleanType()),
        ("validation_errors", words),
    )
    schema = _schema(*(field for field in fields if generation == "older" or field[1].is_primitive))
    return TableShape(
        iceberg=f"{NAMESPACE}.silver_trades",
        source="silver_trades",
        timestamp="timestamp",
        layer="silver",
        source_ttl=timedelta(days=30),
        ttl_column="timestamp",
        schema=schema,
        properties=_properties("silver"),
        partition=_partition(
            schema,
            ("timestamp", DayTransform(), "timestamp_day"),
            ("exchange", IdentityTransform(), "exchange"),
            ("asset_class", IdentityTransform(), "asset_class"),
        ),
        clickhouse_columns=(
            ("message_id", "String"),
            ("trade_id", "String"),
            *((name, "LowCardinality(String)") for name in texts[2:]),
            *((name, "Decimal(38, 8)") for name in money),
            ("side", "LowCardinality(String)"),
            ("trade_conditions", "Array(String)"),
            *((name, "DateTime64(6, 'UTC')") for name in moments),
            ("source_sequence", "Int64"),
            ("platform_sequence", "Int64"),
            ("vendor_data", "Map(String, String)"),
            ("is_valid", "Bool"),
            ("validation_errors", "Array(String)"),
        ),
        engine="MergeTree",
        order_by="canonical_symbol, timestamp, platform_sequence",
        partition_by="(exchange, asset_class, toDate(timestamp))",
        sequence="platform_sequence",
    )


def _gold(name: str, window: timedelta) -> TableShape:
    schema = _schema(
        ("exchange", StringType()),
        ("canonical_symbol", StringType()),
        ("window_start", TimestamptzType()),
        ("open_time", TimestamptzType()),
        ("open_price", _MONEY),
        ("close_time", TimestamptzType()),
        ("close_price", _MONEY),
        ("high_price", _MONEY),
        ("low_price", _MONEY),
        ("volume", _MONEY),
        ("quote_volume", _MONEY),
        ("trade_count", LongType()),
    )
    kinds = {"string": "LowCardinality(String)", "timestamptz": "DateTime64(3)", "long": "UInt64"}
    summed = ("volume", "quote_volume")
    return TableShape(
        iceberg=f"{NAMESPACE}.gold_ohlcv_{name}",
        source=f"ohlcv_{name}",
        timestamp="window_start",
        layer="gold",
        source_ttl=2 * _YEAR if name == "1d" else _YEAR,
        ttl_column="window_start",
        schema=schema,
        properties=_properties("gold"),
        partition=_partition(
            schema,
            ("window_start", MonthTransform(), "window_start_month"),
            ("exchange", IdentityTransform(), "exchange"),
        ),
        clickhouse_columns=tuple(
            (field.name, kinds.get(str(field.field_type), f"Decimal({38 if field.name in summed else 18}, 8)"))
            for field in schema.fields
        ),
        engine="SummingMergeTree((volume, quote_volume, trade_count))",
        order_by="exchange, canonical_symbol, window_start",
        window=window,
    )


def _tables(generation: Generation) -> tuple[TableShape, ...]:
    return (
        *(_bronze(exchange, generation) for exchange in EXCHANGES),
        _silver(generation),
        *(_gold(name, window) for name, window in GOLD_WINDOWS.items()),
    )


TABLES = _tables("current")
SHAPES = {shape.iceberg: shape for shape in TABLES}
_OLDER = {shape.iceberg: shape for shape in _tables("older")}


def shape_of(table: str, generation: Generation) -> TableShape:
    """A table of the platform by its Iceberg name; KeyError for any other."""
    return (SHAPES if generation == "current" else _OLDER)[table]
