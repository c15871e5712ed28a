"""Pipelined HTTP: sends many small requests over a few connections without waiting for each response.

A world is thousands of small objects. Threads that each wait for a response would contend for Python's interpreter
lock; one thread that sends ahead and reads the responses later keeps the server as busy.
"""

from __future__ import annotations

import itertools
import socket
from collections import deque
from collections.abc import Callable, Mapping

from icekeeper.sandbox.errors import SandboxError
from icekeeper.sandbox.servers.process import LOOPBACK

_CONNECTIONS = 4
# Requests sent together, and at most unanswered. The responses to so many fit into the socket's buffers, so that
# neither side can block the other.
_BATCH = 8
_AHEAD = 32


class _Pipe:
    """One connection: requests not sent yet, and the paths of those not answered yet."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), timeout=60)
        self._responses = self._socket.makefile("rb")
        self._unsent: list[bytes] = []
        self._unanswered: deque[str] = deque()

    def add(self, path: str, request: bytes) -> None:
        self._unsent.append(request)
        self._unanswered.append(path)
        if len(self._unsent) >= _BATCH:
            self._send()
            while len(self._unanswered) > _AHEAD:
                self._read_response()

    def finish(self) -> None:
        self._send()
        while self._unanswered:
            self._read_response()

    def _send(self) -> None:
        self._socket.sendall(b"".join(self._unsent))
        self._unsent.clear()

    def _read_response(self) -> None:
        path = self._unanswered.popleft()
        status = self._responses.readline().decode().strip()
        length = 0
        while header := self._responses.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = self._responses.read(length)
        if status.split(" ")[1:2] != ["200"]:
            raise SandboxError(f"storing {path} failed: {status or 'connection lost'} {body.decode(errors='replace')}")

    def close(self) -> None:
        self._responses.close()
        self._socket.close()


class Uploads:
    """Requests to one port; `sign(method, path)` gives the headers of each."""

    def __init__(self, port: int, sign: Callable[[str, str], Mapping[str, str]]) -> None:
        self._host = f"{LOOPBACK}:{port}"
        self._sign = sign
        try:
            self._pipes = [_Pipe(port) for _ in range(_CONNECTIONS)]
        except OSError as error:
            raise SandboxError(f"no server answers at {self._host}: {error}") from error
        self._next = itertools.cycle(self._pipes)

    def send(self, method: str, path: str, body: bytes) -> None:
        """Sends or queues one request. A SandboxError may be of an earlier one."""
        headers = {"Host": self._host, "Content-Length": str(len(body)), **self._sign(method, path)}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        next(self._next).add(path, head.encode() + b"\r\n" + body)

    def finish(self) -> None:
        """Waits for all responses."""
        for pipe in self._pipes:
            pipe.finish()

    def close(self) -> None:
        """Closes the connections."""
        for pipe in self._pipes:
            pipe.close()
