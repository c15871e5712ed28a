"""What integration and process tests share: one lakehouse of embedded parts, one warm session, worlds by the dozen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog
import yaml
from pyspark.sql import SparkSession

from icekeeper.adapters.host import Host, wall_clock
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.core.calendar import Window
from icekeeper.core.catalogs.packages import IMAGE_PACKAGES
from icekeeper.core.enums import NIGHT, Stage, TaskOutcome, Trigger
from icekeeper.core.events import Event
from icekeeper.core.runs import RunReport
from icekeeper.core.tables.state import TableState
from icekeeper.execution.execute import Executed, make_order
from icekeeper.execution.logging import configure
from icekeeper.execution.standalone import run_standalone
from icekeeper.execution.wiring import Services, build, spark_options
from icekeeper.night.order import StopRequest
from icekeeper.sandbox import Sandbox, World, WorldSpec
from icekeeper.settings import Settings, load
from icekeeper.settings.systems import Spark
from tests import jvm

TESTS = Path(__file__).parent
# The night of most tests: the world's present, and the slot that it answers for.
SLOT = datetime(2026, 2, 18, 2, 0, tzinfo=UTC)
# The settings `spark.conf` of a session that lives for a minute, on another machine; the block `spark` on this one.
SHORT_LIVED = {"spark.driver.extraJavaOptions": jvm.SHORT_LIVED}
SPARK = jvm.settings()
BINANCE, SILVER, GOLD = "cold.bronze_trades_binance", "cold.silver_trades", "cold.gold_ohlcv_1m"
COINBASE = "cold.bronze_trades_coinbase"

# Files that take a minute and more, the longest first: begun last, one of them would keep one worker busy alone.
LONG = (
    "integration/test_odd_tables.py", "integration/test_planted.py", "integration/test_reasons_probe.py",
    "process/test_serve.py",
    "process/test_restart.py", "process/test_replicas.py", "process/test_troubleshooting.py", "process/test_chaos.py",
    "process/test_commands.py", "integration/test_week.py", "integration/test_night.py",
    "integration/test_expiry_files.py", "process/test_control.py", "integration/test_sandbox.py",
    "integration/test_reasons_session.py", "integration/test_engine.py", "integration/test_migration.py",
    "process/test_cut_over.py", "process/test_alerting.py", "integration/test_bench.py", "integration/test_proof.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {TESTS / name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(LONG)))


def world_clock(start: datetime = SLOT) -> Callable[[], datetime]:
    """A clock that shows `start` now and runs at its usual pace."""
    began = time.monotonic()
    return lambda: start + timedelta(seconds=time.monotonic() - began)


async def no_waiting(seconds: float) -> None:
    """The sleep between retries, for tests: it lets others run, and waits for nothing."""
    await asyncio.sleep(0)


@dataclass
class Night:
    """A world, and icekeeper's services on it with the shared session."""

    box: Sandbox
    world: World
    config: Path
    settings: Settings
    services: Services
    catalog: str
    events: list[Event] = field(default_factory=list)
    stop: StopRequest = field(default_factory=StopRequest)

    async def run(self, *stages: Stage, **options: Any) -> RunReport:
        """Like `execute`, where PostgreSQL has to have the run; its report."""
        done = await self.execute(*stages, **options)
        assert done.not_recorded is None, done.not_recorded
        assert done.not_shipped is None, done.not_shipped
        return done.report

    async def execute(
        self,
        *stages: Stage,
        tables: tuple[str, ...] = (),
        record: bool = True,
        trigger: Trigger = Trigger.MANUAL,
        slot: datetime | None = None,
        window: Window | None = None,
        snapshots: Mapping[str, int] | None = None,
        findings: tuple[str, ...] = (),
    ) -> Executed:
        """Runs the stages (all, if none is named) on the tables (all, if none is named)."""
        order = make_order(
            self.settings,
            slot or self.world.spec.now,
            trigger,
            stages=stages or NIGHT,
            tables=tables,
            window=window,
            snapshots=snapshots,
            findings=findings,
        )
        order = replace(order, stop=self.stop)
        return await run_standalone(self.services, order, self.events.append, record=record)

    def travel(self, now: datetime) -> None:
        """Sets the injected clock to an instant, where it stays."""
        self.services = replace(self.services, ports=replace(self.services.ports, clock=lambda: now))

    async def state(self, table: str) -> TableState:
        return await self.services.ports.lakehouse.inspect(table, 128 * 1024**2)

    async def sql(self, statement: str) -> list[Any]:
        """Runs Spark SQL; `{c}` in it is the catalog's name."""
        text = statement.replace("{c}", self.catalog)
        engine = self.services.engine
        return await engine.run(lambda spark: spark.sql(text).collect(), timeout=timedelta(minutes=2))

    def ledger(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self.world.postgres.execute(self.world.postgres_database, query, *values)

    def store(self) -> set[str]:
        """The keys of all objects of this world."""
        return set(self.box.s3.list(f"{self.world.name}/"))


MakeNight = Callable[..., Awaitable[Night]]


@pytest.fixture(scope="session")
def box() -> Iterator[Sandbox]:
    with Sandbox.start() as running:
        yield running


@pytest.fixture(scope="session")
async def engine(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SparkEngine]:
    state_dir = tmp_path_factory.mktemp("spark")
    shared = SparkEngine(
        SparkOptions(
            master=Spark(driver_memory="1g").resolved_master,
            driver_memory="1g",
            state_dir=state_dir,
            packages=SPARK.get("packages", IMAGE_PACKAGES),
            conf=SPARK["conf"],
        )
    )
    yield shared
    await shared.stop()


@pytest.fixture
async def make_night(box: Sandbox, engine: SparkEngine, tmp_path: Path) -> AsyncIterator[MakeNight]:
    async with nights(box, engine, tmp_path) as make:
        yield make


@asynccontextmanager
async def nights(box: Sandbox, engine: SparkEngine, directory: Path) -> AsyncIterator[MakeNight]:
    """Builds worlds and the services on them; `change` edits the settings document first."""
    made: list[Night] = []

    async def make(
        *tables: str,
        change: Callable[[dict[str, Any]], None] | None = None,
        clock: Callable[[], datetime] | None = None,
        migrated: bool = True,
        on: Sandbox | None = None,
        **spec: Any,
    ) -> Night:
        # A name that no other lakehouse's world has: the session keeps the catalogs that it was told.
        defaults: dict[str, Any] = {
            "name": f"night{uuid4().hex[:8]}",
            "now": SLOT, "days": 1.25, "commits_per_day": 8, "files_per_commit": 3, "rows_per_file": 10, "symbols": 6,
        }  # fmt: skip
        if tables:
            defaults["tables"] = tables
        world = await asyncio.to_thread((on or box).world, WorldSpec(**{**defaults, **spec}))
        config = write_settings(world, directory / f"{world.name}.yaml", directory / world.name, change)
        settings = load(config)
        configure("info", "json", settings.state_dir, console_level="error")
        await tell_session(engine, settings)
        # A world's present is not the servers': their clocks are not compared.
        host = Host(wall_clock, {}, (settings.state_dir,))
        services = build(
            settings, engine, clock=clock or world_clock(world.spec.now), sleep=no_waiting, surroundings=host
        )
        if migrated and settings.postgres is not None:
            await migrate(settings.postgres.dsn, world.postgres.password)
        made.append(Night(on or box, world, config, settings, services, settings.catalog.name))
        return made[-1]

    try:
        yield make
    finally:
        for night in made:
            await night.services.close()
        structlog.reset_defaults()


async def tell_session(engine: SparkEngine, settings: Settings) -> None:
    """One session serves all worlds: each has a catalog of its own, told to the running session."""
    conf = spark_options(settings).session_conf
    engine.options = replace(engine.options, session_conf={**engine.options.session_conf, **conf})
    await engine.run(partial(_set, conf), timeout=timedelta(minutes=5))


def _set(conf: Mapping[str, str], spark: SparkSession) -> None:
    for key, value in conf.items():
        spark.conf.set(key, value)


def write_settings(
    world: World, path: Path, state_dir: Path, change: Callable[[dict[str, Any]], None] | None = None
) -> Path:
    """The world's settings document as a file, edited by `change`."""
    document = world.settings(state_dir)
    # A world's present is not the servers'.
    document["run"] = {"max_clock_skew": "3650d"}
    document["spark"] |= deepcopy(SPARK)
    if change is not None:
        change(document)
    path.write_text(yaml.safe_dump(document))
    return path


def outcomes(report: RunReport, stage: Stage) -> dict[str, TaskOutcome]:
    """How the tasks of a stage ended, by table."""
    return {task.table: task.outcome for task in report.tasks if task.stage is stage}
