"""The bench's laboratory: a sandbox with a proxy before its store, tables on it, one warm session, and the rivals."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog
import yaml
from pyspark.sql import SparkSession

from bench.audits import AUDITS, Audits, AuditTurn
from bench.bases import Bases
from bench.plan import AUDIT
from bench.record import BINPACK, COLD, DEFAULTS, STORES, THIRD, Case, Store
from bench.rivals import Job, Rival
from bench.rivals.bare import Bare
from bench.rivals.call import Call
from bench.rivals.copy import Copy
from bench.rivals.floor import Floor
from bench.rivals.icekeeper import Icekeeper
from bench.rivals.platform import Platform
from bench.rivals.zamboni import Zamboni
from bench.run import Run, job_of
from bench.scans import Scanner
from bench.store import StoreProxy
from bench.warehouse import LocalWarehouse, S3Warehouse, Warehouse
from bench.worlds import SHAPE, SLOT
from icekeeper.adapters.iceberg.proof.footers import NAME as FOOTERS
from icekeeper.adapters.iceberg.warm_up import is_on_s3, warm_up
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.execution.logging import configure
from icekeeper.execution.wiring import Services, build, spark_options
from icekeeper.sandbox import Sandbox, World, WorldSpec
from icekeeper.sandbox.table_shapes import NAMESPACE
from icekeeper.sandbox.watermarks import WATERMARK_DDL
from icekeeper.settings import Settings, load

_DATABASE = "bench"
_DELAYS_S: Mapping[Store, float] = {"local": 0.0, "s3": 0.0, "s3+10ms": 0.01}
_WARM_UPS = 3
# With 10 ms a request ten tables by binpack take three minutes.
_BINPACK_TABLES = 3
_LIMIT = timedelta(minutes=1)
# Parts that have a session of their own for each turn.
_RENEWED = frozenset({"session", "first"})
_ALL = frozenset({"compact", "expire", "idle", "night", "files", "snapshots", "tables"}) | _RENEWED


class Lab:
    """The warehouses, the session and the rivals. `prepare` gives what one rival does once."""

    def __init__(
        self,
        box: Sandbox,
        proxy: StoreProxy,
        engine: SparkEngine,
        services: Mapping[str, Services],
        bases: Bases,
        audits: Audits,
    ) -> None:
        self.engine = engine
        self.services = services
        self._box = box
        self._proxy = proxy
        self._bases = bases
        self._audits = audits
        # Whether the session has seen enough work to be like any that has been up for long.
        self._settled = True
        self._zamboni = Zamboni()
        self._bare = Bare(box.s3)
        self._scanner = Scanner(engine)
        first = frozenset({"first"})
        rivals: list[Rival] = [
            Icekeeper(DEFAULTS, _ALL, services),
            Icekeeper(
                BINPACK,
                frozenset({"compact", "night"}),
                services,
                "binpack",
                most_tables=dict.fromkeys(STORES, _BINPACK_TABLES),
                note=f"of a night {_BINPACK_TABLES} tables, the ratio is per table",
            ),
            Icekeeper(THIRD, first, services),
            Icekeeper(COLD, first, services),
            Call(engine),
            Copy(),
            self._bare,
        ]
        if self._zamboni.installed():
            rivals.append(self._zamboni)
        catalogs = {name: each.settings.catalog.spark_properties() for name, each in services.items()}
        rivals += [Platform(engine.options, catalogs), Floor()]
        self.rivals: Mapping[str, Rival] = {rival.name: rival for rival in rivals}

    @classmethod
    @asynccontextmanager
    async def open(cls, *, engine: SparkEngine | None = None) -> AsyncIterator[Lab]:
        """Starts the servers and the proxy, and a session with the default settings when it is first used.

        `engine`: one that is there, for a process has one session. Its owner sets its catalogs, and ends it.
        """
        async with AsyncExitStack() as stack:
            box = await asyncio.to_thread(Sandbox.start)
            stack.push_async_callback(asyncio.to_thread, box.stop)
            proxy = stack.enter_context(StoreProxy(int(box.s3.endpoint.rpartition(":")[2])))
            box.postgres.create_database(_DATABASE)
            box.clickhouse.execute(f"CREATE DATABASE {_DATABASE}")
            box.postgres.execute(_DATABASE, WATERMARK_DDL)
            warehouses = _warehouses(box, proxy)
            world = _world(box, next(iter(warehouses.values())))
            settings = {
                store: _settings(world, warehouse, box.root / warehouse.name) for store, warehouse in warehouses.items()
            }
            first = settings["local"]
            assert first.postgres is not None
            await migrate(first.postgres.dsn, box.postgres.password)
            configure("info", "json", first.state_dir, console_level="error")
            stack.callback(structlog.reset_defaults)
            if engine is None:
                # Its packages are those of S3, which do for local disk, too.
                options = replace(spark_options(settings["s3"]), session_conf=_catalogs(settings.values()))
                engine = SparkEngine(options)
                stack.push_async_callback(engine.stop)
            services = {}
            for store, warehouse in warehouses.items():
                services[warehouse.name] = build(settings[store], engine)
                stack.push_async_callback(services[warehouse.name].close)
                stack.callback(warehouse.close)
            bases = Bases(box.root / "bodies", warehouses, world, Call(engine))
            queries = stack.enter_context(StoreProxy(box.clickhouse.port))
            audited = build(_through(settings["s3"], queries), engine)
            stack.push_async_callback(audited.close)
            audits = Audits(audited, box.clickhouse, queries, proxy, warehouses["s3"])
            lab = cls(box, proxy, engine, services, bases, audits)
            stack.callback(lab._zamboni.close)
            yield lab

    @property
    def settings_shown(self) -> Mapping[str, str]:
        """What the warm session was given, and what a table's policy says where nothing is set."""
        settings = self.services["bench_local"].settings
        compact, audit = settings.policies()[0].compact, settings.policies()[0].audit
        copied = "up to any size" if compact.copy_max is None else f"up to {compact.copy_max} bytes"
        return {
            "spark.master": self.engine.options.master,
            "spark.driver_memory": self.engine.options.driver_memory,
            "compact.strategy": compact.strategy,
            "row groups copied": copied if compact.copy_max != 0 else "never",
            "compact.prove": f"{compact.prove_pct}%",
            "audit.proof": str(audit.proof) if audit else "off",
        }

    async def warm_up(self) -> None:
        """Brings the session up as the daemon does, and lets it rewrite and expire a little on each kind of store."""
        self._settled = True
        await self.engine.start()
        await warm_up(self.engine, lambda: True)
        for store in ("local", "s3"):
            for part in ("compact", "expire") * _WARM_UPS:
                await self._played(Case(part, "12", store), DEFAULTS)

    def can(self, case: Case, rival: str) -> bool:
        """Whether a rival is installed and takes part in that."""
        if case.part == AUDIT:
            return rival in AUDITS
        return rival in self.rivals and case.part in self.rivals[rival].parts

    async def prepare(self, case: Case, rival: str, x: float = 0, *, again: bool = False) -> Run | AuditTurn:
        """Fresh tables for one run of one rival; the counters stand at zero when it returns. Not to be timed.

        `again`: the session stays as it is, also where the part has one of its own for each run.
        """
        if case.part == AUDIT:
            return await self._audits.prepare(case, rival)
        chosen = self.rivals[rival]
        if case.part not in _RENEWED and not self._settled:
            await self.warm_up()
        world = await self._bases.of(case, x)
        job = await asyncio.to_thread(job_of, case, world, chosen.most_tables.get(case.store), x)
        table = f"{job.warehouse.name}.{NAMESPACE}.{job.tables[0]}"
        if case.part in _RENEWED and not again:
            await self._renew(case, rival, job)
        if case.part == "first":  # a night's files are new, these are copies
            (self.engine.options.state_dir / FOOTERS).unlink(missing_ok=True)
        fresh = case.part in _RENEWED and rival != THIRD and not again
        if self.engine.up and not fresh:  # a fresh JVM has none, and nothing of the store in it
            await self.engine.run(lambda spark: _forget_manifests(spark, table), timeout=_LIMIT, where=table)
        if chosen is self._bare:
            await self._bare.learn(job)
        self._proxy.reset(_DELAYS_S[case.store])
        return Run(case, chosen, job, self._proxy, self._scanner)

    async def _renew(self, case: Case, rival: str, job: Job) -> None:
        """A session as it is after its start; none yet where that start is what is measured."""
        self._settled = False
        self._proxy.reset(_DELAYS_S[case.store])  # a warm-up may ask the store, too
        await self.engine.recycle()
        if case.part == "first":
            await self.engine.start()
            if rival != COLD:
                on_s3 = await is_on_s3(self.engine, job.warehouse.name, f"{NAMESPACE}.{job.tables[0]}")
                await warm_up(self.engine, lambda: True, on_s3=on_s3)
            if rival == THIRD:
                for _ in range(2):
                    await self._played(case, DEFAULTS, again=True)

    async def _played(self, case: Case, rival: str, *, again: bool = False) -> None:
        """Lets a rival do a case, and counts nothing."""
        run = await self.prepare(case, rival, again=again)
        try:
            await run.act()
        finally:
            await run.close()


