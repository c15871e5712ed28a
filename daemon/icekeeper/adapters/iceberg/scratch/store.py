"""An S3 server on the loopback that keeps a few objects in memory, for as long as a session is warmed up.

It knows what S3FileIO asks for when a table is written, compacted and expired, and its own key only.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Mapping
from email.utils import formatdate
from hashlib import md5
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from types import TracebackType
from urllib.parse import unquote, urlsplit

BUCKET = "warm-up"
# Far more than a warm-up writes: another process of this host can't fill our memory.
_MOST_BYTES = 64 * 1024**2
_IDLE_S = 60.0
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
_KEY = re.compile(rb"<Key>(.*?)</Key>")


class ScratchStore:
    """Use it as a context; `properties` are those of an S3FileIO that reaches it."""

    def __init__(self) -> None:
        self._access_key, self._secret_key = secrets.token_hex(16), secrets.token_hex(16)
        self._server = _Server(self._access_key)
        self._thread = threading.Thread(target=self._server.serve_forever, name="scratch store", daemon=True)

    @property
    def properties(self) -> Mapping[str, str]:
        return {
            "s3.endpoint": f"http://127.0.0.1:{self._server.server_address[1]}",
            "s3.path-style-access": "true",
            "s3.access-key-id": self._access_key,
            "s3.secret-access-key": self._secret_key,
            "client.region": "us-east-1",
        }

    @property
    def objects(self) -> Mapping[str, bytes]:
        """What is in it, by path."""
        return dict(self._server.objects)

    def __enter__(self) -> ScratchStore:
        try:
            self._thread.start()
        except RuntimeError:  # there is no thread to be had
            self._server.server_close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    def __init__(self, access_key: str) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.access_key = access_key
        self.objects: dict[str, bytes] = {}

    def server_bind(self) -> None:
        """Without looking for the name of the loopback, which may take a name server's seconds."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a client may leave in the middle, and its traceback would be among the lines of the log."""

    def has_room(self, size: int) -> bool:
        return 0 <= size <= _MOST_BYTES - sum(map(len, list(self.objects.values())))


class _Request(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    # Otherwise each answer waits 40 ms for its head to be acknowledged.
    disable_nagle_algorithm = True
    timeout = _IDLE_S

    def do_GET(self) -> None:
        body = self._found()
        if body is None:
            return
        first, last = _bounds(self.headers.get("Range", ""), len(body))
        if (first, last) == (0, len(body)):
            self._answer(HTTPStatus.OK, body, ETag=_etag(body))
        else:
            part = {"Content-Range": f"bytes {first}-{last - 1}/{len(body)}"}
            self._answer(HTTPStatus.PARTIAL_CONTENT, body[first:last], ETag=_etag(body), **part)

    def do_HEAD(self) -> None:
        body = self._found()
        if body is not None:
            self._answer(HTTPStatus.OK, body, ETag=_etag(body))

    def do_PUT(self) -> None:
        body = self._body()
        if body is not None:
            self.server.objects[self._name] = body
            self._answer(HTTPStatus.OK, ETag=_etag(body))

    def do_POST(self) -> None:
        """A bulk delete."""
        body = self._body()
        if body is not None:
            for key in _KEY.findall(body):
                self.server.objects.pop(f"/{BUCKET}/{key.decode()}", None)
            self._answer(HTTPStatus.OK, b"<DeleteResult/>")

    def do_DELETE(self) -> None:
        if self._is_ours():
            self.server.objects.pop(self._name, None)
            self._answer(HTTPStatus.NO_CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: whatever fails is an error of the warm-up."""

    @property
    def _name(self) -> str:
        return unquote(urlsplit(self.path).path)

    def _is_ours(self) -> bool:
        if f"Credential={self.server.access_key}/" in self.headers.get("Authorization", ""):
            return True
        self._answer(HTTPStatus.FORBIDDEN, b"<Error><Code>AccessDenied</Code></Error>")
        return False

    def _found(self) -> bytes | None:
        if not self._is_ours():
            return None
        body = self.server.objects.get(self._name)
        if body is None:
            self._answer(HTTPStatus.NOT_FOUND, b"<Error><Code>NoSuchKey</Code></Error>")
        return body

    def _body(self) -> bytes | None:
        """The body of a request that is ours; what the SDK sends in signed pieces is put together."""
        if not self._is_ours():
            self.close_connection = True
            return None
        size = int(self.headers.get("Content-Length") or -1)
        if not self.server.has_room(size):
            self.close_connection = True
            self._answer(HTTPStatus.INSUFFICIENT_STORAGE)
            return None
        body = self.rfile.read(size)
        return _joined(body) if "aws-chunked" in self.headers.get("Content-Encoding", "") else body

    def _answer(self, status: HTTPStatus, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {
            **headers,
            "Content-Length": str(len(body)),
            "Last-Modified": formatdate(usegmt=True),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _joined(body: bytes) -> bytes:
    """The content of `aws-chunked`: before each piece is its size, behind the last one are the trailers."""
    content, position = b"", 0
    while True:
        end = body.index(b"\r\n", position)
        size = int(body[position:end].partition(b";")[0], 16)
        if size == 0:
            return content
        content += body[end + 2 : end + 2 + size]
        position = end + 2 + size + 2


def _bounds(header: str, size: int) -> tuple[int, int]:
    """The first byte that is asked for, and the one behind the last."""
    match = _RANGE.match(header)
    if match is None or not any(match.groups()):
        return 0, size
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


def _etag(body: bytes) -> str:
    return f'"{md5(body, usedforsecurity=False).hexdigest()}"'
