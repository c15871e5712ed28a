"""The HTTP server with its API and pages, assembled. What they show and do: http/, pages/, status/."""

from __future__ import annotations

import time

from aiohttp import web
from pydantic import SecretStr

from icekeeper.core.errors import ConfigError, PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.http import HttpServer
from icekeeper.http.access import Access, Rules
from icekeeper.http.api import Api
from icekeeper.http.events import EventStream
from icekeeper.http.identity import TrustedProxies
from icekeeper.night.ports import Clock
from icekeeper.pages.form_pages import FormPages
from icekeeper.pages.read_pages import ReadPages
from icekeeper.pages.responses import Responses
from icekeeper.scheduling.orders import Orders
from icekeeper.scheduling.reload import Configuration
from icekeeper.service.reloads import Reloads
from icekeeper.service.state_files import StateFiles
from icekeeper.service.state_reader import StateReader
from icekeeper.settings import Settings
from icekeeper.status.metrics import Metrics
from icekeeper.status.plan_cache import PlanCache
from icekeeper.status.queries import StatusQueries


class Web:
    """Listens where the settings say, also after a reload."""

    def __init__(
        self,
        configuration: Configuration,
        state: StateReader,
        files: StateFiles,
        metrics: Metrics,
        queries: StatusQueries,
        stream: EventStream,
        orders: Orders,
        reloads: Reloads,
        clock: Clock,
    ) -> None:
        self._configuration = configuration
        self._files = files
        self._metrics = metrics
        self._stream = stream
        access = Access(self._rules, time.monotonic)
        plans, responses = PlanCache(orders, clock), Responses(access, clock)
        self._access = access
        self._api = Api(queries, orders, plans, stream, reloads.by_http, clock)
        self._pages = (
            ReadPages(responses, queries, plans, clock),
            FormPages(responses, queries, orders, plans, access, reloads.by_http, clock),
        )
        self._server = HttpServer(self._exposition, state.readiness, self._add_routes, access)

    @property
    def port(self) -> int | None:
        """The port that was really taken."""
        return self._server.port

    def add_api(self, app: web.Application) -> None:
        """Adds the API without a token: for the control socket, whose file mode is the credential."""
        self._api.add_to(app, None)

    async def start(self) -> None:
        """PermanentError where the address can't be had."""
        settings = self._configuration.settings
        try:
            await self._server.start(settings.http.address)
        except OSError as exc:
            raise PermanentError(_not_listening(settings, exc), reason=Reason.UNEXPECTED) from exc

    async def move(self, old: Settings, new: Settings) -> None:
        """Listens where the new settings say. ConfigError where that can't be: it goes on where it was."""
        if old.http.address == new.http.address:
            return
        try:
            await self._server.move(new.http.address)
        except OSError as exc:
            raise ConfigError([_not_listening(new, exc)]) from exc

    async def stop(self) -> None:
        self._stream.close()
        await self._server.stop()

    def _add_routes(self, app: web.Application) -> None:
        self._api.add_to(app, self._access)
        for pages in self._pages:
            pages.add_to(app)

    async def _exposition(self) -> bytes:
        await self._files.refresh()
        return self._metrics.exposition()

    def _rules(self) -> Rules:
        http = self._configuration.settings.http
        proxies = TrustedProxies(http.trusted_proxies, http.user_header)
        return Rules(_clear(http.token), _clear(http.read_token), http.address[0], http.url, proxies)


def _clear(token: SecretStr | None) -> str | None:
    return (token.get_secret_value() or None) if token is not None else None


def _not_listening(settings: Settings, error: OSError) -> str:
    return f"http.listen: {settings.http.listen} can't be had: {error.strerror or error}"
