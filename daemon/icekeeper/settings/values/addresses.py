"""The syntax of addresses: of PostgreSQL, ClickHouse, Spark's master, the page, and the one to listen on."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated
from urllib.parse import SplitResult, parse_qsl, urlsplit

from icekeeper.settings.values.units import matching, pattern, text_by

_HIGHEST_PORT = 65535
_MASTER = r"(auto|local(\[([1-9]\d*|\*)(,\d+)?\])?|spark://[^\s/]+|k8s://\S+|yarn)"
_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/@]+):(\d{1,5})")


def _dsn(value: str) -> str:
    parts = _split(value)
    if parts is None or parts.scheme not in ("postgresql", "postgres") or not parts.path.strip("/"):
        raise ValueError("a DSN is written like postgresql://user@host:5432/database")
    # One that is empty is none.
    if parts.password or any(name.endswith("password") and given for name, given in parse_qsl(parts.query)):
        raise ValueError("no password in it: that is password_file's business, or the environment's")
    # PostgreSQL's clients take several hosts, each with its port.
    for host in parts.netloc.rpartition("@")[2].split(","):
        _check_port(_split(f"//{host}"))
    return value


def _http(value: str, sentence: str) -> SplitResult:
    parts = _split(value)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"\s", value):
        raise ValueError(sentence)
    return parts


def _http_url(value: str) -> str:
    parts = _http(value, "an address is written like http://clickhouse:8123")
    if parts.username is not None:
        raise ValueError("no user or password in it: they have keys of their own")
    _check_port(parts)
    if parts.query or parts.fragment:
        raise ValueError("no ? or # in it: the database and settings have keys of their own")
    return value


def _page_url(value: str) -> str:
    parts = _http(value, "an address of the page is written like https://icekeeper.example.com")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("no user, ? or # in it: what a link leads to is put behind it")
    _check_port(parts)
    return value.rstrip("/")


def _listen(value: str) -> str:
    match = _HOST_AND_PORT.fullmatch(value)
    if match is None or int(match.group(2)) > _HIGHEST_PORT:
        raise ValueError("an address to listen on is written like 127.0.0.1:9420 or [::1]:9420")
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("a proxy is written as an address or a network, like 10.0.0.5 or 10.0.0.0/8") from None
    return value


def _split(value: str) -> SplitResult | None:
    try:
        return urlsplit(value)
    except ValueError:  # an unfinished IPv6 address
        return None


def _check_port(parts: SplitResult | None) -> None:
    try:
        good = parts is not None and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ValueError(f"its port has to be a number from 1 to {_HIGHEST_PORT}")


Dsn = Annotated[
    str,
    text_by(_dsn),
    # Nothing but the @ after a colon: a password is not allowed.
    pattern(r"postgres(ql)?://([^:@/\s]*:?@)?[^@/\s]*/[^/\s]\S*", "postgresql://icekeeper@postgres:5432/icekeeper"),
]
HttpUrl = Annotated[
    str,
    text_by(_http_url),
    pattern(
        r"https?://(\[[0-9A-Fa-f:.]+\]|[^\[\]@:/?#\s]+)(:\d{1,5})?(/[^?#\s]*)?",
        "http://clickhouse:8123",
        "https://proxy.example.com/clickhouse/",
    ),
]
PageUrl = Annotated[
    str,
    text_by(_page_url),
    pattern(r"https?://(\[[0-9A-Fa-f:.]+\]|[^\[\]@:/?#\s]+)(:\d{1,5})?(/[^?#\s]*)?", "https://icekeeper.example.com"),
]
ListenAddress = Annotated[
    str, text_by(_listen), pattern(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:/@]+):\d{1,5}", "127.0.0.1:9420")
]
Network = Annotated[str, text_by(_network), pattern(r"[0-9A-Fa-f.:]+(/(\d{1,2}|1[01]\d|12[0-8]))?", "10.0.0.0/8")]
_HEADER = r"[A-Za-z0-9-]+"
_header = matching(_HEADER, "a header's name is made of letters, digits and hyphens, like X-Forwarded-User")
HeaderName = Annotated[str, text_by(_header), pattern(_HEADER, "X-Forwarded-User")]
_master = matching(
    _MASTER, "a master is written like auto, local[2], spark://host:7077, k8s://https://host:6443 or yarn"
)
Master = Annotated[str, text_by(_master), pattern(_MASTER, "auto", "local[2]", "spark://spark:7077", "yarn")]
