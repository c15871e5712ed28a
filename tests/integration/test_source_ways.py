"""ClickHouse as others run it: below a path of a proxy, asleep until it is asked, an older server.

A user who may set nothing: test_whole_counts.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import aiohttp
import pytest
from aiohttp import web

from icekeeper.adapters.clickhouse import client as clickhouse
from icekeeper.adapters.clickhouse.client import ClickHouseOptions
from icekeeper.adapters.clickhouse.counting import ClickHouse
from icekeeper.core.audit.source import Source
from icekeeper.core.calendar import window_of
from icekeeper.core.errors import DeadlineExceeded, IcekeeperError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.doctor.source import count_refused
from icekeeper.sandbox import Sandbox
from tests.conftest import SLOT

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
SOURCE, WINDOW = Source(("few",), "ts"), window_of(SLOT)
ROWS = 3
# What an older server lacks: the setting, and a function that came with it.
SETTINGS = "FROM system.settings"
WITHOUT = "FROM (SELECT * FROM system.settings WHERE name NOT IN ('session_timezone', 'final')) AS s"
UNKNOWN = "Code: {}. DB::Exception: Unknown {}. (UNKNOWN)\n"


class Proxy:
    """A server that has ClickHouse below a path: any other is 404, as a proxy answers.

    `sleeps`: so long before its next answer; `every`: before each. `old`: a server from before 23.6, in `zone`.
    """

    def __init__(self, box: Sandbox, path: str, *, old: bool = False, zone: str = "", every: float = 0) -> None:
        self.paths: set[str] = set()
        self.sleeps = 0.0
        self.url = ""
        self._box, self._path, self._old, self._zone, self._every = box, path, old, zone, every

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_post(self._path, self._pass)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}{self._path}"
        try:
            yield
        finally:
            await runner.cleanup()

    async def _pass(self, request: web.Request) -> web.Response:
        self.paths.add(request.path)
        nap, self.sleeps = self.sleeps, self._every
        await asyncio.sleep(nap)
        query, body = dict(request.query), await request.text()
        if self._old:
            if unknown := {"session_timezone", "final"} & query.keys():
                return self._refusal(115, f"settings {unknown}")
            if "serverTimezone" in body:
                return self._refusal(46, "function serverTimezone")
            body = body.replace(SETTINGS, WITHOUT)
            if self._zone:
                body = body.replace("timezone()", f"'{self._zone}'")
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type") if name in request.headers}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self._box.clickhouse.url, params=query, data=body.encode(), headers=headers) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.startswith("X-ClickHouse")}
            return web.Response(status=answer.status, body=await answer.read(), headers=kept)

    def _refusal(self, code: int, what: str) -> web.Response:
        headers = {"X-ClickHouse-Exception-Code": str(code)}
        return web.Response(status=404, text=UNKNOWN.format(code, what), headers=headers)


@pytest.fixture(scope="module")
def table(box: Sandbox) -> Sandbox:
    for statement in (
        "CREATE DATABASE IF NOT EXISTS ways",
        "CREATE OR REPLACE TABLE ways.few (ts DateTime64(6, 'UTC')) ENGINE = MergeTree ORDER BY ts",
        f"INSERT INTO ways.few SELECT toDateTime64('2026-02-17 12:00:00', 6, 'UTC') FROM numbers({ROWS})",
    ):
        box.clickhouse.execute(statement)
    return box


@asynccontextmanager
async def source_at(box: Sandbox, url: str) -> AsyncIterator[ClickHouse]:
    source = ClickHouse(ClickHouseOptions(url, "ways", box.clickhouse.user, box.clickhouse.password))
    try:
        yield source
    finally:
        await source.close()


async def count(source: ClickHouse) -> int:
    return (await source.count(SOURCE, WINDOW, None, MINUTE)).rows


@pytest.mark.parametrize("path", ["/", "/clickhouse/", "/a/b/"])
async def test_clickhouse_is_counted_below_the_path_of_a_proxy(table: Sandbox, path: str) -> None:
    proxy = Proxy(table, path)
    async with proxy.running():
        for url in (proxy.url, proxy.url.rstrip("/")):
            async with source_at(table, url) as source:
                assert await count(source) == ROWS
        assert proxy.paths == {path}


async def test_a_wrong_path_is_final_and_named(table: Sandbox) -> None:
    proxy = Proxy(table, "/clickhouse/")
    async with proxy.running(), source_at(table, proxy.url.replace("clickhouse", "elsewhere")) as source:
        with pytest.raises(IcekeeperError, match=r"/elsewhere/ \(database ways\): .*HTTP status 404") as raised:
            await count(source)
    assert not isinstance(raised.value, TransientError)
    assert raised.value.reason is Reason.SOURCE_DOWN


async def test_an_older_server_is_counted_where_its_own_time_zone_is_utc(table: Sandbox) -> None:
    proxy = Proxy(table, "/", old=True)
    async with proxy.running(), source_at(table, proxy.url) as source:
        assert await count(source) == ROWS
        assert sum((await source.count_by_minute(SOURCE, WINDOW, False, MINUTE)).values()) == ROWS
        assert str(await source.zone()) == "UTC"


async def test_an_older_server_that_can_not_merge_while_it_counts_says_so(table: Sandbox) -> None:
    await asyncio.to_thread(
        table.clickhouse.execute,
        "CREATE OR REPLACE TABLE ways.merging (ts DateTime64(6, 'UTC')) ENGINE = ReplacingMergeTree ORDER BY ts",
    )
    proxy = Proxy(table, "/", old=True)
    async with proxy.running(), source_at(table, proxy.url) as source:
        with pytest.raises(IcekeeperError, match=r"too old to merge rows.*audit\.final: false") as raised:
            await source.count(Source(("merging",), "ts"), WINDOW, None, MINUTE)
        assert raised.value.reason is Reason.SOURCE_LIMITED
        assert not (await source.count(Source(("merging",), "ts"), WINDOW, False, MINUTE)).final


async def test_a_count_ends_with_its_timeout_however_long_its_questions_take(table: Sandbox) -> None:
    proxy = Proxy(table, "/", every=0.4)
    loop = asyncio.get_running_loop()
    async with proxy.running(), source_at(table, proxy.url) as source:
        for ask in (source.count(SOURCE, WINDOW, None, 2 * SECOND), source.newest(SOURCE, WINDOW, SECOND / 2)):
            began = loop.time()
            with pytest.raises(DeadlineExceeded, match="no count of few within"):
                await ask
            assert loop.time() - began < 3


async def test_an_older_server_in_another_time_zone_is_no_whole_count(table: Sandbox) -> None:
    proxy = Proxy(table, "/", old=True, zone="Asia/Tokyo")
    async with proxy.running(), source_at(table, proxy.url) as source:
        with pytest.raises(IcekeeperError, match="its own time zone is Asia/Tokyo") as raised:
            await count(source)
        assert "readonly" not in count_refused(raised.value, "ways.few", "ts", "icekeeper").advice
        assert str(await source.zone()) == "Asia/Tokyo"
    assert raised.value.reason is Reason.SOURCE_LIMITED


async def test_a_service_that_was_idle_has_time_to_wake_up(table: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clickhouse, "PROBE_TIMEOUT", 2 * SECOND)
    monkeypatch.setattr(clickhouse, "WAKE_TIMEOUT", MINUTE)
    proxy = Proxy(table, "/")
    async with proxy.running(), source_at(table, proxy.url) as source:
        proxy.sleeps = 3.0
        assert await count(source) == ROWS  # its first question
        proxy.sleeps = 3.0
        with pytest.raises(TransientError, match="hangs: no answer about few within 2 s"):
            await count(source)  # it has just answered: what hangs now is down
        monkeypatch.setattr(clickhouse, "_IDLE_AFTER_S", 0.0)
        proxy.sleeps = 3.0
        assert await count(source) == ROWS  # the first after a pause


@pytest.mark.parametrize("no_proxy", ["127.0.0.0/8", "localhost 127.0.0.1", "*"])
async def test_no_proxy_excepts_clickhouse_in_all_its_forms(
    table: Sandbox, monkeypatch: pytest.MonkeyPatch, no_proxy: str
) -> None:
    for name in ("http_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("NO_PROXY", no_proxy)
    async with source_at(table, table.clickhouse.url) as source:
        assert await count(source) == ROWS
