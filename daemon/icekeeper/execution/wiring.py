"""Builds from the settings what a run needs. The Spark engine is made and stopped by the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from icekeeper.adapters.clickhouse.client import ClickHouseOptions
from icekeeper.adapters.clickhouse.keyed import KeyedClickHouse
from icekeeper.adapters.host import Host, wall_clock
from icekeeper.adapters.iceberg.catalog import catalog_conf
from icekeeper.adapters.iceberg.lakehouse import IcebergLakehouse
from icekeeper.adapters.ledger.findings import PostgresFindings
from icekeeper.adapters.ledger.history import PostgresHistory
from icekeeper.adapters.ledger.store import PostgresLedger
from icekeeper.adapters.postgres.offload import PostgresOffload
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.jars import INSTALLED as JARS
from icekeeper.adapters.spark.jars import installed_jars
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.night.ports import Clock, RunPorts, Sleep, Surroundings
from icekeeper.settings import Settings
from icekeeper.settings.model import DEFAULT_PACKAGES

Connection = IcebergLakehouse | KeyedClickHouse | Postgres


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that was built from one set of settings. After a reload the engine is passed on to the next set."""

    settings: Settings
    engine: SparkEngine
    lakehouse: IcebergLakehouse
    source: KeyedClickHouse
    postgres: Postgres
    offload_postgres: Postgres
    ledger: PostgresLedger
    history: PostgresHistory
    findings: PostgresFindings
    ports: RunPorts

    @property
    def connections(self) -> tuple[Connection, ...]:
        """What has to be closed. The engine is not among them: its maker stops it."""
        own = (self.lakehouse, self.source, self.postgres)
        return own if self.offload_postgres is self.postgres else (*own, self.offload_postgres)

    async def close(self, but: Collection[Connection] = ()) -> None:
        """Closes the connections, except for those that are still in use; an error of one keeps none open."""
        async with AsyncExitStack() as closing:
            for connection in self.connections:
                if not any(connection is other for other in but):
                    closing.push_async_callback(connection.close)


def build(
    settings: Settings,
    engine: SparkEngine,
    *,
    clock: Clock = wall_clock,
    sleep: Sleep = asyncio.sleep,
    surroundings: Surroundings | None = None,
    before: Services | None = None,
) -> Services:
    """Connects to nothing and starts no JVM: each service does that when it is first used.

    `surroundings` None: this host, its clock compared with PostgreSQL's and ClickHouse's. Connections whose settings
    are the same as `before` are taken over.
    """
    kept = before if before is not None and before.settings.clickhouse == settings.clickhouse else None
    source = kept.source if kept is not None else _clickhouse(settings)
    kept = before if before is not None and before.settings.postgres == settings.postgres else None
    postgres = kept.postgres if kept is not None else Postgres(settings.postgres.dsn, settings.postgres.secret())
    offload_postgres = _offload_postgres(settings, postgres, before)
    findings = PostgresFindings(postgres)
    sources = [table for policy in settings.policies() if policy.source is not None for table in policy.source.tables]
    offload = PostgresOffload(offload_postgres, settings.offload.table, settings.clickhouse.database, sources)
    lakehouse = IcebergLakehouse(engine, settings.catalog.name)
    ports = RunPorts(
        lakehouse=lakehouse,
        source=source,
        source_keys=source,
        offload=offload,
        findings=findings,
        surroundings=surroundings
        or Host(clock, {"PostgreSQL": postgres.now, "ClickHouse": source.now}, _directories(settings)),
        clock=clock,
        sleep=sleep,
        engine_log=engine.log,
    )
    return Services(
        settings=settings,
        engine=engine,
        lakehouse=lakehouse,
        source=source,
        postgres=postgres,
        offload_postgres=offload_postgres,
        ledger=PostgresLedger(postgres),
        history=PostgresHistory(postgres),
        findings=findings,
        ports=ports,
    )


def _clickhouse(settings: Settings) -> KeyedClickHouse:
    block = settings.clickhouse
    return KeyedClickHouse(
        ClickHouseOptions(
            url=block.url,
            database=block.database,
            user=block.user,
            password=block.password.get_secret_value(),
            settings=block.settings,
        )
    )


def _offload_postgres(settings: Settings, postgres: Postgres, before: Services | None) -> Postgres:
    """Where the offload's watermarks are: the ledger's pool unless `offload.dsn` names another database."""
    block = settings.offload
    if block.dsn is None:
        return postgres
    if before is not None and before.settings.offload == block:
        return before.offload_postgres
    return Postgres(block.dsn, block.password.get_secret_value() if block.password else None)


def _directories(settings: Settings) -> tuple[Path, ...]:
    """Where a run needs space on this host: the state directory, and a local warehouse."""
    warehouse = urlsplit(settings.catalog.warehouse or "")
    local = warehouse.scheme in ("", "file") and warehouse.path.startswith("/")
    return (settings.state_dir, Path(warehouse.path)) if local else (settings.state_dir,)


def spark_options(settings: Settings) -> SparkOptions:
    """The options of the session; equal options can share one."""
    spark = settings.spark
    jars, packages = spark.jars, spark.packages
    if packages is None:
        jars = jars or installed_jars(DEFAULT_PACKAGES, JARS)
        packages = () if jars else DEFAULT_PACKAGES
    return SparkOptions(
        master=spark.resolved_master,
        driver_memory=spark.driver_memory,
        state_dir=settings.state_dir,
        jars=jars,
        packages=packages,
        home=spark.home,
        conf=spark.conf,
        session_conf=catalog_conf(settings.catalog.name, settings.catalog.spark_properties()),
    )
