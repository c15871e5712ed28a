"""Sends many small HTTP requests over a few connections without waiting for each answer. Knows HTTP, not S3.

A world is thousands of small objects. Threads that each wait for an answer spend their time fighting for Python's
interpreter lock; one thread that sends ahead and reads the answers later keeps the server busy all the same.
"""

from __future__ import annotations

import itertools
import socket
from collections import deque
from collections.abc import Callable, Mapping

from icekeeper.sandbox.errors import SandboxError
from icekeeper.sandbox.servers.process import LOOPBACK

_CONNECTIONS = 4
# Sent together, and then at most this many unanswered. The answers to so many fit into the socket's buffers, so that
# neither side can block the other.
_BATCH = 8
_AHEAD = 32


class _Pipe:
    """One connection: requests not sent yet, and the paths of those not answered yet."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((LOOPBACK, port), timeout=60)
        self._answers = self._socket.makefile("rb")
        self._unsent: list[bytes] = []
        self._unanswered: deque[str] = deque()

    def add(self, path: str, request: bytes) -> None:
        self._unsent.append(request)
        self._unanswered.append(path)
        if len(self._unsent) >= _BATCH:
            self._send()
            while len(self._unanswered) > _AHEAD:
                self._read_answer()

    def finish(self) -> None:
        self._send()
        while self._unanswered:
            self._read_answer()

    def _send(self) -> None:
        self._socket.sendall(b"".join(self._unsent))
        self._unsent.clear()

    def _read_answer(self) -> None:
        path = self._unanswered.popleft()
        status = self._answers.readline().decode().strip()
        length = 0
        while header := self._answers.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        body = self._answers.read(length)
        if status.split(" ")[1:2] != ["200"]:
            raise SandboxError(f"storing {path} failed: {status or 'connection lost'} {body.decode(errors='replace')}")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


class Uploads:
    """Requests to one port; `sign(method, path)` gives the headers of each."""

    def __init__(self, port: int, sign: Callable[[str, str], Mapping[str, str]]) -> None:
        self._host = f"{LOOPBACK}:{port}"
        self._sign = sign
        try:
            self._pipes = [_Pipe(port) for _ in range(_CONNECTIONS)]
        except OSError as error:
            raise SandboxError(f"nobody answers at {self._host}: {error}") from error
        self._next = itertools.cycle(self._pipes)

    def send(self, method: str, path: str, body: bytes) -> None:
        """Sends one request, soon. An error may be of an earlier one, and is raised as SandboxError."""
        headers = {"Host": self._host, "Content-Length": str(len(body)), **self._sign(method, path)}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        next(self._next).add(path, head.encode() + b"\r\n" + body)

    def finish(self) -> None:
        """Waits for all answers."""
        for pipe in self._pipes:
            pipe.finish()

    def close(self) -> None:
        """Drops the connections."""
        for pipe in self._pipes:
            pipe.close()
