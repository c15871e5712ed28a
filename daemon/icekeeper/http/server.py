"""The HTTP server: where it listens, its limits, the headers of every answer. Its routes: api.py and pages/."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from yarl import URL

from icekeeper.http.access import Access
from icekeeper.http.problems import Handler, problem, problems

Address = tuple[str, int]

# The server's limits: bytes of a body, requests at once, seconds for one, and for a connection without a request (or
# with one that is not complete: the headers have to be there by then).
_MOST_BODY = 64 * 1024
_MOST_AT_ONCE = 64
_LONGEST_S = 30.0
_IDLE_S = 75.0
# A scrape and a health check must never wait behind people; a listener to events stays for hours.
_UNBOUNDED = frozenset({"/metrics", "/livez", "/readyz", "/api/v1/events"})
# Everything on the page is from this server, and no other site shows it in a frame.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}

# How the path of a download ends, and how long a piece of it may take.
DOWNLOAD = "/log.jsonl"
PIECE_S = 30.0

# Set on a request whose answer has begun.
_BEGUN = web.RequestKey("begun", bool)
# Set on a request that was asked below the path of http.url.
_BELOW = web.RequestKey("below", bool)
# The time that a request has; a handler whose answer goes on for hours reschedules it.
TIME_LIMIT = web.RequestKey("time_limit", asyncio.Timeout)


class HttpServer:
    """Listens where the settings say; `port` is the one that was really taken."""

    def __init__(
        self,
        metrics: Callable[[], Awaitable[bytes]],
        readiness: Callable[[], Awaitable[Mapping[str, Any]]],
        add_routes: Callable[[web.Application], None],
        access: Access,
        longest_s: float = _LONGEST_S,
        idle_s: float = _IDLE_S,
    ) -> None:
        """`readiness` has `ready` and the state of the systems; `add_routes` adds the API and the pages."""
        self._metrics = metrics
        self._readiness = readiness
        self._add_routes = add_routes
        self._access = access
        self._longest_s = longest_s
        self._idle_s = idle_s
        self._runner: web.AppRunner | None = None
        self._address: Address | None = None
        self._leaving: set[asyncio.Task[None]] = set()
        self._at_once = asyncio.Semaphore(_MOST_AT_ONCE)
        self.port: int | None = None

    async def start(self, address: Address) -> None:
        """OSError where the address can't be bound."""
        app = web.Application(
            middlewares=[self._below_root, problems, self._bounded, self._access.middleware],
            client_max_size=_MOST_BODY,
        )
        app.on_response_prepare.append(self._add_headers)
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/livez", self._livez)
        app.router.add_get("/readyz", self._readyz)
        self._add_routes(app)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0, keepalive_timeout=self._idle_s)
        await runner.setup()
        try:
            await web.TCPSite(runner, *address).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner, self._address = runner, address
        self.port = runner.addresses[0][1]

    async def move(self, address: Address) -> None:
        """Listens at another address from now on. OSError: it stays where it was."""
        old, was = self._runner, self._address
        same_port = old is not None and was is not None and was[1] == address[1] != 0
        if old is not None and same_port:
            # The same port of another host may include this one: both can't be bound at a time.
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
        """Ends requests that are under way there in the background: one of them may be the reload that moves us."""
        self._leaving.add(leaving := asyncio.create_task(runner.cleanup()))
        leaving.add_done_callback(self._leaving.discard)

    @web.middleware
    async def _below_root(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers below the path of http.url as without it: a proxy may take it away, or not."""
        root, path = self._access.root, request.path
        if (
            not root
            or _BELOW in request
            or request.match_info.http_exception is None
            or not f"{path}/".startswith(f"{root}/")
        ):
            return await handler(request)
        request[_BELOW] = True
        # As raw as it came: a name in it may hold an encoded slash.
        rest = request.raw_path.partition("?")[0].removeprefix(root) or "/"
        url = URL.build(path=rest, query_string=request.query_string, encoded=True)
        return await request.app._handle(request.clone(rel_url=url))

    async def _metrics_page(self, request: web.Request) -> web.Response:
        return web.Response(body=await self._metrics(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _livez(self, request: web.Request) -> web.Response:
        # Answered by the loop itself: a loop that hangs answers nothing.
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        readiness = await self._readiness()
        status = HTTPStatus.OK if readiness["ready"] else HTTPStatus.SERVICE_UNAVAILABLE
        return web.json_response(dict(readiness), status=status)

    @web.middleware
    async def _bounded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Limits how many requests are under way, and for how long. Listeners to events are counted in events.py."""
        if request.path in _UNBOUNDED:
            return await handler(request)
        # A download takes as long as its reader does; each piece of it has the time that others have for all.
        longest_s = None if request.path.endswith(DOWNLOAD) else self._longest_s
        if self._at_once.locked():
            answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, "Too many requests are under way.")
            answer.headers["Retry-After"] = "1"
            return answer
        async with self._at_once, asyncio.timeout(longest_s) as request[TIME_LIMIT]:
            return await handler(request)

    async def _add_headers(self, request: web.Request, response: web.StreamResponse) -> None:
        location = response.headers.get("Location", "")
        if location.startswith("/"):
            response.headers["Location"] = f"{self._access.root}{location}"
        await _add_headers(request, response)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    if _BEGUN in request:
        # Half of another answer was sent: a page that ends there is better than one with an error in its middle.
        if request.transport is not None:
            request.transport.abort()
        raise ConnectionResetError("the answer broke off")
    request[_BEGUN] = True
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)
    response.headers["Server"] = "icekeeper"  # and neither the library nor its version
