"""The network between the program and the sandbox's servers, which can be cut and slowed down from any thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from enum import StrEnum
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

from icekeeper.sandbox import Sandbox
from tests.integration.faults import FaultProxy, Mode

_PATIENCE_S = 10.0


class Part(StrEnum):
    """What the program reaches through us. A catalog in PostgreSQL is reached directly, unlike the ledger."""

    STORE = "store"
    SOURCE = "source"
    LEDGER = "ledger"


class Network:
    """A proxy before each server; their loop has a thread of its own."""

    def __init__(self, box: Sandbox) -> None:
        servers = {Part.STORE: box.s3.endpoint, Part.SOURCE: box.clickhouse.url, Part.LEDGER: box.postgres.dsn("any")}
        self._proxies = {part: FaultProxy(_address(url)) for part, url in servers.items()}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="network", daemon=True)

    def __enter__(self) -> Network:
        self._thread.start()
        for proxy in self._proxies.values():
            self._do(proxy.start())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for proxy in self._proxies.values():
            self._do(proxy.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def port(self, part: Part) -> int:
        return self._proxies[part].port

    def set(self, part: Part, mode: Mode) -> None:
        self._do(self._proxies[part].set(mode))

    def delay(self, part: Part, seconds: float) -> None:
        """Every request takes so much longer."""
        self._proxies[part].delay_s = seconds

    def calm(self) -> None:
        """Everything passes, at full speed."""
        for part in Part:
            self.delay(part, 0.0)
            self.set(part, Mode.PASS)

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(_PATIENCE_S)


def _address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port
