"""A TCP proxy between icekeeper and one of its parts, which refuses, resets, hangs, delays, or meddles with HTTP."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import urlsplit

LOOPBACK = "127.0.0.1"
_CHUNK = 64 * 1024
_BACKLOG = 256


class Mode(Enum):
    """What becomes of connections."""

    PASS = "pass"
    REFUSE = "refuse"
    RESET = "reset"
    # Accepted and never answered.
    HANG = "hang"


@dataclass(frozen=True)
class Request:
    """An HTTP request on its way to the server."""

    method: str
    target: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a rule answers in the server's place; `late`: the server does what it was asked for, unheard.

    `raw`: instead of all the rest, these bytes, after which the connection ends.
    """

    status: int
    body: bytes = b""
    media_type: str = "application/json"
    late: bool = False
    headers: tuple[str, ...] = ()
    raw: bytes = b""

    def encoded(self) -> bytes:
        if self.raw:
            return self.raw
        head = f"HTTP/1.1 {self.status} Made up\r\nContent-Type: {self.media_type}\r\nContent-Length: {len(self.body)}"
        more = "".join(f"\r\n{header}" for header in self.headers)
        return f"{head}{more}\r\nConnection: close\r\n\r\n".encode() + self.body


# The server does what it was asked for, and the connection breaks before its answer arrives.
LOST = Answer(0, late=True)

Rule = Callable[[Request], Awaitable[Answer | None]]


class FaultProxy:
    """Listens on a port of its own for one server. What is set acts at once, on open connections too.

    `rule` sees every request of an HTTP server whole, may hold it up, and may answer; None lets it pass.
    `cut_after`: once for each, when these bytes were sent, the connection breaks as soon as the server has answered.
    """

    def __init__(self, upstream: tuple[str, int], *, http: bool = False) -> None:
        self.port = 0
        self.delay_s = 0.0
        self.rule: Rule | None = None
        self.cut_after: list[bytes] = []
        self.upstream = upstream
        self.http = http
        self.flowing = asyncio.Event()
        self.flowing.set()
        self._mode = Mode.PASS
        self._server: asyncio.Server | None = None
        self._bound: socket.socket | None = None
        self._links: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self) -> None:
        bound, self._bound = self._bound or _bound_to(0), None
        self.port = bound.getsockname()[1]
        bound.listen(_BACKLOG)  # at once: who connects before the loop has come round is not refused
        self._server = await asyncio.start_server(self._accept, sock=bound, backlog=_BACKLOG)

    async def set(self, mode: Mode) -> None:
        """Changes the mode. Connections that are open are broken off, unless they are to hang."""
        if mode is self._mode:
            return
        self._mode = mode
        if mode is Mode.HANG:
            self.flowing.clear()
            return
        self.flowing.set()
        if mode is Mode.REFUSE:
            self._refuse()
        elif self._server is None:
            await self.start()
        await self.break_off()

    async def stop(self) -> None:
        self._refuse()
        await self.break_off()
        if self._bound is not None:
            self._bound.close()

    def _refuse(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
            # Bound and not listening: nobody else gets the port, and whoever connects is refused.
            self._bound = _bound_to(self.port)

    async def break_off(self) -> None:
        """Ends the connections that are open."""
        links = tuple(self._links)
        for link in links:
            link.cancel()
        await asyncio.gather(*links, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        link = asyncio.create_task(self._serve(reader, writer))
        self._links.add(link)
        link.add_done_callback(self._links.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends = [writer]
        try:
            if self._mode is Mode.RESET:
                return
            await self.flowing.wait()
            from_there, there = await asyncio.open_connection(*self.upstream)
            ends.append(there)
            await _Link(self, reader, writer, from_there, there).run()
        except OSError:
            pass  # the server behind is away itself
        finally:
            for end in ends:
                end.transport.abort()


class _Link:
    """One connection, and the one behind it."""

    def __init__(
        self,
        proxy: FaultProxy,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        from_there: asyncio.StreamReader,
        there: asyncio.StreamWriter,
    ) -> None:
        self._proxy = proxy
        self._reader, self._writer = reader, writer
        self._from_there, self._there = from_there, there
        self._instead: Answer | None = None

    async def run(self) -> None:
        up = asyncio.create_task(self._requests() if self._proxy.http else self._bytes())
        down = asyncio.create_task(self._answers())
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in (up, down):
                pump.cancel()
            # Whichever end broke first: the link is over, and both sides see it by their connections.
            await asyncio.gather(up, down, return_exceptions=True)

    async def _bytes(self) -> None:
        while data := await self._reader.read(_CHUNK):
            await self._held_up()
            if self._proxy.cut_after and self._proxy.cut_after[0] in data:
                self._proxy.cut_after.pop(0)
                self._instead = LOST
            await self._send(self._there, data)

    async def _requests(self) -> None:
        while True:
            head = await self._reader.readuntil(b"\r\n\r\n")
            await self._held_up()
            first, *lines = head.decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)
            }
            if headers.get("expect") == "100-continue":
                # Answered here, so that the body can be seen before the server does.
                await self._send(self._writer, b"HTTP/1.1 100 Continue\r\n\r\n")
                head = head.replace(b"Expect: 100-continue\r\n", b"")
            body = await self._body(headers)
            method, target, _ = first.split(" ", 2)
            rule = self._proxy.rule
            answer = None if rule is None else await rule(Request(method, target, body, headers))
            if answer is not None and not answer.late:
                await self._answer(answer)
                return
            self._instead = answer
            await self._send(self._there, head + body)

    async def _body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return await self._reader.readexactly(int(headers.get("content-length", "0")))
        body = b""
        while True:
            line = await self._reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            body += line + await self._reader.readexactly(size + 2)
            if size == 0:
                return body

    async def _answers(self) -> None:
        while data := await self._from_there.read(_CHUNK):
            await self._proxy.flowing.wait()
            if self._instead is not None:
                await self._answer(self._instead)
                return
            await self._send(self._writer, data)

    async def _answer(self, answer: Answer) -> None:
        if answer.status:
            await self._send(self._writer, answer.encoded())
            self._writer.write_eof()
            while await self._reader.read(_CHUNK):  # until the client has read it, too, and hangs up
                pass

    async def _held_up(self) -> None:
        if self._proxy.delay_s:
            await asyncio.sleep(self._proxy.delay_s)
        await self._proxy.flowing.wait()

    async def _send(self, end: asyncio.StreamWriter, data: bytes) -> None:
        end.write(data)
        await end.drain()


def _bound_to(port: int) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind((LOOPBACK, port))
    return bound


@asynccontextmanager
async def proxied(url: str, *, http: bool = False) -> AsyncIterator[FaultProxy]:
    """A proxy before the server of a URL. `http`: it reads requests, so that a rule can be set."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = FaultProxy((parts.hostname, parts.port), http=http)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.stop()
