"""The S3 server of a warm-up, as an HTTP client sees it."""

from __future__ import annotations

import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import urlsplit

import pytest

from icekeeper.adapters.iceberg.scratch import store as scratch_store
from icekeeper.adapters.iceberg.scratch.store import ScratchStore

OBJECT = "/warm-up/t/a.parquet"


@pytest.fixture
def store() -> Iterator[ScratchStore]:
    with ScratchStore() as running:
        yield running


def ask(
    store: ScratchStore, method: str, path: str, body: bytes | None = None, key: str = "", **headers: str
) -> tuple[int, bytes, dict[str, str]]:
    key = key or store.properties["s3.access-key-id"]
    signed = {"Authorization": f"AWS4-HMAC-SHA256 Credential={key}/20260101/us-east-1/s3/aws4_request", **headers}
    signed = {name.replace("_", "-"): value for name, value in signed.items()}
    with closing(http.client.HTTPConnection(urlsplit(store.properties["s3.endpoint"]).netloc, timeout=20)) as client:
        client.request(method, path, body, signed)
        answer = client.getresponse()
        return answer.status, answer.read(), dict(answer.getheaders())


@pytest.mark.parametrize(
    ("asked", "status", "got", "span"),
    [
        ("", 200, b"0123456789", None),
        ("bytes=0-", 200, b"0123456789", None),
        ("bytes=3-", 206, b"3456789", "bytes 3-9/10"),
        ("bytes=3-5", 206, b"345", "bytes 3-5/10"),
        ("bytes=8-20", 206, b"89", "bytes 8-9/10"),
        ("bytes=-4", 206, b"6789", "bytes 6-9/10"),
        ("bytes=-", 200, b"0123456789", None),
    ],
)
def test_an_object_is_read_whole_or_in_part(
    store: ScratchStore, asked: str, status: int, got: bytes, span: str | None
) -> None:
    assert ask(store, "PUT", OBJECT, b"0123456789")[0] == 200
    answer = ask(store, "GET", OBJECT, Range=asked)
    assert (answer[0], answer[1], answer[2].get("Content-Range")) == (status, got, span)
    assert ask(store, "HEAD", OBJECT)[2]["Content-Length"] == "10"


def test_signed_pieces_are_put_together(store: ScratchStore) -> None:
    pieces = b"5;chunk-signature=ab\r\n01234\r\n3;chunk-signature=cd\r\n567\r\n"
    body = pieces + b"0;chunk-signature=ef\r\nx-amz-checksum:1\r\n\r\n"
    ask(store, "PUT", OBJECT, body, Content_Encoding="aws-chunked")
    assert store.objects == {OBJECT: b"01234567"}


def test_objects_are_deleted_one_by_one_or_many_at_once(store: ScratchStore) -> None:
    for name in "abc":
        ask(store, "PUT", f"/warm-up/{name}", b"x")
    assert ask(store, "DELETE", "/warm-up/a")[0] == 204
    assert ask(store, "POST", "/warm-up?delete", b"<Delete><Object><Key>b</Key></Object></Delete>")[0] == 200
    assert set(store.objects) == {"/warm-up/c"}
    assert ask(store, "GET", "/warm-up/a")[0] == 404


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "POST", "DELETE"])
def test_it_serves_no_other_process(store: ScratchStore, method: str) -> None:
    ask(store, "PUT", OBJECT, b"x")
    assert ask(store, method, OBJECT, b"y" if method in ("PUT", "POST") else None, key="another")[0] == 403
    assert store.objects == {OBJECT: b"x"}


def test_it_takes_so_many_bytes_and_no_more(store: ScratchStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch_store, "_MOST_BYTES", 10)
    assert ask(store, "PUT", "/warm-up/a", b"12345678")[0] == 200
    assert ask(store, "PUT", "/warm-up/b", b"123")[0] == 507
    assert set(store.objects) == {"/warm-up/a"}


def test_a_client_that_leaves_in_the_middle_is_not_reported(
    store: ScratchStore, capfd: pytest.CaptureFixture[str]
) -> None:
    before = threading.active_count()
    key, (host, _, port) = (
        store.properties["s3.access-key-id"],
        urlsplit(store.properties["s3.endpoint"]).netloc.partition(":"),
    )
    ask(store, "PUT", OBJECT, b"x" * 10_000_000)
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # by a reset
        client.sendall(f"GET {OBJECT} HTTP/1.1\r\nAuthorization: Credential={key}/\r\n\r\n".encode())
        client.recv(1)
    until = time.monotonic() + 20
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.01)
    assert capfd.readouterr().err == ""


def test_without_a_thread_its_socket_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = ScratchStore()
    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="thread"), store:
        pass
    assert store._server.fileno() == -1


def test_no_name_is_looked_up_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda name="": pytest.fail("a name server may be down"))
    with ScratchStore():
        pass
