"""A lakehouse whose every part is reached through a fault proxy, and nights on it. What they prove: evidence.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import structlog

from icekeeper.adapters.host import Host, wall_clock
from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.execution.logging import configure
from icekeeper.execution.wiring import build
from icekeeper.night.ports import Clock
from icekeeper.sandbox import Offload, Sandbox, World, WorldSpec
from icekeeper.sandbox.world_spec import CatalogKind
from icekeeper.settings import load
from tests.conftest import COINBASE, SLOT, Night, no_waiting, tell_session, world_clock, write_settings
from tests.integration.faults import FaultProxy, Mode, proxied

# What a scenario takes for a password that is wrong: it must not be seen again anywhere.
WRONG = "not-the-passw0rd"
# An instant at which every snapshot but the last three is old.
LATER = SLOT + timedelta(days=400)

Change = Callable[[dict[str, Any]], None]


@dataclass
class Lab:
    """A world of one table, cold.bronze_trades_coinbase, with a ledger, and a proxy before each of its parts."""

    box: Sandbox
    engine: SparkEngine
    world: World
    directory: Path
    store: FaultProxy
    catalog: FaultProxy
    source: FaultProxy
    ledger: FaultProxy
    # More properties of the catalog.
    properties: Mapping[str, str]

    @asynccontextmanager
    async def night(
        self,
        change: Change | None = None,
        *,
        clock: Clock | None = None,
        compares_clocks: bool = False,
        starts: bool = True,
    ) -> AsyncIterator[Night]:
        """icekeeper's services on the world, nothing tried twice; `change` edits the settings document first.

        A world's present is not the servers': their clocks are compared only where a test says so. `starts` False: the
        session is not told of the catalog, and not started for that.
        """

        def edit(document: dict[str, Any]) -> None:
            self._wire(document)
            document |= {stage: {"retries": 0} for stage in ("compact", "expire", "audit")}
            if change is not None:
                change(document)

        name = f"{self.world.name}-{uuid4().hex[:6]}"
        config = write_settings(self.world, self.directory / f"{name}.yaml", self.directory / name, edit)
        settings = load(config)
        configure("info", "json", settings.state_dir, console_level="critical")  # type: ignore[arg-type]
        if starts:
            await tell_session(self.engine, settings)
        services = build(
            settings,
            self.engine,
            clock=clock or world_clock(),
            sleep=no_waiting,
            surroundings=None if compares_clocks else Host(wall_clock, {}, (settings.state_dir,)),
        )
        try:
            yield Night(self.box, self.world, config, settings, services, settings.catalog.name)
        finally:
            await services.close()
            structlog.reset_defaults()

    def _wire(self, document: dict[str, Any]) -> None:
        catalog = document["catalog"]
        if catalog["type"] == "jdbc":
            catalog["uri"] = catalog["uri"].replace(str(self.box.postgres.port), str(self.catalog.port))
        if catalog["type"] == "rest":
            catalog["uri"] = self.catalog.url
            catalog["properties"]["oauth2-server-uri"] = f"{self.catalog.url}/v1/oauth/tokens"
        catalog["properties"] |= {"s3.endpoint": self.store.url, **self.properties}
        document["clickhouse"]["url"] = self.source.url
        dsn = document["postgres"]["dsn"]
        document["postgres"]["dsn"] = dsn.replace(str(self.box.postgres.port), str(self.ledger.port))

    async def refill(self) -> None:
        """A tick of the offload: six small files in one partition."""
        at = self.world.traded_until() + timedelta(hours=1)
        await asyncio.to_thread(Offload(self.world).run, COINBASE, at=at)

    async def calm(self) -> None:
        """Everything passes again."""
        for proxy in (self.store, self.catalog, self.source, self.ledger):
            ruled, proxy.rule, proxy.cut_after = proxy.rule is not None, None, []
            await proxy.set(Mode.PASS)
            if ruled:
                await proxy.break_off()  # what a rule still holds up would keep a core of Spark's busy

    def secrets(self) -> set[str]:
        """What nobody may read anywhere."""
        return {self.box.s3.secret_key, self.box.postgres.password, self.box.clickhouse.password, WRONG}


@asynccontextmanager
async def laboratory(
    box: Sandbox,
    engine: SparkEngine,
    directory: Path,
    catalog: CatalogKind = "jdbc",
    properties: Mapping[str, str] = MappingProxyType({}),
) -> AsyncIterator[Lab]:
    """A lab with a world of its own; `properties` are more of its catalog's."""
    spec = WorldSpec(
        name=f"lab{uuid4().hex[:8]}", now=SLOT, days=0.5, tables=(COINBASE,), commits_per_day=24,
        files_per_commit=6, rows_per_file=5, symbols=6, catalog=catalog, old_snapshots=4 if catalog == "jdbc" else 0,
    )  # fmt: skip
    world = await asyncio.to_thread(box.world, spec)
    postgres = f"http://127.0.0.1:{box.postgres.port}"
    urls = {
        "store": box.s3.endpoint,
        "catalog": box.s3.rest_uri if catalog == "rest" else postgres,
        "source": box.clickhouse.url,
        "ledger": postgres,
    }
    async with AsyncExitStack() as stack:
        proxies = {
            part: await stack.enter_async_context(proxied(url, http=url != postgres)) for part, url in urls.items()
        }
        await migrate(world.postgres.dsn(world.postgres_database), world.postgres.password)
        yield Lab(box, engine, world, directory, **proxies, properties=properties)


def later() -> datetime:
    """A clock that stands at an instant at which every snapshot but the last three is old."""
    return LATER
