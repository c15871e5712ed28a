"""The part `audit`: one day of many rows, the same in both engines, audited in each way that the settings know."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import uuid4

from bench.meter import Meter
from bench.record import (
    CHANGED,
    COMPARED,
    FILES,
    KEY,
    KNOWN,
    LOST,
    MANIFESTS,
    READ_KEY,
    READ_TIME,
    ROWS,
    Case,
    Output,
    Scans,
    Sides,
)
from bench.rivals import RivalFailed
from bench.store import StoreProxy, Traffic
from bench.warehouse import Warehouse
from bench.worlds import SLOT
from icekeeper.adapters.iceberg.proof.footers import NAME as FOOTERS
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import AuditStatus, Proof, Stage, Trigger
from icekeeper.core.events import Event
from icekeeper.core.policy import KeyPolicy, TablePolicy
from icekeeper.execution.wiring import Services
from icekeeper.night.order import Order
from icekeeper.night.run import run_night
from icekeeper.sandbox.servers.clickhouse import ClickHouse
from icekeeper.sandbox.table_shapes import NAMESPACE

_COLUMNS = ("sequence_number", "symbol")
_COMPARE = ("price", "quantity")
_TIME = "exchange_timestamp"
_FILES = 100
_SYMBOLS = 300
# The engine gets the rows by parts: a statement of the sandbox ends after two minutes.
_PART_ROWS = 5_000_000
_DAY_US = timedelta(days=1) // timedelta(microseconds=1)
_LIMIT = timedelta(minutes=30)

# Fractions of 256 have the same digits in both engines: neither has to round.
_DDL = """
    CREATE TABLE {table} (sequence_number Int64, symbol String, exchange_timestamp DateTime64(6, 'UTC'),
      price Decimal(38, 8), quantity Decimal(38, 8))
    ENGINE = MergeTree PARTITION BY toYYYYMMDD(exchange_timestamp) ORDER BY (symbol, exchange_timestamp)
"""
_INSERT = """
    INSERT INTO {table} SELECT number, concat('SYM', toString(number % {symbols}), 'USDT'),
      fromUnixTimestamp64Micro(toInt64({midnight} + intDiv(number * {day}, {rows}))),
      (number * 7919 % 1000003) / 256, (number * 104729 % 999983) / 256
    FROM numbers({first}, {count})
"""
_ICEBERG_DDL = """
    CREATE TABLE {table} (sequence_number BIGINT, symbol STRING, exchange_timestamp TIMESTAMP,
      price DECIMAL(38, 8), quantity DECIMAL(38, 8))
    USING iceberg PARTITIONED BY (days(exchange_timestamp))
    TBLPROPERTIES ('format-version' = '2', 'write.distribution-mode' = 'none',
      'write.delete.mode' = 'merge-on-read', 'write.update.mode' = 'merge-on-read')
"""
_ROWS = (
    "id AS sequence_number",
    "concat('SYM', CAST(id % {symbols} AS STRING), 'USDT') AS symbol",
    "timestamp_micros({midnight} + id * {day} div {rows}) AS exchange_timestamp",
    "CAST(id * 7919 % 1000003 / 256D AS DECIMAL(38, 8)) AS price",
    "CAST(id * 104729 % 999983 / 256D AS DECIMAL(38, 8)) AS quantity",
)


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to audit the day, of a whole table or (`damage`) one that was changed, and what the audit has to find.

    `known`: the footers of its files were read before.
    """

    proof: Proof
    known: bool = True
    keys: KeyPolicy | None = None
    damage: str | None = None
    missing: int = 0
    changed: int = 0


_KEY, _COMPARED = KeyPolicy(_COLUMNS), KeyPolicy(_COLUMNS, _COMPARE)
_WAYS: Mapping[str, _Way] = {
    MANIFESTS: _Way(Proof.MANIFESTS),
    FILES: _Way(Proof.FILES, known=False),
    KNOWN: _Way(Proof.FILES),
    ROWS: _Way(Proof.ROWS),
    KEY: _Way(Proof.FILES, keys=_KEY),
    COMPARED: _Way(Proof.FILES, keys=_COMPARED),
    LOST: _Way(Proof.FILES, keys=_KEY, damage="DELETE FROM {table} WHERE sequence_number = {row}", missing=1),
    CHANGED: _Way(
        Proof.FILES,
        keys=_COMPARED,
        damage="UPDATE {table} SET price = price + 0.01 WHERE sequence_number = {row}",
        changed=1,
    ),
}
# Columns that are only read, in the audit's window, by a query a side.
_READS = {READ_TIME: (_TIME,), READ_KEY: (_TIME, *_COLUMNS)}
AUDITS = frozenset((*_WAYS, *_READS))


