"""The HTTP side of the daemon: /metrics, health, reload. It stands on the loop, so that its answers prove it turns."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from daemon.core.history import ConfigLoad
from daemon.service.reports import plain

Address = tuple[str, int]


class HttpServer:
    """Listens where the settings say; `port` is the one that was really taken."""

    def __init__(
        self,
        metrics: Callable[[], bytes],
        readiness: Callable[[], Awaitable[Mapping[str, Any]]],
        reload: Callable[[], Awaitable[ConfigLoad]],
        token: Callable[[], str | None],
    ) -> None:
        """`readiness` has `ready` and what the parts say; who wants to change something has to bear the `token`."""
        self._metrics = metrics
        self._readiness = readiness
        self._reload = reload
        self._token = token
        self._runner: web.AppRunner | None = None
        self._address: Address | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self.port: int | None = None

    async def start(self, address: Address) -> None:
        """OSError where the address can't be had."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_post("/-/reload", self._reload_asked)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, *address).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self._address = runner, address
        self.port = runner.addresses[0][1]

    async def move(self, address: Address) -> None:
        """Listens somewhere else from now on. OSError: it goes on where it was."""
        old, was = self._runner, self._address
        same_port = old is not None and was is not None and was[1] == address[1] != 0
        if old is not None and same_port:
            # Another host on the same port may include this one: there can be no two at a time.
            for site in list(old.sites):
                await site.stop()
        try:
            await self.start(address)
        except OSError:
            if old is not None and was is not None and same_port:
                await self.start(was)
                self._leave(old)
            raise
        if old is not None:
            self._leave(old)

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        if self._leaving:
            await asyncio.wait(self._leaving)

    def _leave(self, runner: web.AppRunner) -> None:
        """Lets what is under way there end behind us: it may be the request that we were moved by."""
        self._leaving.add(leaving := asyncio.create_task(runner.cleanup()))
        leaving.add_done_callback(self._leaving.discard)

    async def _metrics_page(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _livez(self, request: web.Request) -> web.Response:
        # Answered by the loop itself: a loop that hangs answers nothing.
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        told = await self._readiness()
        status = HTTPStatus.OK if told["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        return web.json_response(dict(told), status=status)

    async def _reload_asked(self, request: web.Request) -> web.Response:
        if (refusal := self._refusal(request)) is not None:
            return refusal
        load = await self._reload()
        if load.problems:
            return problem(
                HTTPStatus.UNPROCESSABLE_ENTITY, "The configuration is kept as it was.", problems=load.problems
            )
        return web.json_response(plain(load))

    def _refusal(self, request: web.Request) -> web.Response | None:
        """The answer to a request that may change nothing; None where it may."""
        token = self._token()
        if token is None:
            return problem(HTTPStatus.FORBIDDEN, "Nothing can be changed over HTTP: http.token is not set.")
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.encode(), token.encode()):
            return None
        answer = problem(HTTPStatus.UNAUTHORIZED, "This needs the header `Authorization: Bearer` with http.token.")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer


def problem(status: HTTPStatus, detail: str, **more: Any) -> web.Response:
    """A problem document (RFC 9457)."""
    document = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail, **plain(more)}
    return web.json_response(document, status=status.value, content_type="application/problem+json")
