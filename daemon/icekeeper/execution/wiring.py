"""Builds from the settings what a run needs. The Spark engine is made and stopped by the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from icekeeper.adapters.clickhouse.client import NO_CLICKHOUSE, ClickHouseOptions
from icekeeper.adapters.clickhouse.rows import RowsClickHouse
from icekeeper.adapters.host import Host, wall_clock
from icekeeper.adapters.iceberg.catalog import catalog_conf
from icekeeper.adapters.iceberg.repair.lakehouse import RepairingLakehouse
from icekeeper.adapters.ledger.certificates import PostgresCertificates
from icekeeper.adapters.ledger.findings import PostgresFindings
from icekeeper.adapters.ledger.history import PostgresHistory
from icekeeper.adapters.ledger.holds import PostgresHolds
from icekeeper.adapters.ledger.identity import Identity
from icekeeper.adapters.ledger.installation import Installation
from icekeeper.adapters.ledger.repairs import PostgresRepairs
from icekeeper.adapters.ledger.store import PostgresLedger
from icekeeper.adapters.postgres.embedded.server import EmbeddedPostgres
from icekeeper.adapters.postgres.offload import PostgresOffload
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.adapters.postgres.repair_requests import RepairRequests
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.jars import INSTALLED as JARS
from icekeeper.adapters.spark.jars import installed_jars
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.core.catalogs.packages import packages_for
from icekeeper.core.tables.proof_budget import ProofBudget
from icekeeper.night.ports import Clock, RepairPorts, RunPorts, Sleep, Surroundings
from icekeeper.settings import Settings
from icekeeper.settings.values.heap import heap_mib

Connection = RepairingLakehouse | RowsClickHouse | Postgres


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that was built from one set of settings. After a reload the engine is passed on to the next set."""

    settings: Settings
    engine: SparkEngine
    lakehouse: RepairingLakehouse
    source: RowsClickHouse
    postgres: Postgres
    offload_postgres: Postgres
    installation: Installation
    ledger: PostgresLedger
    history: PostgresHistory
    findings: PostgresFindings
    holds: PostgresHolds
    certificates: PostgresCertificates
    repairs: PostgresRepairs
    repair_requests: RepairRequests
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

    `surroundings` None: this host, its clock compared with those of the servers that are asked. Connections whose
    settings are the same as `before` are taken over.
    """
    kept = before if before is not None and before.settings.clickhouse == settings.clickhouse else None
    source = kept.source if kept is not None else _clickhouse(settings)
    kept = before if before is not None and before.settings.postgres == settings.postgres else None
    postgres = kept.postgres if kept is not None else ledger_of(settings)
    offload_postgres = _offload_postgres(settings, postgres, before)
    installation = installation_of(settings, postgres)
    findings = PostgresFindings(postgres, installation)
    holds = PostgresHolds(postgres, installation, settings.state_dir, clock)
    repair_requests = RepairRequests(offload_postgres, settings.offload.table)
    repairs = PostgresRepairs(postgres, installation, findings, repair_requests)
    sources = [table for policy in settings.policies() if policy.source is not None for table in policy.source.tables]
    database = settings.clickhouse.database if settings.clickhouse is not None else None
    offload = PostgresOffload(offload_postgres, settings.offload.table, database, sources)
    # The embedded ledger's clock is this host's.
    servers = {"PostgreSQL": postgres.now} if settings.postgres is not None else {}
    servers |= {"ClickHouse": source.now} if settings.asks_clickhouse else {}
    lakehouse = RepairingLakehouse(engine, settings.catalog.name)
    ports = RunPorts(
        lakehouse=lakehouse,
        source=source,
        source_keys=source,
        offload=offload,
        findings=findings,
        holds=holds,
        surroundings=surroundings or Host(clock, servers, _directories(settings)),
        clock=clock,
        sleep=sleep,
        engine_log=engine.log,
        proofs=ProofBudget() if before is None else before.ports.proofs,
        repairs=RepairPorts(repairs, source, lakehouse),
    )
    return Services(
        settings=settings,
        engine=engine,
        lakehouse=lakehouse,
        source=source,
        postgres=postgres,
        offload_postgres=offload_postgres,
        installation=installation,
        ledger=PostgresLedger(postgres, installation),
        history=PostgresHistory(postgres, installation),
        findings=findings,
        holds=holds,
        certificates=PostgresCertificates(postgres, installation),
        repairs=repairs,
        repair_requests=repair_requests,
        ports=ports,
    )


def ledger_of(settings: Settings) -> Postgres:
    """Where the ledger is; embedded where the settings name no server. ConfigError where that can't be."""
    if settings.postgres is not None:
        return Postgres(settings.postgres.dsn, settings.postgres.secret())
    return embedded_ledger(settings.state_dir)


def embedded_ledger(state_dir: Path) -> Postgres:
    """The ledger in a state directory. ConfigError where that can't be."""
    server = embedded_server(state_dir)
    return Postgres(server.dsn, None, server=server)


def embedded_server(state_dir: Path) -> EmbeddedPostgres:
    """What runs that ledger. ConfigError where that can't be."""
    return EmbeddedPostgres(state_dir, _migrate)


async def _migrate(dsn: str) -> list[str]:
    # Alembic takes a while to import, and only an embedded ledger needs it at each start.
    from icekeeper.adapters.ledger.sql.migrations import migrate

    return await migrate(dsn, None)


def installation_of(settings: Settings, postgres: Postgres) -> Installation:
    """The one that the settings are of, in this ledger."""
    catalog = settings.catalog
    tables = tuple(policy.name for policy in settings.policies())
    identity = Identity(settings.installation, catalog.name, catalog.digest(), tables, settings.replicas)
    return Installation(postgres, identity, settings.state_dir)


def _clickhouse(settings: Settings) -> RowsClickHouse:
    block = settings.clickhouse
    if block is None:
        return RowsClickHouse(NO_CLICKHOUSE, settings.state_dir)
    return RowsClickHouse(
        ClickHouseOptions(
            url=block.url,
            database=block.database,
            user=block.user,
            password=block.password.get_secret_value(),
            settings=block.settings,
        ),
        settings.state_dir,
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
    spark, catalog = settings.spark, settings.catalog
    jars, packages = spark.jars, spark.packages
    if packages is None:
        needed = packages_for(catalog.type, catalog.uri, catalog.warehouse, catalog.properties)
        jars = jars or installed_jars(needed, JARS)
        packages = () if jars else needed
    return SparkOptions(
        master=spark.resolved_master,
        driver_memory=spark.driver_memory,
        state_dir=settings.state_dir,
        jars=jars,
        packages=packages,
        home=spark.home,
        conf=spark.conf,
        session_conf=catalog_conf(catalog.name, catalog.spark_properties(), heap_mib(spark.driver_memory) * 1024**2),
    )