class Counted:
    """A port, and how often rows were read through it: each time is one query of one table."""

    _READS = ("count", "count_by_minute", "newest", "fingerprints", "key_rows")

    def __init__(self, port: object) -> None:
        self._port = port
        self.queries = 0

    def __getattr__(self, name: str) -> Any:
        self.queries += name in self._READS
        return getattr(self._port, name)


class Audits:
    """Makes the tables, and gives an audit of one of them as a turn. `queries`: the proxy before ClickHouse."""

    def __init__(
        self, services: Services, clickhouse: ClickHouse, queries: StoreProxy, store: StoreProxy, warehouse: Warehouse
    ) -> None:
        self.services = services
        self.clickhouse = clickhouse
        self.queries = queries
        self.store = store
        self._warehouse = warehouse
        self._made: set[str] = set()

    async def prepare(self, case: Case, way: str) -> AuditTurn:
        """The day's table is there, and its footers are known or not, as the way has it."""
        rows = int(case.shape)
        table = await self._whole(rows)
        chosen = _WAYS.get(way)
        if chosen is None:
            return Reading(self, table, _READS[way])
        if chosen.damage is not None:
            table = await self._damaged(table, way, chosen.damage, rows // 2)
        policy = self._policy(table, rows, chosen)
        if not chosen.known:
            (self.services.engine.options.state_dir / FOOTERS).unlink(missing_ok=True)
        elif chosen.proof is not Proof.MANIFESTS:
            await self.services.ports.lakehouse.prove_files(policy.name, _TIME, window_of(SLOT), _LIMIT)
        return Audit(self, table, policy, chosen)

    def name(self, table: str) -> str:
        """An Iceberg table as Spark's SQL has it."""
        return f"{self._warehouse.name}.{NAMESPACE}.{table}"

    async def sql(self, statement: str) -> list[Any]:
        engine = self.services.engine
        return await engine.run(lambda spark: spark.sql(statement).collect(), timeout=_LIMIT)

    async def select(self, query: str) -> bytes:
        """A query of ClickHouse, past the proxy."""
        block = self.services.settings.clickhouse
        assert block is not None  # the tables are audited
        return await asyncio.to_thread(self.clickhouse.execute, query, database=block.database)

    def _policy(self, table: str, rows: int, way: _Way) -> TablePolicy:
        pattern = self.services.settings.policies()[0]
        assert pattern.audit is not None
        return replace(
            pattern,
            name=f"{NAMESPACE}.{table}",
            source=Source((_source(rows),), _TIME),
            timestamp=_TIME,
            audit=replace(pattern.audit, proof=way.proof, keys=way.keys),
        )

    async def _whole(self, rows: int) -> str:
        """The day in both engines; Iceberg's table."""
        table = f"audit_{rows}"
        if table in self._made:
            return table
        await asyncio.to_thread(self._warehouse.pyiceberg)  # which makes the catalog
        source = _source(rows)
        words = {"symbols": _SYMBOLS, "midnight": _midnight(), "day": _DAY_US, "rows": rows}
        await self.select(_DDL.format(table=source))
        # Merging parts would take the processor from what is measured.
        await self.select(f"SYSTEM STOP MERGES {source}")
        for first in range(0, rows, _PART_ROWS):
            count = min(_PART_ROWS, rows - first)
            await self.select(_INSERT.format(table=source, first=first, count=count, **words))
        await self.sql(_ICEBERG_DDL.format(table=self.name(table)))
        columns, files = [each.format(**words) for each in _ROWS], min(_FILES, max(1, rows // 1000))

        def write(spark: Any) -> None:
            spark.range(0, rows, 1, files).selectExpr(*columns).writeTo(self.name(table)).append()

        await self.services.engine.run(write, timeout=_LIMIT)
        self._made.add(table)
        return table

    async def _damaged(self, whole: str, way: str, damage: str, row: int) -> str:
        """A table with the files of the whole one, of which one row was changed."""
        table = f"{whole}_{re.sub(r'[^a-z]+', '_', way)}"
        if table not in self._made:
            catalog = self._warehouse.pyiceberg()
            at = catalog.load_table((NAMESPACE, whole)).metadata_location
            await asyncio.to_thread(catalog.register_table, (NAMESPACE, table), at)
            await self.sql(damage.format(table=self.name(table), row=row))
            self._made.add(table)
        return table


class AuditTurn:
    """What is measured of both sides while it acts. Use it as a turn of bench/run.py."""

    input_files = _FILES
    tables = 1
    note = ""

    def __init__(self, audits: Audits, table: str) -> None:
        self.sides: Sides | None = None
        self.spark_queries = self.clickhouse_queries = 1
        self._audits = audits
        self._table = table
        audits.store.reset()
        audits.queries.reset()

    async def act(self) -> None:
        clickhouse, jvm = self._audits.clickhouse.pid, self._audits.services.engine.jvm_pid
        assert clickhouse is not None
        assert jvm is not None
        read = await self._bytes()
        with Meter((clickhouse, jvm)) as meter:
            await self._act()
        self.sides = Sides(
            jvm_cpu_s=meter.cpu_of(jvm),
            clickhouse_cpu_s=meter.cpu_of(clickhouse),
            clickhouse_peak_mib=meter.python_peak_mib,  # the sandbox's is a program in Python
            clickhouse_bytes=await self._bytes() - read,
            clickhouse_queries=self.clickhouse_queries,
            clickhouse_statements=sum(self._audits.queries.read().requests.values()),
            spark_queries=self.spark_queries,
        )

    async def traffic(self) -> Traffic:
        return await asyncio.to_thread(self._audits.store.read)

    async def output(self) -> Output | None:
        return None

    async def scans(self) -> Scans | None:
        return None

    async def close(self) -> None:
        """The tables stay as they are."""

    async def _act(self) -> None:
        raise NotImplementedError

    async def _bytes(self) -> int:
        """What ClickHouse has read so far, uncompressed."""
        return int(await self._audits.select("SELECT sum(value) FROM system.events WHERE event = 'SelectedBytes'"))


class Reading(AuditTurn):
    """Both engines read columns of the window's rows, and count them: what a fingerprint is compared with."""

    def __init__(self, audits: Audits, table: str, columns: tuple[str, ...]) -> None:
        super().__init__(audits, table)
        self._columns = columns

    async def _act(self) -> None:
        source = _source(int(self._table.removeprefix("audit_")))
        await self._audits.select(f"SELECT count() FROM {source} WHERE NOT ignore({', '.join(self._columns)})")
        # Iceberg answers a plain count of a column from its manifests.
        counts = ", ".join(f"count_if({column} IS NULL)" for column in self._columns)
        await self._audits.sql(
            f"SELECT {counts} FROM {self._audits.name(self._table)} WHERE {_within(window_of(SLOT))}"
        )


class Audit(AuditTurn):
    """The stage audit of a night, on one table."""

    def __init__(self, audits: Audits, table: str, policy: TablePolicy, way: _Way) -> None:
        super().__init__(audits, table)
        self._policy = policy
        self._way = way

    async def _act(self) -> None:
        services = self._audits.services
        order = Order(
            run_id=uuid4(),
            slot=SLOT,
            trigger=Trigger.MANUAL,
            tables=(self._policy,),
            stages=(Stage.AUDIT,),
            settings_hash=services.settings.digest(),
            policy=services.settings.run_policy(),
        )
        source: Any = Counted(services.source)
        lakehouse: Any = Counted(services.lakehouse)
        ports = replace(services.ports, source=source, source_keys=source, lakehouse=lakehouse)
        report = await run_night(order, ports, _ignore)
        self.spark_queries, self.clickhouse_queries = lakehouse.queries, source.queries
        if not report.audits:
            raise RivalFailed(f"there was no audit: {[task.error for task in report.tasks]}")
        self._require(report.audits[0])

    def _require(self, audit: AuditResult) -> None:
        way, compared = self._way, audit.key_comparison
        found = (compared.missing, compared.changed, compared.unexplored) if compared else (0, 0, 0)
        damaged = way.missing or way.changed
        right = found == (way.missing, way.changed, 0) and (way.keys is None) == (compared is None)
        named = {key[0] for finding in audit.findings for key in finding.sample_keys}
        if not right or audit.status is AuditStatus.ERROR or bool(damaged) != bool(named):
            raise RivalFailed(f"the audit was {audit.status}: {audit.notes}")


def _source(rows: int) -> str:
    return f"audit_{rows}"


def _midnight() -> int:
    """The day's begin in microseconds since 1970."""
    return int(window_of(SLOT).start.timestamp()) * 10**6


def _within(window: Window) -> str:
    low, high = (f"TIMESTAMP '{instant.isoformat(' ')}'" for instant in (window.start, window.end))
    return f"{_TIME} >= {low} AND {_TIME} < {high}"


def _ignore(event: Event) -> None:
    pass