def _forget_manifests(spark: SparkSession, table: str) -> None:
    """Fresh tables are copies: those of the round before would have left their manifests in Iceberg's cache."""
    jvm: Any = spark._jvm
    iceberg = jvm.org.apache.iceberg
    iceberg.ManifestFiles.dropCache(iceberg.spark.Spark3Util.loadIcebergTable(spark._jsparkSession, table).io())


def _warehouses(box: Sandbox, proxy: StoreProxy) -> Mapping[str, Warehouse]:
    """By store; S3 with a delay is the same warehouse as S3 without."""
    keep = box.root / "kept"
    keep.mkdir()
    directory = box.root / "local"
    return {
        "local": LocalWarehouse("bench_local", box.s3, box.postgres, _DATABASE, keep, directory),
        "s3": S3Warehouse("bench_s3", box.s3, box.postgres, _DATABASE, keep, proxy.url),
    }


def _world(box: Sandbox, warehouse: Warehouse) -> World:
    """The ClickHouse side, and icekeeper's settings for all of it."""
    spec = WorldSpec(now=SLOT, name=_DATABASE, tables=(SHAPE.iceberg,))
    return World(spec, _DATABASE, box.clickhouse, box.postgres, warehouse)


def _catalogs(settings: Iterable[Settings]) -> dict[str, str]:
    """The settings of all warehouses' catalogs, for one session."""
    return {key: value for each in settings for key, value in spark_options(each).session_conf.items()}


def _through(settings: Settings, queries: StoreProxy) -> Settings:
    """The settings with a proxy before ClickHouse."""
    assert settings.clickhouse is not None  # the tables are audited
    return settings.model_copy(update={"clickhouse": settings.clickhouse.model_copy(update={"url": queries.url})})


def _settings(world: World, warehouse: Warehouse, state_dir: Path) -> Settings:
    """The settings of an icekeeper that maintains one warehouse: the defaults, wherever there are any."""
    document = world.settings(state_dir)
    document["catalog"] = warehouse.settings()
    del document["spark"]
    # The days are long past, and rows of the source stay for ever.
    document["tables"][0]["source_ttl"] = "3650d"
    path = state_dir.with_suffix(".yaml")
    path.touch(mode=0o600)
    path.write_text(yaml.safe_dump(document))
    return load(path)
