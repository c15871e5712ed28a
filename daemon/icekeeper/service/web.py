"""What the daemon shows and takes over HTTP, wired: the server, the API, the page, and what these are told."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from icekeeper.core.events import Event
from icekeeper.core.history import ConfigLoad
from icekeeper.http import HttpServer
from icekeeper.http.access import Access
from icekeeper.http.api import Api
from icekeeper.http.events import EventStream
from icekeeper.http.server import Address
from icekeeper.night.ports import Clock
from icekeeper.pages.form_pages import FormPages
from icekeeper.pages.read_pages import ReadPages
from icekeeper.pages.responses import Responses
from icekeeper.scheduling.orders import Orders
from icekeeper.scheduling.reload import Configuration
from icekeeper.status.gauges import DaemonState
from icekeeper.status.live import Live
from icekeeper.status.metrics import Metrics
from icekeeper.status.plan_cache import PlanCache
from icekeeper.status.queries import StatusQueries


class Web:
    """`observe` takes the events of runs; `open` comes before `start`. The rest is asked when somebody looks."""

    def __init__(
        self,
        configuration: Configuration,
        metrics: Metrics,
        *,
        vitals: Callable[[], DaemonState],
        parts: Callable[[], Mapping[str, str]],
        led: Callable[[], bool],
        readiness: Callable[[], Awaitable[Mapping[str, Any]]],
        reload: Callable[[], Awaitable[ConfigLoad]],
        clock: Clock,
    ) -> None:
        self._configuration = configuration
        self._reload = reload
        self._clock = clock
        self._live = Live(clock)
        self._queries = StatusQueries(configuration, metrics, self._live, vitals, parts, led, clock)
        self._events = EventStream(number=int(clock().timestamp() * 1000))
        self._access = Access(self._token, self._listens_at, self._url, time.monotonic)
        self._server = HttpServer(metrics.exposition, readiness, self._add_routes, self._access)
        self._api: Api | None = None
        self._pages: tuple[ReadPages, FormPages] | None = None

    @property
    def port(self) -> int | None:
        """The port that was really taken."""
        return self._server.port

    def observe(self, event: Event) -> None:
        """Takes an event of a run; never waits."""
        self._live.observe(event)
        self._queries.observe(event)
        self._events.observe(event)

    def no_run(self) -> None:
        """None is under way any more."""
        self._live.clear_run()

    def open(self, orders: Orders) -> None:
        """Orders are taken from now on."""
        plan_cache = PlanCache(orders, self._clock)
        self._api = Api(self._queries, orders, plan_cache, self._events, self._reload, self._clock)
        answers = Responses(self._access, self._clock)
        self._pages = (
            ReadPages(answers, self._queries, plan_cache, self._clock),
            FormPages(answers, self._queries, orders, plan_cache, self._access, self._reload, self._clock),
        )

    def add_api(self, app: web.Application) -> None:
        """The API for who can open the control socket: it needs no token."""
        assert self._api is not None  # open comes first
        self._api.add_to(app, None)

    async def start(self, address: Address) -> None:
        """OSError where the address can't be had."""
        await self._server.start(address)

    async def move(self, address: Address) -> None:
        """Listens somewhere else from now on. OSError: it goes on where it was."""
        await self._server.move(address)

    async def stop(self) -> None:
        self._events.close()
        await self._server.stop()

    def _add_routes(self, app: web.Application) -> None:
        assert self._api is not None  # open comes first
        assert self._pages is not None
        self._api.add_to(app, self._access)
        for pages in self._pages:
            pages.add_to(app)

    def _token(self) -> str | None:
        token = self._configuration.settings.http.token
        return (token.get_secret_value() or None) if token is not None else None

    def _listens_at(self) -> str:
        return self._configuration.settings.http.address[0]

    def _url(self) -> str | None:
        return self._configuration.settings.http.url
