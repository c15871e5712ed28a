"""The real program on a lakehouse that is damaged in several ways, and Debian's Chromium before it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    ViewportSize,
    expect,
    sync_playwright,
)

from icekeeper.sandbox import Offload, Sandbox, World, WorldSpec
from icekeeper.sandbox.table_shapes import SHAPES
from icekeeper.sandbox.world_spec import from_micros
from tests.conftest import BINANCE, COINBASE, GOLD, SLOT, write_settings
from tests.packaging.debian import install
from tests.process.program import fetch, icekeeper, running, wait_for
from tests.years import fill

TOKEN = "a token that is hard to guess"
TABLES = (BINANCE, COINBASE, GOLD)
# The audited day.
DAY = SLOT.replace(hour=0) - timedelta(days=1)
LOST = tuple(DAY.replace(hour=hour) for hour in (13, 14))
# The daemon's clock when it starts: time enough for orders before the night.
BEFORE = SLOT - timedelta(seconds=50)
WIDE, NARROW = ViewportSize(width=1280, height=800), ViewportSize(width=390, height=844)


@dataclass
class Site:
    """The page of a daemon, and the file that it is configured by."""

    base: str
    config: Path

    def edit(self, **blocks: Any) -> None:
        self.config.write_text(yaml.safe_dump({**yaml.safe_load(self.config.read_text()), **blocks}))


@dataclass
class Watch:
    """The errors and warnings of a browser, and the hosts that it sent requests to."""

    complaints: list[str] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)

    def follow(self, page: Page) -> None:
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} at {message.location['url']}")

    def asked(self, request: Request) -> None:
        self.hosts.add(urlsplit(request.url).netloc)


@pytest.fixture(scope="module")
def site(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """`icekeeper serve`, shortly before a night; its ledger knows the two years before."""
    place = tmp_path_factory.mktemp("site")
    lost = tuple((COINBASE, hour) for hour in LOST)
    spec = WorldSpec(now=SLOT, tables=TABLES, commits_per_day=48, rows_per_file=10, symbols=6, lost=lost)
    world = box.world(spec)
    damage(world)

    def change(document: dict[str, Any]) -> None:
        document["http"]["token"] = TOKEN
        (coinbase,) = [table for table in document["tables"] if table["name"] == COINBASE]
        coinbase["audit"] = {"key": ["symbol", "sequence_number"], "compare": ["price"]}

    config = write_settings(world, place / "icekeeper.yaml", place / "state", change)
    assert icekeeper("migrate", config=config).returncode == 0
    fill(partial(world.postgres.execute, world.postgres_database), TABLES, SLOT, nights=730)
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    with running("serve", config=config, log=place / "stderr", at=BEFORE) as daemon:
        wait_for("/livez", lambda: fetch(f"{base}/livez"))
        yield Site(base, config)
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0


def damage(world: World) -> None:
    """Besides the lost hours: 22 rows come late, as many are too many in Iceberg, and two have other prices."""
    shape, marks, tick = SHAPES[COINBASE], world.watermarks, from_micros(world.spec.last_tick_before(SLOT))
    # A cycle is written twice: the offload comes back to rows that it has copied.
    newest = world.watermark(COINBASE)
    assert newest is not None
    back = "UPDATE offload_watermarks SET last_offload_timestamp = $1 WHERE table_name = $2"
    world.postgres.execute(world.postgres_database, back, DAY.replace(hour=6), shape.source)
    assert Offload(world).run(COINBASE, at=DAY.replace(hour=6, minute=20)) == 15
    marks.succeeded(shape.source, newest, None, 15, tick, tick + timedelta(seconds=20))

    def between(start: str, end: str) -> str:
        return f"exchange_timestamp >= '{DAY:%Y-%m-%d} {start}:00' AND exchange_timestamp < '{DAY:%Y-%m-%d} {end}:00'"

    late = f"* REPLACE (sequence_number + 1000000000000 AS sequence_number) FROM {shape.source}"
    for statement in (
        f"ALTER TABLE {shape.source} DELETE WHERE {between('09:40', '09:47')}",
        f"ALTER TABLE {shape.source} UPDATE price = price + 1 WHERE {between('20:10', '20:12')}",
        f"INSERT INTO {shape.source} SELECT {late} WHERE {between('20:05', '20:27')}",
    ):
        world.clickhouse.execute(statement, database=world.clickhouse_database, settings={"mutations_sync": 1})


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    install("chromium", "fonts-dejavu-core")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=30_000)  # a machine that is busy with something else fails no test
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        yield browser
        browser.close()


Open = Callable[..., Any]


@pytest.fixture
def open_page(chromium: Browser, site: Site) -> Open:
    """A browser for a while. Afterwards it has complained of nothing but `expected`, and asked no other host."""

    @contextmanager
    def opened(*, signed_in: bool = False, expected: str | None = None, **options: Any) -> Iterator[Page]:
        watch = Watch()
        context: BrowserContext = chromium.new_context(**{"base_url": site.base, "viewport": WIDE, **options})
        context.set_default_timeout(60_000)
        context.on("page", watch.follow)
        context.on("request", watch.asked)
        try:
            page = context.new_page()
            if signed_in:
                sign_in(page)
            yield page
            assert [complaint for complaint in watch.complaints if expected is None or expected not in complaint] == []
            assert watch.hosts == {urlsplit(site.base).netloc}
        finally:
            context.close()

    return opened


def sign_in(page: Page, token: str = TOKEN) -> None:
    page.goto("/sign-in")
    page.get_by_label("The token").fill(token)
    page.get_by_role("main").get_by_role("button", name="Sign in").click()


@pytest.fixture(scope="module")
def picture() -> Callable[..., None]:
    """Takes a picture for docs/, of the window or a part of the page, where `make screenshots` asks for them."""
    directory = os.environ.get("SCREENSHOTS")

    def take(page: Page, name: str, of: Locator | None = None) -> None:
        if directory:
            (of or page).screenshot(path=Path(directory) / f"{name}.png", animations="disabled")

    return take
