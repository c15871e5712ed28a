"""Who sends a request: by a trusted proxy before the page, or by the control socket's other end. It allows nothing.

The name is bound to the context of the request: `actor` has it, and every log line of what is ordered.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from aiohttp import web
from structlog.contextvars import bound_contextvars, get_contextvars

from icekeeper.adapters.users import clean_name


@dataclass(frozen=True, slots=True)
class TrustedProxies:
    """The networks of proxies whose headers are believed, and the header in which they name the user."""

    networks: tuple[str, ...] = ()
    user_header: str = ""

    def user_of(self, request: web.Request) -> str | None:
        """The user that a trusted proxy names; None where there is none."""
        if not self._trusts(request.remote):
            return None
        # A second one would be the client's own.
        names = request.headers.getall(self.user_header, [])
        return clean_name(names[0]) if len(names) == 1 else None

    def address_of(self, request: web.Request) -> str:
        """The address that a request comes from: the last in X-Forwarded-For that is no trusted proxy's."""
        address = request.remote or ""
        for hop in reversed(_hops(request.headers.getall("X-Forwarded-For", []))):
            if not self._trusts(address):
                break
            address = hop
        return address

    def _trusts(self, address: str | None) -> bool:
        try:
            known = ipaddress.ip_address(address or "")
        except ValueError:
            return False
        mapped = known.ipv4_mapped if isinstance(known, ipaddress.IPv6Address) else None
        return any((mapped or known) in ipaddress.ip_network(network, strict=False) for network in self.networks)


def acting(user: str) -> AbstractContextManager[None]:
    """Names the user for the request under way."""
    return bound_contextvars(actor=user)


def actor() -> str | None:
    """The user that is named for the request under way; None where that is not known."""
    named = get_contextvars().get("actor")
    return named if isinstance(named, str) else None


def _hops(headers: Iterable[str]) -> list[str]:
    return [hop.strip() for header in headers for hop in header.split(",") if hop.strip()]
