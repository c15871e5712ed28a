"""The targets of notifications, by the settings: their names, and a test message to each. What is sent: notifier.py."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from icekeeper.core.errors import IcekeeperError
from icekeeper.core.notifications import Occasion
from icekeeper.settings import Settings

# How long a service may take to accept a message.
SEND_S = 30.0
# A URL may hold a password that can be guessed: its digest, which the log shows, must cost something to compute.
_DIGEST_ROUNDS = 100_000


class Target(Protocol):
    """Sends messages to one URL: adapters.apprise.AppriseTarget."""

    async def send(self, title: str, body: str, kind: str, timeout_s: float) -> None:
        """Returns once the service has accepted it. IcekeeperError says why not, without the URL."""


@dataclass(frozen=True, slots=True)
class TargetConfig:
    """A target of the settings. `name` may be shown: the file that holds the URL, or the URL's scheme and digest."""

    name: str
    url: str
    on: frozenset[Occasion]


def configured_targets(settings: Settings) -> dict[str, TargetConfig]:
    """The targets of the settings by name; one that is listed twice gets each message once."""
    found: dict[str, TargetConfig] = {}
    for block in settings.notify:
        if block.url is None:  # refused when the file was read
            continue
        url = block.url.get_secret_value()
        name = str(block.url_file) if block.url_file is not None else _inline_name(url)
        on = frozenset(map(Occasion, block.on)) | (found[name].on if name in found else frozenset())
        found[name] = TargetConfig(name, url, on)
    return found


@cache
def _inline_name(url: str) -> str:
    """Identifies an inline URL without showing it, e.g. `slack-1f0c9a7d`."""
    from icekeeper.settings.values.apprise_urls import scheme_of

    digest = hashlib.pbkdf2_hmac("sha256", url.encode(), b"icekeeper notify", _DIGEST_ROUNDS, 4)
    return f"{scheme_of(url)}-{digest.hex()}"


def renamed_targets(settings: Settings) -> dict[str, str]:
    """The present name of each inline target by the one that 0.1 queued messages under: its place in the list."""
    return {
        f"notify[{index}]": _inline_name(block.url.get_secret_value())
        for index, block in enumerate(settings.notify)
        if block.url is not None and block.url_file is None
    }


def open_target(url: str) -> Target:
    """An Apprise target. Imported when the first message goes out: it takes a while, and most daemons never need it."""
    from icekeeper.adapters.apprise import AppriseTarget

    return AppriseTarget(url)


@dataclass(frozen=True, slots=True)
class SendResult:
    """The result of a test message; `error` None: it was accepted."""

    target: str
    service: str
    error: str | None


async def send_test(settings: Settings) -> tuple[SendResult, ...]:
    """Sends a test message to every target, whatever its `on` says."""
    from icekeeper.settings.values.apprise_urls import scheme_of

    title, page = "icekeeper: a test", settings.http.base_url
    body = f"This is a test. Links will begin with {page} (http.url)."

    async def one(target: TargetConfig) -> SendResult:
        error = None
        try:
            await open_target(target.url).send(title, body, "test", SEND_S)
        except IcekeeperError as exc:
            error = str(exc)
        return SendResult(target.name, scheme_of(target.url), error)

    return tuple(await asyncio.gather(*map(one, configured_targets(settings).values())))
