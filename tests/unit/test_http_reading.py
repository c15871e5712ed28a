"""Who may read over HTTP, whom a proxy names, and the page below a proxy's path: on a real socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from http.cookies import SimpleCookie

import aiohttp
import pytest
from yarl import URL

from icekeeper.http.access import COOKIE
from icekeeper.http.identity import TrustedProxies
from tests.unit.serving import TOKEN, Place, serving

READ = "look-only"
Served = tuple[Place, aiohttp.ClientSession]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serving() as place_and_client:
        yield place_and_client


async def status_of(client: aiohttp.ClientSession, path: str, headers: Mapping[str, str] = {}, **more: str) -> int:
    method = more.pop("method", "GET")
    async with client.request(method, path, headers=headers, allow_redirects=False, **more) as answer:  # type: ignore[arg-type]
        return answer.status


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


# --- who may read


@pytest.mark.parametrize("path", ["/metrics", "/livez", "/readyz", "/static/serving.py"])
async def test_machines_and_the_way_to_sign_in_need_no_token(served: Served, path: str) -> None:
    place, client = served
    place.read_token = READ
    assert await status_of(client, path) == 200


@pytest.mark.parametrize(
    ("token", "read_token", "given", "status"),
    [
        (TOKEN, None, None, 200),
        (None, None, None, 200),
        (TOKEN, READ, None, 401),
        (None, READ, None, 401),
        (TOKEN, READ, READ, 200),
        (TOKEN, READ, TOKEN, 200),
        (None, READ, READ, 200),
        (None, READ, TOKEN, 401),
        (TOKEN, READ, READ + "x", 401),
        (TOKEN, READ, "", 401),
        (TOKEN, TOKEN, TOKEN, 200),
    ],
)
async def test_reading_needs_one_of_the_tokens_where_there_is_one_for_reading(
    served: Served, token: str | None, read_token: str | None, given: str | None, status: int
) -> None:
    place, client = served
    place.token, place.read_token = token, read_token
    headers = {} if given is None else bearer(given)
    assert await status_of(client, "/api/look", headers) == status
    if given:
        assert await status_of(client, "/look", headers) == status


async def test_the_token_for_reading_changes_nothing(served: Served) -> None:
    place, client = served
    place.read_token = READ
    assert await status_of(client, "/change", bearer(READ), method="POST") == 401
    assert await status_of(client, "/change", bearer(TOKEN), method="POST") == 200


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Basic YW5uOng="}])  # a proxy's own sign-in
async def test_a_browser_is_led_to_sign_in_and_back(served: Served, headers: dict[str, str]) -> None:
    place, client = served
    place.read_token = READ
    async with client.get("/look", headers=headers, allow_redirects=False) as answer:
        assert (answer.status, answer.headers["Location"]) == (303, "/sign-in?back=/look")


@pytest.mark.parametrize(("given", "changes"), [(TOKEN, True), (READ, False)])
async def test_a_browser_signs_in_to_read_or_to_change(served: Served, given: str, changes: bool) -> None:
    place, client = served
    place.read_token = READ
    async with client.post("/sign-in", data=given) as answer:
        assert answer.status == 200
        cookie = {"Cookie": f"{COOKIE}={SimpleCookie(answer.headers['Set-Cookie'])[COOKIE].value}"}
    async with client.get("/look", headers=cookie) as answer:
        assert (answer.status, (await answer.json())["signed_in"]) == (200, changes)
    assert await status_of(client, "/api/look", cookie) == 200
    assert await status_of(client, "/change", cookie, method="POST") == 401
    place.token, place.read_token = "new", "other"
    assert await status_of(client, "/api/look", cookie) == 401


async def test_guesses_at_the_token_for_reading_are_held_up_like_others(served: Served) -> None:
    place, client = served
    place.read_token = READ
    for _ in range(30):
        assert await status_of(client, "/api/look", bearer("no")) == 401
    assert await status_of(client, "/api/look", bearer(READ)) == 429


# --- names


@pytest.mark.parametrize("listens_at", ["127.0.0.1", "0.0.0.0", "::", "10.0.0.5"])
@pytest.mark.parametrize(
    ("host", "with_url", "without_beyond"),
    [
        ("icekeeper.example.com", 200, 200),
        ("icekeeper.example.com:8443", 200, 200),
        ("localhost:9420", 200, 200),
        ("127.0.0.1", 200, 200),
        ("evil.example.org", 421, 200),
        ("10.0.0.5:9420", 421, 200),
        ("icekeeper.example.com.evil.org", 421, 200),
    ],
)
async def test_with_a_url_only_its_name_is_answered_wherever_it_listens(
    served: Served, listens_at: str, host: str, with_url: int, without_beyond: int
) -> None:
    place, client = served
    place.listens_at, place.url = listens_at, "https://icekeeper.example.com"
    assert await status_of(client, "/look", {"Host": host}) == with_url
    assert await status_of(client, "/metrics", {"Host": host}) == 200
    place.url = None
    known = host.startswith(("localhost", "127.0.0.1"))
    assert await status_of(client, "/look", {"Host": host}) == (200 if known or listens_at != "127.0.0.1" else 421)


# --- whom a proxy names


@pytest.mark.parametrize(
    ("networks", "headers", "actor"),
    [
        (("127.0.0.1",), {"X-Forwarded-User": "ann@example.com"}, "ann@example.com"),
        (("10.0.0.0/8", "127.0.0.0/8"), {"X-Forwarded-User": "ann"}, "ann"),
        (("127.0.0.0/8",), {"x-forwarded-user": " ann "}, "ann"),
        (("10.0.0.0/8",), {"X-Forwarded-User": "ann"}, None),
        ((), {"X-Forwarded-User": "ann"}, None),
        (("127.0.0.0/8",), {}, None),
        (("127.0.0.0/8",), {"X-Forwarded-User": ""}, None),
        (("127.0.0.0/8",), {"X-Remote-User": "ann"}, None),
        (("127.0.0.0/8",), {"X-Forwarded-User": "a" * 300}, "a" * 200),
    ],
)
async def test_only_a_trusted_proxy_says_who_the_user_is(
    served: Served, networks: tuple[str, ...], headers: dict[str, str], actor: str | None
) -> None:
    place, client = served
    place.proxies = TrustedProxies(networks, "X-Forwarded-User")
    async with client.get("/look", headers=headers) as answer:
        assert (await answer.json())["actor"] == actor
    async with client.get("/look") as answer:
        assert (await answer.json())["actor"] is None


async def test_two_users_are_none(served: Served) -> None:
    place, client = served
    place.proxies = TrustedProxies(("127.0.0.0/8",), "X-Forwarded-User")
    two = [("X-Forwarded-User", "root"), ("X-Forwarded-User", "ann")]
    async with client.get("/look", headers=two) as answer:
        assert (await answer.json())["actor"] is None


async def test_guesses_behind_a_proxy_hold_up_nobody_else(served: Served) -> None:
    place, client = served
    place.proxies = TrustedProxies(("127.0.0.0/8",), "X-Forwarded-User")
    guesser, other = {"X-Forwarded-For": "10.9.9.9, 192.0.2.7"}, {"X-Forwarded-For": "192.0.2.7, 192.0.2.8"}
    for _ in range(30):
        assert await status_of(client, "/change", {**bearer("no"), **guesser}, method="POST") == 401
    assert await status_of(client, "/change", {**bearer(TOKEN), **guesser}, method="POST") == 429
    assert await status_of(client, "/change", {**bearer(TOKEN), **other}, method="POST") == 200


# --- below a path


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ("/keeper/look", "/look"),
        ("/look", "/look"),
        ("/keeper/names/a%2Fb%20c", "/names/a/b c"),
        ("/names/a%2Fb", "/names/a/b"),
        ("/keeperlook", None),
        ("/other/look", None),
        ("/keeper/keeper/look", None),
    ],
)
async def test_the_page_answers_below_the_path_of_its_url_and_without_it(
    served: Served, asked: str, seen: str | None
) -> None:
    place, client = served
    place.url = "https://example.com/keeper"
    async with aiohttp.ClientSession() as plain:
        url = URL(f"{place.base}{asked}?a=1", encoded=True)
        async with plain.get(url) as answer:
            assert answer.status == (404 if seen is None else 200)
            if seen is not None:
                assert (await answer.json())["path"] == seen
                assert answer.headers["X-Frame-Options"] == "DENY"
    place.url = None
    assert await status_of(client, "/keeper/look") == 404


async def test_what_leads_on_and_the_cookie_stay_below_the_path(served: Served) -> None:
    place, client = served
    place.url = "https://example.com/a/b"
    for asked in ("/a/b/away", "/away"):
        async with client.get(asked, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (303, "/a/b/look")
    async with client.post("/a/b/sign-in", data=TOKEN) as answer:
        assert answer.status == 200
        assert "Path=/a/b/;" in f"{answer.headers['Set-Cookie']};"
    assert await status_of(client, "/a/b/change", bearer(TOKEN), method="POST", data="12345") == 200
    assert await status_of(client, "/a/b/change", bearer("no"), method="POST") == 401
    assert await status_of(client, "/a/b/metrics") == 200
