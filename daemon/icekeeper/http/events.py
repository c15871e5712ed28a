"""Server-sent events: what runs tell, as it happens, to everybody who listens."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from http import HTTPStatus

from aiohttp import web

from icekeeper.adapters.records import event_to_plain
from icekeeper.core.events import Event
from icekeeper.http.problems import problem

# How many may listen, how far behind one may be, how much is kept for one that comes back, how often a sign of life,
# and how long one may take nothing.
MOST_LISTENERS = 50
_MOST_BEHIND = 400
_KEPT = 500
_ALIVE_S = 15.0
_SLOWEST_S = 20.0

Message = tuple[int, bytes]


class EventStream:
    """`observe` takes the events; `serve` is the handler of a listener."""

    def __init__(self, number: int = 0, alive_s: float = _ALIVE_S, slowest_s: float = _SLOWEST_S) -> None:
        """Events are numbered from behind `number`, which has to be above all that an earlier process has given: who
        comes back to a daemon that was restarted has seen none of these.
        """
        self._number = number
        self._alive_s = alive_s
        self._slowest_s = slowest_s
        self._kept: deque[Message] = deque(maxlen=_KEPT)
        self._listeners: set[asyncio.Queue[Message | None]] = set()
        self._connected: dict[asyncio.Queue[Message | None], web.Request] = {}
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many are connected. Who has left is heard of by the next sign of life, and takes no place until then."""
        return sum(request.transport is not None for request in self._connected.values())

    def observe(self, event: Event) -> None:
        """Takes an event of a run; never waits."""
        document = event_to_plain(event)
        self._number += 1
        lines = f"id: {self._number}\nevent: {document['event']}\ndata: {json.dumps(document['data'])}\n\n"
        message = (self._number, lines.encode())
        self._kept.append(message)
        for listener in tuple(self._listeners):
            try:
                listener.put_nowait(message)
            except asyncio.QueueFull:  # it comes back, and is told what it missed
                self._listeners.discard(listener)
                _let_go(listener)

    def close(self) -> None:
        """Lets every listener go, and takes no other."""
        self._closed = True
        for listener in self._listeners:
            _let_go(listener)
        self._listeners.clear()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Events from now on or, with `Last-Event-ID`, from behind that one, for as long as anybody listens."""
        if self._closed or self.listeners >= MOST_LISTENERS:
            why = "The daemon stops." if self._closed else f"{MOST_LISTENERS} listen already."
            answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, why)
            answer.headers["Retry-After"] = "10"
            return answer
        listener: asyncio.Queue[Message | None] = asyncio.Queue(_MOST_BEHIND)
        self._listeners.add(listener)
        self._connected[listener] = request
        try:
            return await self._told(request, listener)
        finally:
            del self._connected[listener]
            self._listeners.discard(listener)

    async def _told(self, request: web.Request, listener: asyncio.Queue[Message | None]) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        # What comes from now on waits in the queue.
        last, known, seen = _last_seen(request), tuple(self._kept), self._number
        response = web.StreamResponse(headers=headers)
        with suppress(ConnectionError):
            await response.prepare(request)
            # Sent at once, so that a listener knows that it listens.
            await self._write(request, response, b"retry: 3000\n\n")
            for number, lines in known:
                if last is not None and number > last:
                    await self._write(request, response, lines)
            while True:
                try:
                    async with asyncio.timeout(self._alive_s):
                        message = await listener.get()
                except TimeoutError:
                    await self._write(request, response, b": still here\n\n")
                    continue
                if message is None:
                    break
                if message[0] > seen:
                    await self._write(request, response, message[1])
        return response

    async def _write(self, request: web.Request, response: web.StreamResponse, lines: bytes) -> None:
        """ConnectionError where the listener is gone, or takes nothing: it holds a place that others want."""
        try:
            async with asyncio.timeout(self._slowest_s):
                await response.write(lines)
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
            raise ConnectionResetError("the listener takes nothing") from None


def _let_go(listener: asyncio.Queue[Message | None]) -> None:
    # All of what it has not heard: were it told the rest, it would never ask for what lies between.
    while not listener.empty():
        listener.get_nowait()
    listener.put_nowait(None)


def _last_seen(request: web.Request) -> int | None:
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
