"""The real program on a lakehouse whose offload lost two hours, and Debian's Chromium before it."""

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
    Page,
    Request,
    ViewportSize,
    expect,
    sync_playwright,
)

from icekeeper.sandbox import Sandbox, WorldSpec
from tests.conftest import BINANCE, COINBASE, GOLD, SLOT, write_settings
from tests.packaging.debian import install
from tests.process.program import fetch, icekeeper, running, wait_for
from tests.years import fill

TOKEN = "a token that is hard to guess"
TABLES = (BINANCE, COINBASE, GOLD)
LOST = tuple(SLOT.replace(hour=hour) - timedelta(days=1) for hour in (13, 14))
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

    def with_token(document: dict[str, Any]) -> None:
        document["http"]["token"] = TOKEN

    config = write_settings(world, place / "icekeeper.yaml", place / "state", with_token)
    assert icekeeper("migrate", config=config).returncode == 0
    fill(partial(world.postgres.execute, world.postgres_database), TABLES, SLOT, nights=730)
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    with running("serve", config=config, log=place / "stderr", at=BEFORE) as daemon:
        wait_for("/livez", lambda: fetch(f"{base}/livez"))
        yield Site(base, config)
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0


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
def picture() -> Callable[[Page, str], None]:
    """Takes a picture for docs/ where `make screenshots` asks for them."""
    directory = os.environ.get("SCREENSHOTS")

    def take(page: Page, name: str) -> None:
        if directory:
            page.screenshot(path=Path(directory) / f"{name}.png", animations="disabled")

    return take
