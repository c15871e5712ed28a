"""Server-sent events: what runs do, as it happens. For every listener, or one run's for the client that ordered it."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from contextlib import suppress
from http import HTTPStatus
from typing import Any, TypeVar

from aiohttp import web

from icekeeper.adapters.records import event_to_plain
from icekeeper.core.errors import Cancelled, IcekeeperError
from icekeeper.core.events import Event
from icekeeper.http.problems import problem, problem_document
from icekeeper.http.server import TIME_LIMIT
from icekeeper.scheduling.orders import OrderedRun

# How many may listen, how far behind one may be, how much is kept for one that comes back, how often a comment is sent
# where nothing happens, and how long one may take nothing.
MOST_LISTENERS = 50
_MOST_BEHIND = 400
_KEPT = 500
_ALIVE_S = 15.0
_SLOWEST_S = 20.0
_HEADERS = {"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}

Message = tuple[int, bytes]
T = TypeVar("T")


class EventStream:
    """`observe` takes the events of runs; `serve` is the handler of a listener."""

    def __init__(self, number: int = 0, alive_s: float = _ALIVE_S, slowest_s: float = _SLOWEST_S) -> None:
        """Events are numbered from above `number`, which has to be more than any number of an earlier process: a
        listener that comes back to a restarted daemon has seen none of these.
        """
        self._number = number
        self._alive_s = alive_s
        self._slowest_s = slowest_s
        self._kept: deque[Message] = deque(maxlen=_KEPT)
        self._listeners: dict[asyncio.Queue[Message | None], web.Request] = {}
        self._closed = False

    @property
    def listeners(self) -> int:
        """How many are connected. One that has left is noticed at the next comment, and is not counted until then."""
        return sum(request.transport is not None for request in self._listeners.values())

    def observe(self, event: Event) -> None:
        """Takes an event of a run; never waits."""
        self._number += 1
        message = (self._number, _message(event_to_plain(event), self._number))
        self._kept.append(message)
        for listener in tuple(self._listeners):
            try:
                listener.put_nowait(message)
            except asyncio.QueueFull:  # it comes back, and gets what it missed
                _let_go(listener)

    def close(self) -> None:
        """Ends every listener's stream, and takes no other."""
        self._closed = True
        for listener in self._listeners:
            _let_go(listener)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Events from now on or, with `Last-Event-ID`, those after that one, until the listener leaves."""
        if self._closed or self.listeners >= MOST_LISTENERS:
            why = "The daemon stops." if self._closed else f"{MOST_LISTENERS} listen already."
            answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, why)
            answer.headers["Retry-After"] = "10"
            return answer
        listener: asyncio.Queue[Message | None] = asyncio.Queue(_MOST_BEHIND)
        self._listeners[listener] = request
        try:
            return await self._stream_to(request, listener)
        finally:
            del self._listeners[listener]

    async def _stream_to(self, request: web.Request, listener: asyncio.Queue[Message | None]) -> web.StreamResponse:
        # What comes from now on waits in the queue.
        last, known, seen = _last_seen(request), tuple(self._kept), self._number
        writer = _Writer(request, self._slowest_s)
        with suppress(ConnectionError):
            # Sent at once, so that a listener knows that it listens.
            await writer.begin(b"retry: 3000\n\n")
            for number, lines in known:
                if last is not None and number > last:
                    await writer.write(lines)
            while (message := await writer.next_of(listener, self._alive_s)) is not None:
                if message[0] > seen:
                    await writer.write(message[1])
        return writer.response


class RunStream:
    """The events of one run as the answer to the request that ordered it, none left out; at last how it was settled.

    The last event is `run_settled`: why the run is not recorded or not yet in PostgreSQL, each a problem document or
    null. Where the run broke off it is `error`: a problem document.
    """

    def __init__(self, alive_s: float = _ALIVE_S) -> None:
        self._alive_s = alive_s
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()

    def observe(self, event: Event) -> None:
        """Takes an event of the run; never waits."""
        self._events.put_nowait(event)

    async def serve(self, run: OrderedRun, request: web.Request) -> web.StreamResponse:
        """Answers by the events until the run is settled. The run goes on where the client leaves."""
        run.end.add_done_callback(lambda _: self._events.put_nowait(None))
        if (limit := request.get(TIME_LIMIT)) is not None:
            limit.reschedule(None)
        # Known at once, so that also a run that takes long to begin can be cancelled.
        writer = _Writer(request, None, Location=f"/api/v1/runs/{run.run_id}")
        with suppress(ConnectionError):
            await writer.begin(b"")
            while (event := await writer.next_of(self._events, self._alive_s)) is not None:
                await writer.write(_message(event_to_plain(event)))
            await writer.write(_message(_settled(run)))
        return writer.response


class _Writer:
    """A response that is written piece by piece; its methods raise ConnectionError where the client is gone."""

    def __init__(self, request: web.Request, slowest_s: float | None, **headers: str) -> None:
        """A client that takes nothing for `slowest_s` counts as gone: it holds a place that others want."""
        self.response = web.StreamResponse(headers=_HEADERS | headers)
        self._request = request
        self._slowest_s = slowest_s

    async def begin(self, first: bytes) -> None:
        await self.response.prepare(self._request)
        await self.write(first)

    async def write(self, lines: bytes) -> None:
        try:
            async with asyncio.timeout(self._slowest_s):
                await self.response.write(lines)
        except TimeoutError:
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("the client takes nothing") from None

    async def next_of(self, queue: asyncio.Queue[T], alive_s: float) -> T:
        """The queue's next item; a comment is sent where it takes long."""
        while True:
            try:
                async with asyncio.timeout(alive_s):
                    return await queue.get()
            except TimeoutError:
                await self.write(b": still here\n\n")


def _message(document: dict[str, Any], number: int | None = None) -> bytes:
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {document['event']}\ndata: {json.dumps(document['data'])}\n\n".encode()


def _settled(run: OrderedRun) -> dict[str, Any]:
    if run.end.cancelled():
        return {"event": "error", "data": problem_document(Cancelled("it was cancelled before it began"))}
    if (error := run.end.exception()) is not None:
        return {"event": "error", "data": problem_document(error)}
    done = run.end.result()
    data = {
        "run_id": str(run.run_id),
        "not_recorded": _document_or_none(done.not_recorded),
        "not_shipped": _document_or_none(done.not_shipped),
    }
    return {"event": "run_settled", "data": data}


def _document_or_none(error: IcekeeperError | None) -> dict[str, Any] | None:
    return None if error is None else problem_document(error)


def _let_go(listener: asyncio.Queue[Message | None]) -> None:
    # Without the events that it has not had: if it got the rest, it would never ask for those in between.
    while not listener.empty():
        listener.get_nowait()
    listener.put_nowait(None)


def _last_seen(request: web.Request) -> int | None:
    text = request.headers.get("Last-Event-ID", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None
