"""Server-sent events: what runs tell, as it happens, to everybody who listens."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from http import HTTPStatus

from aiohttp import web

from daemon.adapters.records import event_to_plain
from daemon.core.events import Event
from daemon.service.http.problems import problem

# How many may listen, how far behind one may be, how much is kept for one that comes back, how often a sign of life.
MOST_LISTENERS = 50
_MOST_BEHIND = 500
_KEPT = 500
_ALIVE_S = 15.0

Message = tuple[int, bytes]


class EventStream:
    """`observe` takes the events; `serve` is the handler of a listener."""

    def __init__(self) -> None:
        self._number = 0
        self._kept: deque[Message] = deque(maxlen=_KEPT)
        self._listeners: set[asyncio.Queue[Message | None]] = set()

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
                listener.get_nowait()
                listener.put_nowait(None)

    def close(self) -> None:
        """Lets every listener go."""
        for listener in self._listeners:
            while listener.full():
                listener.get_nowait()
            listener.put_nowait(None)
        self._listeners.clear()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Events from now on or, with `Last-Event-ID`, from behind that one, for as long as anybody listens."""
        if len(self._listeners) >= MOST_LISTENERS:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, f"{MOST_LISTENERS} listen already.")
        listener: asyncio.Queue[Message | None] = asyncio.Queue(_MOST_BEHIND)
        self._listeners.add(listener)
        try:
            return await self._told(request, listener)
        finally:
            self._listeners.discard(listener)

    async def _told(self, request: web.Request, listener: asyncio.Queue[Message | None]) -> web.StreamResponse:
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        # Sent at once, so that a listener knows that it listens.
        await response.write(b"retry: 3000\n\n")
        # What comes while these are sent waits in the queue.
        last, known, seen = _last_seen(request), tuple(self._kept), self._number
        for number, lines in known:
            if last is not None and number > last:
                await response.write(lines)
        with suppress(ConnectionError):
            while True:
                try:
                    async with asyncio.timeout(_ALIVE_S):
                        message = await listener.get()
                except TimeoutError:
                    await response.write(b": still here\n\n")
                    continue
                if message is None:
                    break
                if message[0] > seen:
                    await response.write(message[1])
        return response


def _last_seen(request: web.Request) -> int | None:
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
