"""Whether the addresses in the settings accept a connection: tried before a JVM retries for a minute."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from icekeeper.doctor.check import Check, Subject
from icekeeper.settings import Settings

_CONNECT_S = 5.0
_PORTS = {"http": 80, "https": 443, "thrift": 9083, "spark": 7077, "postgresql": 5432, "mysql": 3306}
_JDBC = re.compile(r"jdbc:(\w+)://([^/?;]+)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where something must listen; `key` is the setting that names it."""

    subject: Subject
    key: str
    host: str
    port: int


def addresses(settings: Settings) -> tuple[Address, ...]:
    """The addresses that the JVM will connect to, as far as the settings name them one by one."""
    catalog, found = settings.catalog, []
    urls = [
        (Subject.ENGINE, "spark.master", settings.spark.master),
        (Subject.CATALOG, "catalog.uri", catalog.uri or ""),
    ]
    endpoint = catalog.properties.get("s3.endpoint", "")
    # Behind a proxy only the proxy needs to be reached.
    if not any("proxy" in key for key in catalog.properties):
        urls.append((Subject.STORAGE, "catalog.properties.s3.endpoint", endpoint))
    for subject, key, url in urls:
        if (place := _host_and_port(url)) is not None:
            found.append(Address(subject, key, *place))
    return tuple(found)


def _host_and_port(text: str) -> tuple[str, int] | None:
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
    """An error for each address that does not accept a connection; all are tried at once."""
    results = await asyncio.gather(*map(_connect, addresses(settings)))
    return [check for check in results if check is not None]


async def _connect(address: Address) -> Check | None:
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
    return address.subject.failure(f"nothing answers at {where} ({address.key}): {why}", advice)
