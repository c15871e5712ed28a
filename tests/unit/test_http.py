"""The HTTP server on a real socket: who may change what, what other sites may not, and what it takes at most."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from http.cookies import SimpleCookie

import aiohttp
import pytest

from icekeeper.http.access import COOKIE, SESSION_S
from tests.unit.serving import SECRET, TOKEN, Place, serving

Served = tuple[Place, aiohttp.ClientSession]
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as place_and_client:
        yield place_and_client


async def status_of(
    client: aiohttp.ClientSession, method: str, path: str, headers: Mapping[str, str] = {}, **more: str | bytes
) -> int:
    async with client.request(method, path, headers=headers, allow_redirects=False, **more) as answer:  # type: ignore[arg-type]
        return answer.status


# --- the token


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (f"Bearer {TOKEN}", 200),
        (f"bearer {TOKEN}", 200),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        ("Bearer ", 401),
        ("Bearer", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        ("Bearer \u00fc\u00fc", 401),
        (None, 401),
    ],
)
async def test_what_changes_something_needs_the_token(served: Served, given: str | None, status: int) -> None:
    _, client = served
    headers = {} if given is None else {"Authorization": given}
    async with client.post("/change", headers=headers) as answer:
        assert answer.status == status
        if status == 401:
            assert answer.headers["WWW-Authenticate"] == "Bearer"
            assert answer.content_type == "application/problem+json"
            assert TOKEN not in await answer.text()


async def test_without_a_token_configured_nothing_can_be_changed(served: Served) -> None:
    place, client = served
    place.token = None
    assert await status_of(client, "POST", "/change", {"Authorization": "Bearer "}) == 403
    assert await status_of(client, "POST", "/change", BEARER) == 403
    assert await status_of(client, "POST", "/sign-in", data="") == 403


async def test_guessing_is_held_up_for_a_minute_even_with_the_right_token(served: Served) -> None:
    place, client = served
    for _ in range(30):
        assert await status_of(client, "POST", "/change", {"Authorization": "Bearer no"}) == 401
    async with client.post("/change", headers=BEARER) as answer:
        assert (answer.status, answer.headers["Retry-After"]) == (429, "60")
    assert await status_of(client, "POST", "/sign-in", data=TOKEN) == 403
    place.now += 61
    assert await status_of(client, "POST", "/change", BEARER) == 200


async def test_requests_without_any_token_hold_up_no_other(served: Served) -> None:
    _, client = served
    for _ in range(40):
        assert await status_of(client, "POST", "/change") == 401
    assert await status_of(client, "POST", "/change", BEARER) == 200


# --- signing in


async def signed_in(client: aiohttp.ClientSession) -> tuple[str, str]:
    """The session's cookie as a header, and how it was set."""
    async with client.post("/sign-in", data=TOKEN) as answer:
        assert answer.status == 200
        received = answer.headers["Set-Cookie"]
    cookie = SimpleCookie(received)[COOKIE]
    return f"{COOKIE}={cookie.value}", received


async def is_signed_in(client: aiohttp.ClientSession, cookie: str) -> bool:
    async with client.get("/look", headers={"Cookie": cookie}) as answer:
        document: dict[str, bool] = await answer.json()
        return document["signed_in"]


async def test_a_browser_signs_in_by_a_cookie_that_no_script_and_no_other_site_can_use(served: Served) -> None:
    place, client = served
    cookie, received = await signed_in(client)
    assert {"HttpOnly", "SameSite=Strict", "Path=/", f"Max-Age={SESSION_S:.0f}"} <= set(received.split("; "))
    assert "Secure" not in received
    assert TOKEN not in received
    assert await is_signed_in(client, cookie)
    assert not await is_signed_in(client, f"{COOKIE}=other")
    assert not await is_signed_in(client, "nonsense;;=;")
    place.url = "https://icekeeper.example.com"
    assert "Secure" in (await signed_in(client))[1]


