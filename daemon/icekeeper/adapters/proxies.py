"""Proxies that the environment names: which hosts NO_PROXY excepts. Nothing of what goes through them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import MutableMapping

_ENTRY = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<name>[^\[\]:]+))(?::(?P<port>\d+))?")


def except_by_name(host: str, port: int, environment: MutableMapping[str, str]) -> None:
    """Adds a host that NO_PROXY excepts by a network or a pattern to it by its name, the only form that
    clickhouse-connect understands."""
    # The lower-case one comes first everywhere.
    variable = "no_proxy" if environment.get("no_proxy") else "NO_PROXY"
    given = environment.get(variable, "")
    if excepted(host, port, given) and host not in given.split(","):
        environment[variable] = f"{given},{host}" if given != "*" else given


def excepted(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY excepts a host: by name, domain, address, network (10.0.0.0/8) or `*`, also with a port."""
    return any(
        _matches(entry.lower(), host.lower().strip("[]"), port) for entry in re.split(r"[,\s]+", no_proxy) if entry
    )


def _matches(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:  # one of them is no address
        pass
    found = _ENTRY.fullmatch(entry)
    if found is None or (found["port"] is not None and int(found["port"]) != port):
        return False
    name = (found["v6"] or found["name"]).removeprefix("*").removeprefix(".")
    return host == name or host.endswith(f".{name}")
