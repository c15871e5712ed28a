"""The store proxy before a real HTTP server: nothing is changed on the way, everything is counted, requests wait."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from bench.store import StoreProxy, kind_of

BODY = bytes(range(256)) * 40_000  # 10 MB


class _Echo(BaseHTTPRequestHandler):
    """Gives back what it is sent, and with a GET says whom the client thinks it talks to."""

    protocol_version = "HTTP/1.1"

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer(f"{self.path} {self.headers['Host']}".encode())

    def do_PUT(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Echo) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def proxy(server: ThreadingHTTPServer) -> Iterator[StoreProxy]:
    with StoreProxy(server.server_address[1]) as running:
        yield running


@pytest.fixture
def client(proxy: StoreProxy) -> Iterator[http.client.HTTPConnection]:
    proxy.reset()
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    yield connection
    connection.close()


def ask(client: http.client.HTTPConnection, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    client.request(method, path, body, headers)
    return client.getresponse().read()


def test_requests_on_one_connection_are_counted_by_kind(proxy: StoreProxy, client: http.client.HTTPConnection) -> None:
    for path in ("/bucket/a", "/bucket/b/c?versionId=1", "/bucket?list-type=2&prefix=a", "/bucket/"):
        ask(client, "GET", path)
    ask(client, "PUT", "/bucket/a", b"GET /bucket/in-a-body HTTP/1.1")
    seen = proxy.read()
    assert seen.requests == {"GET": 2, "HEAD": 0, "LIST": 2, "PUT": 1, "POST": 0, "DELETE": 0}
    assert seen.total == 5


def test_big_bodies_arrive_unchanged_and_their_bytes_are_counted(
    proxy: StoreProxy, client: http.client.HTTPConnection
) -> None:
    assert ask(client, "PUT", "/bucket/big", BODY) == BODY
    seen = proxy.read()
    assert seen.requests["PUT"] == 1
    for counted in (seen.bytes_read, seen.bytes_written):
        assert len(BODY) < counted < len(BODY) + 1000


def test_a_body_that_waits_for_100_continue_is_no_second_request(
    server: ThreadingHTTPServer, proxy: StoreProxy
) -> None:
    proxy.reset()
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    connection.connect()
    head = b"PUT /bucket/a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    connection.sock.sendall(head)
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 100")
    connection.sock.sendall(b"PUT ")
    assert connection.sock.recv(1000).startswith(b"HTTP/1.1 200")
    connection.close()
    assert proxy.read().requests["PUT"] == 1


def test_the_host_is_the_one_that_the_client_signed_for(proxy: StoreProxy, client: http.client.HTTPConnection) -> None:
    assert ask(client, "GET", "/bucket/a") == f"/bucket/a 127.0.0.1:{proxy.port}".encode()


def test_every_request_waits_and_none_waits_for_another(proxy: StoreProxy) -> None:
    proxy.reset(delay_s=0.1)

    def five() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
        for _ in range(5):
            ask(connection, "GET", "/bucket/a")
        connection.close()

    threads = [threading.Thread(target=five) for _ in range(20)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - began
    assert 0.5 <= took < 5.0, "five delays, not a hundred"
    assert proxy.read().requests["GET"] == 100


def test_a_reset_begins_anew(proxy: StoreProxy, client: http.client.HTTPConnection) -> None:
    ask(client, "GET", "/bucket/a")
    proxy.reset()
    seen = proxy.read()
    assert (seen.total, seen.bytes_read, seen.bytes_written) == (0, 0, 0)


def test_it_ends_with_its_owner(server: ThreadingHTTPServer) -> None:
    proxy = StoreProxy(server.server_address[1])
    proxy.stop()
    proxy.stop()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10).connect()


@pytest.mark.parametrize(
    ("first", "kind"),
    [
        (b"GET /b/k HTTP/1.1\r\n", "GET"),
        (b"GET /b/?prefix=x HTTP/1.1\r\n", "LIST"),
        (b"POST /b/?delete HTTP/1.1\r\n", "POST"),
        (b"the rest of a body", None),
        (b"\xff\xfe", None),
    ],
)
def test_a_request_is_known_by_its_first_bytes(first: bytes, kind: str | None) -> None:
    assert kind_of(first) == kind