async def test_a_session_ends_by_signing_out_by_its_age_and_by_a_new_token(served: Served) -> None:
    place, client = served
    cookie, _ = await signed_in(client)
    assert await status_of(client, "POST", "/sign-out", {"Cookie": cookie}) == 200
    assert not await is_signed_in(client, cookie)

    cookie, _ = await signed_in(client)
    place.now += SESSION_S
    assert not await is_signed_in(client, cookie)

    cookie, _ = await signed_in(client)
    place.token = "another"
    assert not await is_signed_in(client, cookie)
    place.token = None
    assert not await is_signed_in(client, cookie)


async def test_a_session_gives_no_access_to_the_api(served: Served) -> None:
    _, client = served
    cookie, _ = await signed_in(client)
    assert await status_of(client, "POST", "/change", {"Cookie": cookie}) == 401


async def test_sign_ins_are_no_heap_that_grows(served: Served) -> None:
    _, client = served
    first, _ = await signed_in(client)
    for _ in range(100):
        last, _ = await signed_in(client)
    assert not await is_signed_in(client, first)
    assert await is_signed_in(client, last)


# --- other sites


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "{base}", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://["}, 403),
        ({"Origin": "{base}", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://icekeeper.example.com"}, 200),
        ({"Origin": "https://icekeeper.example.com.evil.example"}, 403),
    ],
)
async def test_another_site_can_have_nothing_changed(served: Served, headers: dict[str, str], status: int) -> None:
    place, client = served
    place.url = "https://icekeeper.example.com"
    document = {name: value.replace("{base}", place.base) for name, value in headers.items()}
    assert await status_of(client, "POST", "/change", {**BEARER, **document}) == status


@pytest.mark.parametrize("origin", ["null", "", "http://["])
async def test_an_origin_without_a_site_is_not_ours_where_no_url_is_set(served: Served, origin: str) -> None:
    _, client = served
    assert await status_of(client, "POST", "/change", {**BEARER, "Origin": origin}) == 403


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1", True),
        ("127.0.0.1:9420", True),
        ("[::1]:9420", True),
        ("localhost", True),
        ("k2.localhost:80", True),
        ("icekeeper.example.com", True),
        ("ICEKEEPER.example.com:443", True),
        ("evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("icekeeper.example.com.evil.example", False),
        ("", False),
        ("[", False),
    ],
)
async def test_a_name_that_was_made_to_point_here_opens_no_page(served: Served, host: str, known: bool) -> None:
    place, client = served
    place.url = "https://icekeeper.example.com/"
    assert await status_of(client, "GET", "/look", {"Host": host}) == (200 if known else 421)
    # What machines fetch, by whatever name they know this host.
    for path in ("/metrics", "/livez", "/readyz"):
        assert await status_of(client, "GET", path, {"Host": host}) == 200
    place.listens_at = "0.0.0.0"
    assert await status_of(client, "GET", "/look", {"Host": host}) == (200 if known else 421)
    place.url = None  # by which name others know this host is not known then
    assert await status_of(client, "GET", "/look", {"Host": host}) == 200


