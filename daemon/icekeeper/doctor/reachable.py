"""Whether anybody listens where the settings say: a plain connection, before a JVM retries for a minute."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from icekeeper.doctor.check import Check, Part, wrong
from icekeeper.settings import Settings

_CONNECT_S = 5.0
_PORTS = {"http": 80, "https": 443, "thrift": 9083, "spark": 7077, "postgresql": 5432, "mysql": 3306}
_JDBC = re.compile(r"jdbc:(\w+)://([^/?;]+)")


@dataclass(frozen=True, slots=True)
class Address:
    """Somebody who must be reached; `key` is the setting that says where."""

    part: Part
    key: str
    host: str
    port: int


def addresses(settings: Settings) -> tuple[Address, ...]:
    """The addresses that the JVM will connect to, as far as the settings tell them one by one."""
    catalog, found = settings.catalog, []
    told = [(Part.ENGINE, "spark.master", settings.spark.master), (Part.CATALOG, "catalog.uri", catalog.uri or "")]
    endpoint = catalog.properties.get("s3.endpoint", "")
    # Behind a proxy nobody needs to be reached but the proxy.
    if not any("proxy" in key for key in catalog.properties):
        told.append((Part.STORAGE, "catalog.properties.s3.endpoint", endpoint))
    for part, key, text in told:
        if (place := _place(text)) is not None:
            found.append(Address(part, key, *place))
    return tuple(found)


def _place(text: str) -> tuple[str, int] | None:
    """Host and port of a URL with a single host; None where it names none, or several."""
    if match := _JDBC.match(text):
        text = f"{match[1]}://{match[2]}"
    try:
        url = urlsplit(text)
        port = url.port or _PORTS.get(url.scheme)
    except ValueError:  # several hosts, or no port
        return None
    if not url.hostname or port is None or "," in url.netloc or url.scheme not in _PORTS:
        return None
    return url.hostname, port


async def unreachable(settings: Settings) -> list[Check]:
    """An error for each address where nobody answers; all are asked at once."""
    told = await asyncio.gather(*map(_silent, addresses(settings)))
    return [check for check in told if check is not None]


async def _silent(address: Address) -> Check | None:
    where = f"{address.host}:{address.port}"
    try:
        async with asyncio.timeout(_CONNECT_S):
            _, writer = await asyncio.open_connection(address.host, address.port)
    except TimeoutError:
        why = f"no answer within {_CONNECT_S:g} s"
    except OSError as exc:
        why = exc.strerror or str(exc)
    else:
        writer.close()
        return None
    advice = f"Start what should listen there, let the network through, or correct {address.key}."
    return wrong(address.part, f"nobody can be reached at {where} ({address.key}): {why}", advice)
