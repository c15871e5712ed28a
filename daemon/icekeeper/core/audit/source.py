"""Where ClickHouse holds the rows of a table, as the settings describe it. Counting there: adapters/clickhouse."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

# How a column holds the event time that is no DateTime64, DateTime or Date: an epoch in its unit, a day, ISO 8601.
TimestampAs = Literal["epoch_s", "epoch_ms", "epoch_us", "date", "text"]

# A ledger that was adopted may have no wider column for it.
LONGEST_NAME = 128
# Engines that hold rows in ClickHouse itself, beside the MergeTree family.
_OWN_ENGINES = frozenset({"Distributed", "Log", "Memory", "StripeLog", "TinyLog"})
_FOREIGN_ENGINES = re.compile(
    r"Iceberg|DeltaLake|Hudi|Paimon|DataLake|S3|GCS|OSS|COSN|AzureBlobStorage|HDFS|Hive|URL|File|Null"
)


@dataclass(frozen=True, slots=True)
class Source:
    """The tables of ClickHouse that a table is offloaded from: their rows are counted together.

    `tables`: as the settings name them, with their database where it is not clickhouse.database. `timestamp`: their
    event-time column; `timestamp_as` None: an instant. `where`: the SQL condition on rows that are offloaded; empty:
    all are. `columns`: ClickHouse's names of Iceberg's columns, where they differ.
    """

    tables: tuple[str, ...]
    timestamp: str
    timestamp_as: TimestampAs | None = None
    where: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The names of the tables: what an audit's row names as its source, in a column of LONGEST_NAME or more."""
        named = ", ".join(self.tables)
        shown = len(self.tables)
        while len(named) > LONGEST_NAME and shown > 1:
            shown -= 1
            named = f"{', '.join(self.tables[:shown])} and {len(self.tables) - shown} more"
        return named

    def column(self, name: str) -> str:
        """ClickHouse's name of a column of Iceberg's."""
        return self.columns.get(name, name)

    def only(self, table: str) -> Source:
        """The same with one of its tables alone."""
        return replace(self, tables=(table,))


def holds_rows(engine: str) -> bool:
    """Whether a table of this engine surely has rows of its own: a view may read the Iceberg table itself."""
    return engine in _OWN_ENGINES or engine.endswith("MergeTree")


def reads_elsewhere(engine: str) -> bool:
    """Whether a table of this engine has no rows in ClickHouse: they are in a lake, a store, or nowhere."""
    return _FOREIGN_ENGINES.match(engine) is not None