async def test_a_request_without_a_host_does_not_have_the_resolver_asked(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, _ = served
    monkeypatch.setattr("socket.getfqdn", lambda: pytest.fail("it would hold up the loop"))
    received = await _raw(place, b"GET /look HTTP/1.0\r\n\r\n")
    assert b" 421 " in received.splitlines()[0]


# --- how much it takes


async def test_a_body_is_64_kib_at_most(served: Served) -> None:
    _, client = served
    assert await status_of(client, "POST", "/change", BEARER, data=b"x" * 64 * 1024) == 200
    async with client.post("/change", headers=BEARER, data=b"x" * (64 * 1024 + 1)) as answer:
        assert (answer.status, answer.content_type) == (413, "application/problem+json")


async def test_so_many_at_once_and_signs_of_life_for_all(served: Served) -> None:
    place, client = served
    async with aiohttp.ClientSession(place.base, connector=aiohttp.TCPConnector(limit=0)) as crowd:
        waiting = [asyncio.create_task(status_of(crowd, "GET", "/slow")) for _ in range(64)]
        async with asyncio.timeout(10):
            while await status_of(client, "GET", "/look") != 503:
                continue
        async with client.get("/look") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
        for path in ("/metrics", "/livez", "/readyz"):
            assert await status_of(client, "GET", path) == 200
        place.go.set()
        assert await asyncio.gather(*waiting) == [200] * 64
    assert await status_of(client, "GET", "/look") == 200


async def test_a_handler_that_takes_too_long_is_given_up() -> None:
    async with serving(longest_s=0.05) as (_, client), client.get("/slow") as answer:
        assert (answer.status, answer.content_type) == (503, "application/problem+json")
        assert "took too long" in (await answer.json())["detail"]


@pytest.mark.parametrize("received", [b"", b"GET /look HTT", b"GET /look HTTP/1.1\r\nHost: localhost\r\nX-Slow: 1"])
async def test_a_connection_with_an_unfinished_request_is_closed(received: bytes) -> None:
    async with serving(idle_s=0.1) as (place, _), asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(received)
        assert await reader.read() == b""
        writer.close()


async def test_headers_without_end_are_refused(served: Served) -> None:
    place, _ = served
    received = await _raw(place, b"GET /look HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
    assert b" 400 " in received.splitlines()[0]
    received = await _raw(place, b"GET /look HTTP/1.1\r\nHost: localhost\r\n" + b"X: x\r\n" * 1000 + b"\r\n")
    assert b" 400 " in received.splitlines()[0]


async def test_a_path_that_is_no_text_is_no_crash(served: Served) -> None:
    place, _ = served
    for path in (b"/look?x=\xff\xfe", b"/\xff", b"/%ff%00", b"/look?%00=%00", b"/static/%00", b"/static/..%2f..%2fetc"):
        received = await _raw(place, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert b" 500 " not in received.splitlines()[0], path
        assert received.startswith(b"HTTP/1."), path


# --- what every answer carries


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/look", 200),
        ("GET", "/metrics", 200),
        ("GET", "/livez", 200),
        ("GET", "/readyz", 200),
        ("GET", "/static/__init__.py", 200),
        ("GET", "/static/nothing", 404),
        ("GET", "/static", 403),
        ("GET", "/nowhere", 404),
        ("PUT", "/look", 405),
        ("HEAD", "/look", 200),
        ("POST", "/change", 401),
        ("GET", "/crash", 500),
        ("GET", "/down", 503),
    ],
)
async def test_every_answer_carries_what_keeps_it_to_itself(
    served: Served, method: str, path: str, status: int
) -> None:
    _, client = served
    async with client.request(method, path) as answer:
        assert answer.status == status
        assert answer.headers["Server"] == "icekeeper"
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "unsafe" not in answer.headers["Content-Security-Policy"]
        text = await answer.text()
        if status >= 400 and path != "/static/nothing":
            document = await answer.json(content_type="application/problem+json")
            assert (document["status"], document["type"]) == (status, "about:blank")
        assert SECRET.get_secret_value() not in text
        assert "Traceback" not in text
        if path == "/down":
            assert (document["reason"], answer.headers["Retry-After"]) == ("ledger_down", "10")
            assert document["advice"]
        if status == 405:
            assert answer.headers["Allow"] == "GET,HEAD"


async def test_an_answer_that_breaks_off_ends_there_and_has_no_error_in_its_middle(served: Served) -> None:
    place, client = served
    received = await _raw(place, b"GET /breaks-off HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b"Error" not in received
    assert received.count(b"HTTP/1.1") <= 1
    assert await status_of(client, "GET", "/look") == 200


async def _raw(place: Place, request: bytes) -> bytes:
    """All that comes back until the server closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
    writer.write(request)
    received = b""
    try:
        async with asyncio.timeout(10):
            while piece := await reader.read(65536):
                received += piece
    except ConnectionResetError:
        pass
    finally:
        writer.close()
    return received
