"""A proxy before the S3 server that counts requests and bytes and can make every request wait. It knows HTTP, not S3.

It runs as a process of its own (this file, as a script, so it imports the standard library only): in ours it would
share an interpreter with what is measured. What it costs a request, all rivals pay alike.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

LOOPBACK = "127.0.0.1"
KINDS = ("GET", "HEAD", "LIST", "PUT", "POST", "DELETE")
# What may lie unread between two connections before the faster side is held up.
_HIGH_WATER = 1 << 20


@dataclass(frozen=True, slots=True)
class Traffic:
    """What went through: bytes, and requests by kind.

    LIST is a GET of a bucket; POST a bulk delete, or the begin and the end of an upload in parts.
    """

    requests: Mapping[str, int]
    bytes_read: int
    bytes_written: int

    @property
    def total(self) -> int:
        return sum(self.requests.values())


class StoreProxy:
    """The proxy's process, as its owner sees it. It ends with its owner, whose end of the pipe it reads."""

    def __init__(self, upstream_port: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(upstream_port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C on the terminal is for us
        )
        self.port = int(self._answer())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def url(self) -> str:
        return f"http://{LOOPBACK}:{self.port}"

    def reset(self, delay_s: float = 0.0) -> None:
        """Counts from zero, and lets every request from now on wait so long before the server gets it."""
        self._ask(f"reset {delay_s}")

    def read(self) -> Traffic:
        """What went through since the last reset."""
        counted = json.loads(self._ask("read"))
        return Traffic(counted["requests"], counted["bytes_read"], counted["bytes_written"])

    def stop(self) -> None:
        """Ends the process. Twice is fine."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> StoreProxy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _ask(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the store proxy has ended with code {self._process.wait()}")
        return line


# --- inside the process


class _Counts:
    """What is counted, and the delay: shared by all connections of the one loop."""

    def __init__(self) -> None:
        self.reset(0.0)

    def reset(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.requests = Counter(dict.fromkeys(KINDS, 0))
        self.bytes_read = 0
        self.bytes_written = 0

    def as_json(self) -> str:
        return json.dumps(
            {"requests": self.requests, "bytes_read": self.bytes_read, "bytes_written": self.bytes_written}
        )


def kind_of(first: bytes) -> str | None:
    """The kind of a request by its first bytes; None if no request begins with them."""
    method, _, rest = first.partition(b" ")
    name = method.decode("ascii", "replace")
    if name not in KINDS:
        return None
    path, _, query = rest.partition(b" ")[0].partition(b"?")
    # A GET of the bucket itself, or with the parameters of a listing, is no GET of an object.
    is_listing = b"list-type=" in query or b"prefix=" in query or path.strip(b"/").count(b"/") == 0
    return "LIST" if name == "GET" and is_listing else name


class _End(asyncio.Protocol):
    """One end of a connection: what it gets goes to the other end, as fast as that one takes it."""

    def __init__(self, counts: _Counts) -> None:
        self._counts = counts
        self.transport: asyncio.Transport | None = None
        self.other: _End | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.set_write_buffer_limits(high=_HIGH_WATER)
        self.transport = transport

    def pause_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()  # once what it still has to send is sent


class _Server(_End):
    """The end towards the S3 server."""

    def data_received(self, data: bytes) -> None:
        self._counts.bytes_read += len(data)
        client = self.other
        assert isinstance(client, _Client)
        # No client pipelines: what a client sends after an answer is its next request. "100 Continue" is no answer yet.
        if not data.startswith(b"HTTP/1.1 100"):
            client.expects_request = True
        if client.transport is not None:
            client.transport.write(data)


class _Client(_End):
    """The end towards the rival that is measured. While a delay runs, or until the server is there, it holds back."""

    def __init__(self, counts: _Counts, upstream_port: int) -> None:
        super().__init__(counts)
        self._upstream_port = upstream_port
        self.expects_request = True
        self._held: list[bytes] = []
        self._delayed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._connecting = asyncio.get_running_loop().create_task(self._connect())

    async def _connect(self) -> None:
        server = _Server(self._counts)
        server.other = self
        try:
            await asyncio.get_running_loop().create_connection(lambda: server, LOOPBACK, self._upstream_port)
        except OSError:
            if self.transport is not None:
                self.transport.abort()
            return
        self.other = server
        if self.transport is None or self.transport.is_closing():
            assert server.transport is not None
            server.transport.close()
        elif not self._delayed:
            self._send_held()

    def data_received(self, data: bytes) -> None:
        self._counts.bytes_written += len(data)
        if self.expects_request and (kind := kind_of(data[:4096])) is not None:
            self.expects_request = False
            self._counts.requests[kind] += 1
            if self._counts.delay_s:
                self._delayed = True
                asyncio.get_running_loop().call_later(self._counts.delay_s, self._end_of_delay)
        if self._delayed or self.other is None:
            self._held.append(data)
        elif self.other.transport is not None:
            self.other.transport.write(data)

    def _end_of_delay(self) -> None:
        self._delayed = False
        if self.other is not None:
            self._send_held()

    def _send_held(self) -> None:
        held, self._held = self._held, []
        if held and self.other is not None and self.other.transport is not None:
            self.other.transport.write(b"".join(held))


async def _serve(upstream_port: int) -> None:
    """Serves until the owner's end of the pipe is closed."""
    loop = asyncio.get_running_loop()
    counts = _Counts()
    server = await loop.create_server(lambda: _Client(counts, upstream_port), LOOPBACK, 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    orders = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(orders), sys.stdin)
    while line := await orders.readline():
        word, _, value = line.decode().strip().partition(" ")
        if word == "reset":
            counts.reset(float(value))
        print(counts.as_json(), flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1])))
