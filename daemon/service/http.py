"""The HTTP side of the daemon: /metrics and /livez. It stands on the loop, so that its answers prove that it turns."""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from daemon.service.metrics import Metrics


class HttpServer:
    """Listens where the settings say; `port` is the one that was really taken."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._runner: web.AppRunner | None = None
        self.port: int | None = None

    async def start(self, address: tuple[str, int]) -> None:
        """OSError where the address can't be had."""
        app = web.Application()
        app.router.add_get("/metrics", self._metrics_page)
        app.router.add_get("/livez", self._livez)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        try:
            await web.TCPSite(runner, *address).start()
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = runner.addresses[0][1]

    async def move(self, address: tuple[str, int]) -> None:
        """Listens somewhere else from now on. OSError: it goes on where it was."""
        old = self._runner
        await self.start(address)
        if old is not None:
            await old.cleanup()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _metrics_page(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _livez(self, request: web.Request) -> web.Response:
        # Answered by the loop itself: a loop that hangs answers nothing.
        return web.Response(text="ok\n")
