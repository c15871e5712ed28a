"""An outgoing proxy of the environment, for ClickHouse and for messages: of names that only the proxy can resolve."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from icekeeper.adapters.apprise import AppriseTarget
from icekeeper.adapters.clickhouse.client import ClickHouseOptions
from icekeeper.adapters.clickhouse.counting import ClickHouse
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import window_of
from icekeeper.core.errors import IcekeeperError
from icekeeper.sandbox import Sandbox
from tests.conftest import SLOT
from tests.integration.test_notify import serving

# No server of names has it (RFC 2606).
HIDDEN = "service.invalid"
VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
SOURCE, WINDOW, MINUTE = Source(("few",), "ts"), window_of(SLOT), timedelta(minutes=1)


@dataclass
class Proxy:
    """A proxy for HTTP, with CONNECT, by which HIDDEN is this host. `asked`: for which hosts, by which method."""

    address: str = ""
    asked: set[tuple[str, str]] = field(default_factory=set)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            method, target, _ = head.split(b"\r\n")[0].decode().split(" ")
            parts = urlsplit(f"//{target}" if method == "CONNECT" else target)
            host, port = parts.hostname or "", parts.port or 80
            self.asked.add((method, host))
            there, back = await asyncio.open_connection("127.0.0.1" if host == HIDDEN else host, port)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                # The next request on this connection might be for another host.
                path = target.partition(parts.netloc)[2] or "/"
                head = head.replace(target.encode(), path.encode(), 1)
                head = re.sub(rb"\r\n(?:Proxy-)?Connection:[^\r]*", b"", head, flags=re.IGNORECASE)
                back.write(head[:-2] + b"Connection: close\r\n\r\n")
            await asyncio.gather(_copy(reader, back), _copy(there, writer))
        writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@pytest.fixture
async def proxy(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Proxy]:
    for name in (*VARIABLES, *map(str.lower, VARIABLES)):
        monkeypatch.delenv(name, raising=False)
    made = Proxy()
    async with made.running():
        yield made


async def counted(box: Sandbox, host: str) -> int:
    real = urlsplit(box.clickhouse.url)
    options = ClickHouseOptions(f"http://{host}:{real.port}", "proxied", box.clickhouse.user, box.clickhouse.password)
    source = ClickHouse(options)
    try:
        return (await source.count(SOURCE, WINDOW, None, MINUTE)).rows
    finally:
        await source.close()


@pytest.mark.parametrize(
    ("environment", "host", "asked"),
    [
        pytest.param({"HTTP_PROXY": "{proxy}"}, HIDDEN, True, id="its name is the proxy's to resolve"),
        pytest.param({"http_proxy": "{proxy}"}, HIDDEN, True, id="in small letters"),
        pytest.param(
            {"HTTP_PROXY": "{proxy}", "NO_PROXY": "127.0.0.0/8"}, "127.0.0.1", False, id="an excepted network"
        ),
        pytest.param({"HTTPS_PROXY": "{proxy}"}, "127.0.0.1", False, id="a proxy for TLS alone"),
    ],
)
async def test_clickhouse_is_counted_through_the_proxy_of_the_environment(
    box: Sandbox, proxy: Proxy, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], host: str, asked: bool
) -> None:
    for statement in (
        "CREATE DATABASE IF NOT EXISTS proxied",
        "CREATE OR REPLACE TABLE proxied.few (ts DateTime64(6, 'UTC')) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO proxied.few SELECT toDateTime64('2026-02-17 12:00:00', 6, 'UTC') FROM numbers(3)",
    ):
        box.clickhouse.execute(statement)
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(proxy=proxy.address))
    assert await counted(box, host) == 3
    assert bool(proxy.asked) == asked


async def test_a_proxy_that_is_down_is_a_source_that_is_down(
    box: Sandbox, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    with pytest.raises(IcekeeperError) as down:
        await counted(box, HIDDEN)
    assert down.value.reason == "source_down"


async def test_a_message_goes_through_the_proxy_unless_its_host_is_excepted(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    came: list[str] = []

    async def take(request: web.Request) -> web.Response:
        came.append(request.path)
        return web.Response()

    async with serving(take) as address:
        monkeypatch.setenv("HTTP_PROXY", proxy.address)
        await AppriseTarget(f"json://{HIDDEN}:{address.rpartition(':')[2]}/through").send("t", "b", "failed", 10)
        assert proxy.asked == {("POST", HIDDEN)}
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        await AppriseTarget(f"json://{address}/past").send("t", "b", "failed", 10)
    assert came == ["/through", "/past"]
    assert proxy.asked == {("POST", HIDDEN)}
