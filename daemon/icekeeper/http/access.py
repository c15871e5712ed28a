"""Access over HTTP: the bearer token, the page's sign-in, and protection of both against other sites."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

import structlog
from aiohttp import web

from icekeeper.http.problems import Handler, problem

log = structlog.get_logger(__name__)

COOKIE = "icekeeper_session"
# How long a sign-in on the page lasts, and how many there may be at once.
SESSION_S = 12 * 3600.0
_MOST_SESSIONS = 100
# How many wrong tokens an address may send, and how many addresses are counted.
_MOST_WRONG_PER_MINUTE = 30
_MOST_ADDRESSES = 1000
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
# Fetched by machines, under whatever name they know this host; they show nothing that is worth protecting.
_FOR_MACHINES = frozenset({"/metrics", "/livez", "/readyz"})


@dataclass(frozen=True, slots=True)
class _Session:
    until: float
    token: bytes


class Access:
    """Decides which requests are allowed. `seconds` is a monotonic clock."""

    def __init__(
        self,
        token: Callable[[], str | None],
        listens_at: Callable[[], str],
        url: Callable[[], str | None],
        seconds: Callable[[], float],
    ) -> None:
        """`token` None: nothing can be changed. `listens_at` is the host, `url` the page's own if it is set."""
        self._token = token
        self._listens_at = listens_at
        self._url = url
        self._seconds = seconds
        self._sessions: dict[bytes, _Session] = {}
        # When wrong tokens came, by address.
        self._wrong: dict[str, list[float]] = {}

    @property
    def changes_allowed(self) -> bool:
        """Whether a token is configured: without one nothing can be changed."""
        return self._token() is not None

    def refusal(self, request: web.Request) -> web.Response | None:
        """The answer to an API request without the right bearer token; None where it has it."""
        if self._token() is None:
            return problem(HTTPStatus.FORBIDDEN, "Nothing can be changed over HTTP: http.token is not set.")
        if self._guesses_too_often(request):
            return _too_many()
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given):
            return None
        if given:
            self._note_wrong(request)
        answer = problem(HTTPStatus.UNAUTHORIZED, "This needs the header `Authorization: Bearer` with http.token.")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def sign_in(self, request: web.Request, given: str, answer: web.Response) -> bool:
        """Signs in the browser that gets this answer, if `given` is the token; whether it is."""
        if self._token() is None or self._guesses_too_often(request):
            return False
        if not self._is_token(given):
            self._note_wrong(request)
            return False
        now = self._seconds()
        self._sessions = {name: one for name, one in self._sessions.items() if one.until > now}
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        name = secrets.token_urlsafe(32)
        self._sessions[_digest(name)] = _Session(now + SESSION_S, self._token_digest())
        secure = (self._url() or "").startswith("https:")
        answer.set_cookie(
            COOKIE, name, max_age=int(SESSION_S), httponly=True, samesite="Strict", secure=secure, path="/"
        )
        return True

    def signed_in(self, request: web.Request) -> bool:
        """Whether the browser has signed in with the present token."""
        session = self._sessions.get(_digest(request.cookies.get(COOKIE, "")))
        if session is None or session.until <= self._seconds():
            return False
        return self._token() is not None and hmac.compare_digest(session.token, self._token_digest())

    def sign_out(self, request: web.Request, answer: web.Response) -> None:
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)
        answer.del_cookie(COOKIE, path="/")

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuses requests that a browser makes for another site."""
        # Not request.host: without the header, that has the resolver look up this host's name, and blocks the loop.
        host = request.headers.get("Host", "")
        if request.path not in _FOR_MACHINES and not self._is_known_host(host):
            # DNS rebinding: with a name that resolves to this host, an attacker's page could read this one.
            return problem(
                HTTPStatus.MISDIRECTED_REQUEST, f"{host!r} is not this daemon's address: http.url names another."
            )
        if request.method not in _SAFE and self._is_cross_site(request, host):
            return problem(HTTPStatus.FORBIDDEN, "Another site asked for this.")
        return await handler(request)

    def _is_cross_site(self, request: web.Request, host: str) -> bool:
        site = request.headers.get("Sec-Fetch-Site")
        if site is not None and site not in ("same-origin", "none"):
            return True
        origin = request.headers.get("Origin")
        if origin is None:
            return False
        # Behind a proxy the browser uses http.url, and Host may be a name that the proxy chose. `null` (a sandboxed
        # frame's) is no site.
        site_of_page = _split(origin).netloc
        return not site_of_page or site_of_page not in (host, _split(self._url() or "").netloc)

    def _is_known_host(self, host: str) -> bool:
        """Any name where other hosts can connect; else those of the loopback, and that of http.url."""
        name = _split(f"//{host}").hostname
        if not _is_loopback(self._listens_at()) or _is_loopback(name):
            return True
        url = self._url()
        return url is not None and name is not None and name == urlsplit(url).hostname

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(_digest(given), self._token_digest())

    def _token_digest(self) -> bytes:
        return _digest(self._token() or "")

    def _guesses_too_often(self, request: web.Request) -> bool:
        """Whether too many wrong tokens came from that address in the last minute."""
        since = self._seconds() - 60.0
        recent = {address: [at for at in times if at > since] for address, times in self._wrong.items()}
        self._wrong = {address: times for address, times in recent.items() if times}
        return len(self._wrong.get(request.remote or "", ())) >= _MOST_WRONG_PER_MINUTE

    def _note_wrong(self, request: web.Request) -> None:
        address = request.remote or ""
        if len(self._wrong) >= _MOST_ADDRESSES and address not in self._wrong:
            del self._wrong[next(iter(self._wrong))]
        times = self._wrong.setdefault(address, [])
        if not times:  # at most one line a minute for each address
            log.warning("token_refused", address=address, path=request.path)
        times.append(self._seconds())


def _too_many() -> web.Response:
    answer = problem(HTTPStatus.TOO_MANY_REQUESTS, "Too many wrong tokens: wait a minute.")
    answer.headers["Retry-After"] = "60"
    return answer


def _digest(text: str) -> bytes:
    # Of equal length, so that the time of a comparison reveals nothing of the token's.
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _split(url: str) -> SplitResult:
    """The URL's pieces, all empty where it is malformed."""
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


def _is_loopback(host: str | None) -> bool:
    if host is None:
        return False
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
