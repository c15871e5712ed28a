"""Access over HTTP: the bearer tokens, the page's sign-in, and protection of both against other sites."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import SplitResult, quote, urlsplit

import structlog
from aiohttp import web

from icekeeper.http.identity import TrustedProxies, acting
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
# What a browser needs to sign in.
_FOR_SIGNING_IN = ("/sign-in", "/static/")
_API = ("/api/", "/-/")


@dataclass(frozen=True, slots=True)
class Rules:
    """By the settings in force. `token` None: nothing can be changed; `read_token` None: reading needs none.

    `listens_at` is the host, `url` the page's own if it is set.
    """

    token: str | None = None
    read_token: str | None = None
    listens_at: str = "127.0.0.1"
    url: str | None = None
    proxies: TrustedProxies = field(default_factory=TrustedProxies)


@dataclass(frozen=True, slots=True)
class _Session:
    """`token`: the digest of the one that was given, which it lasts no longer than."""

    until: float
    token: bytes


class Access:
    """Decides which requests are allowed. `seconds` is a monotonic clock."""

    def __init__(self, rules: Callable[[], Rules], seconds: Callable[[], float]) -> None:
        self._rules = rules
        self._seconds = seconds
        self._sessions: dict[bytes, _Session] = {}
        # When wrong tokens came, by address.
        self._wrong: dict[str, list[float]] = {}

    @property
    def changes_allowed(self) -> bool:
        """Whether a token is configured: without one nothing can be changed."""
        return self._rules().token is not None

    @property
    def sign_in_possible(self) -> bool:
        """Whether there is a token to sign in with."""
        return self.changes_allowed or self._rules().read_token is not None

    @property
    def root(self) -> str:
        """The path below which a proxy has the page, without a slash at its end; empty where there is none."""
        return _split(self._rules().url or "").path.rstrip("/")

    def refusal(self, request: web.Request) -> web.Response | None:
        """The answer to an API request without the right bearer token; None where it has it."""
        if (token := self._rules().token) is None:
            return problem(HTTPStatus.FORBIDDEN, "Nothing can be changed over HTTP: http.token is not set.")
        return self._without_bearer(request, "http.token", token)

    def _without_bearer(self, request: web.Request, names: str, *tokens: str) -> web.Response | None:
        """The answer to a request without one of these as its bearer token; None where it has one."""
        if self._guesses_too_often(request):
            return _too_many()
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and any(_same(given, token) for token in tokens):
            return None
        if given:
            self._note_wrong(request)
        answer = problem(HTTPStatus.UNAUTHORIZED, f"This needs the header `Authorization: Bearer` with {names}.")
        answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    def _reading_refused(self, request: web.Request) -> web.StreamResponse | None:
        """The answer to a request that may not read; None where it may."""
        rules, path = self._rules(), request.path
        if rules.read_token is None or path in _FOR_MACHINES or path.startswith(_FOR_SIGNING_IN):
            return None
        if self._session_token(request) is not None:
            return None
        tokens = [token for token in (rules.token, rules.read_token) if token is not None]
        given = request.headers.get("Authorization", "").lower()
        if path.startswith(_API) or given.startswith("bearer"):
            return self._without_bearer(request, "http.read_token or http.token", *tokens)
        return web.Response(status=HTTPStatus.SEE_OTHER, headers={"Location": f"/sign-in?back={quote(path)}"})

    def sign_in(self, request: web.Request, given: str, answer: web.Response) -> bool:
        """Signs in the browser that gets this answer, if `given` is a token; whether it is. One of http.read_token's
        may only read."""
        rules = self._rules()
        if not self.sign_in_possible or self._guesses_too_often(request):
            return False
        token = next(
            (each for each in (rules.token, rules.read_token) if each is not None and _same(given, each)), None
        )
        if token is None:
            self._note_wrong(request)
            return False
        now = self._seconds()
        self._sessions = {name: one for name, one in self._sessions.items() if one.until > now}
        while len(self._sessions) >= _MOST_SESSIONS:
            del self._sessions[next(iter(self._sessions))]
        name = secrets.token_urlsafe(32)
        self._sessions[_digest(name)] = _Session(now + SESSION_S, _digest(token))
        secure = (rules.url or "").startswith("https:")
        answer.set_cookie(
            COOKIE, name, max_age=int(SESSION_S), httponly=True, samesite="Strict", secure=secure, path=f"{self.root}/"
        )
        return True

    def signed_in(self, request: web.Request) -> bool:
        """Whether the browser has signed in with the present http.token, and may change something."""
        token = self._rules().token
        return token is not None and self._session_token(request) == token

    def _session_token(self, request: web.Request) -> str | None:
        """The token that the browser has signed in with; None where it is none of the present ones."""
        session, rules = self._sessions.get(_digest(request.cookies.get(COOKIE, ""))), self._rules()
        if session is None or session.until <= self._seconds():
            return None
        present = (each for each in (rules.token, rules.read_token) if each is not None)
        return next((each for each in present if hmac.compare_digest(session.token, _digest(each))), None)

    def sign_out(self, request: web.Request, answer: web.Response) -> None:
        self._sessions.pop(_digest(request.cookies.get(COOKIE, "")), None)
        answer.del_cookie(COOKIE, path=f"{self.root}/")

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
        if (refused := self._reading_refused(request)) is not None:
            return refused
        user = self._rules().proxies.user_of(request)
        if user is None:
            return await handler(request)
        with acting(user):
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
        return not site_of_page or site_of_page not in (host, _split(self._rules().url or "").netloc)

    def _is_known_host(self, host: str) -> bool:
        """Those of the loopback, and that of http.url; where other hosts can connect and that is not set, any."""
        name, rules = _split(f"//{host}").hostname, self._rules()
        if _is_loopback(name) or (rules.url is None and not _is_loopback(rules.listens_at)):
            return True
        return rules.url is not None and name is not None and name == urlsplit(rules.url).hostname

    def _guesses_too_often(self, request: web.Request) -> bool:
        """Whether too many wrong tokens came from that address in the last minute."""
        since = self._seconds() - 60.0
        recent = {address: [at for at in times if at > since] for address, times in self._wrong.items()}
        self._wrong = {address: times for address, times in recent.items() if times}
        return len(self._wrong.get(self._rules().proxies.address_of(request), ())) >= _MOST_WRONG_PER_MINUTE

    def _note_wrong(self, request: web.Request) -> None:
        address = self._rules().proxies.address_of(request)
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


def _same(given: str, token: str) -> bool:
    return hmac.compare_digest(_digest(given), _digest(token))


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
