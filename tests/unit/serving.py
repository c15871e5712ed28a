"""A real HttpServer on a free port of the loopback, with routes of a test's own behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import SecretStr

from icekeeper.core.errors import TransientError
from icekeeper.core.reasons import Reason
from icekeeper.http import HttpServer
from icekeeper.http.access import Access, Rules
from icekeeper.http.identity import TrustedProxies, actor

TOKEN = "open-sesame"
SECRET = SecretStr("hunter2")


@dataclass
class Place:
    """What such a server is told, and may be told otherwise while it runs."""

    token: str | None = TOKEN
    listens_at: str = "127.0.0.1"
    url: str | None = None
    read_token: str | None = None
    proxies: TrustedProxies = field(default_factory=TrustedProxies)
    now: float = 1000.0
    # Lets go who waits at /slow.
    go: asyncio.Event = field(default_factory=asyncio.Event)
    base: str = ""
    access: Access | None = None

    def rules(self) -> Rules:
        return Rules(self.token, self.read_token, self.listens_at, self.url, self.proxies)

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])


@asynccontextmanager
async def serving(
    add_routes: Callable[[web.Application], None] | None = None, access: Access | None = None, **options: Any
) -> AsyncIterator[tuple[Place, aiohttp.ClientSession]]:
    """The server and a client that keeps no cookies; `options` are those of a HttpServer."""
    place = Place()
    access = access or Access(place.rules, lambda: place.now)
    place.access = access

    def add(app: web.Application) -> None:
        _add_routes(app, place, access)
        if add_routes is not None:
            add_routes(app)

    server = HttpServer(_exposition, _ready, add, access, **options)
    await server.start(("127.0.0.1", 0))
    place.base = f"http://127.0.0.1:{server.port}"
    try:
        async with aiohttp.ClientSession(place.base, cookie_jar=aiohttp.DummyCookieJar()) as client:
            yield place, client
    finally:
        place.go.set()
        await server.stop()


async def _exposition() -> bytes:
    return b"up 1\n"


async def _ready() -> Mapping[str, Any]:
    return {"ready": True}


def _add_routes(app: web.Application, place: Place, access: Access) -> None:
    async def look(request: web.Request) -> web.Response:
        return web.json_response({"signed_in": access.signed_in(request), "path": request.path, "actor": actor()})

    async def change(request: web.Request) -> web.Response:
        if (refusal := access.refusal(request)) is not None:
            return refusal
        return web.json_response({"length": len(await request.read())})

    async def sign_in(request: web.Request) -> web.Response:
        answer = web.Response(text="ok")
        return answer if access.sign_in(request, await request.text(), answer) else web.Response(status=403)

    async def sign_out(request: web.Request) -> web.Response:
        answer = web.Response(text="ok")
        access.sign_out(request, answer)
        return answer

    async def slow(request: web.Request) -> web.Response:
        await place.go.wait()
        return web.Response(text="done")

    async def crash(request: web.Request) -> web.Response:
        raise RuntimeError(f"the password is {SECRET.get_secret_value()}")

    async def down(request: web.Request) -> web.Response:
        raise TransientError("does not answer", reason=Reason.LEDGER_DOWN, where="PostgreSQL db:5432/k2")

    async def breaks_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"half")
        raise RuntimeError("in the middle")

    async def away(request: web.Request) -> web.Response:
        raise web.HTTPSeeOther("/look")

    app.router.add_get("/look", look)
    app.router.add_get("/api/look", look)
    app.router.add_get("/names/{name}", look)
    app.router.add_get("/away", away)
    app.router.add_post("/change", change)
    app.router.add_post("/sign-in", sign_in)
    app.router.add_post("/sign-out", sign_out)
    app.router.add_get("/slow", slow)
    app.router.add_get("/crash", crash)
    app.router.add_get("/down", down)
    app.router.add_get("/breaks-off", breaks_off)
    app.router.add_static("/static", Path(__file__).parent)
