"""Sending a message by Apprise, to whatever its URL names. When and what is sent: scheduling/notifier.py.

A URL is a credential: it stands in no error, and Apprise's own messages don't reach the log.
"""

from __future__ import annotations

import asyncio
import re
import threading
from contextlib import suppress
from urllib.parse import unquote

import apprise
from apprise.common import NotifyFormat

from icekeeper.core.errors import TransientError
from icekeeper.core.secrets import HIDDEN, hide_in_text
from icekeeper.settings.values.apprise_urls import ASSET, service_of

_KINDS = {
    "failed": apprise.NotifyType.FAILURE,
    "partial": apprise.NotifyType.WARNING,
    "held": apprise.NotifyType.WARNING,
    "source_empty": apprise.NotifyType.WARNING,
    "recovered": apprise.NotifyType.SUCCESS,
}
_LEAST_SECRET = 4
_LONGEST_WHY = 300


class AppriseTarget:
    """One URL to send to."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._thread: threading.Thread | None = None

    async def send(self, title: str, body: str, kind: str, timeout_s: float) -> None:
        """Returns when the service has taken the message; TransientError where it did not, or not in time."""
        if self._thread is not None and self._thread.is_alive():
            raise TransientError("the attempt before this one still waits for an answer")
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[str | None] = loop.create_future()

        def answer(why: str | None) -> None:
            if not answered.done():
                answered.set_result(why)

        def work() -> None:
            why = self._sent(title, body, kind)
            with suppress(RuntimeError):  # the loop is closed: the caller is gone
                loop.call_soon_threadsafe(answer, why)

        # Not a pool's: Python waits for those at its exit, and a service that answers byte by byte would delay that.
        self._thread = threading.Thread(target=work, name="notify", daemon=True)
        self._thread.start()
        try:
            async with asyncio.timeout(timeout_s):
                why = await answered
        except TimeoutError as exc:
            raise TransientError(f"no answer within {timeout_s:.0f} s") from exc
        if why is not None:
            raise TransientError(why)

    def _sent(self, title: str, body: str, kind: str) -> str | None:
        """Sends it, for as long as that takes; why it was not taken, None where it was."""
        try:
            service = service_of(self._url)
            if service is None:
                return "Apprise does not understand its URL"
            sender = apprise.Apprise(asset=ASSET)
            sender.add(service)
            type_ = _KINDS.get(kind, apprise.NotifyType.INFO)
            with sender.notify(body, title=title, notify_type=type_, body_format=NotifyFormat.TEXT) as result:
                messages = [entry.message for entry in result.logs()]
                return None if result else _without(self._url, "; ".join(messages) or "it was not taken")
        except Exception as exc:  # a plugin's own mistake is one more way of not taking it
            return _without(self._url, f"{type(exc).__name__}: {exc}")


def _without(url: str, message: str) -> str:
    """A service's message without any part of the service's URL."""
    text = " ".join(message.split())
    rest = url.partition("://")[2]
    pieces = {piece for part in (rest, unquote(rest)) for piece in re.split(r"[/:@?&=#,;]+", part)}
    for piece in sorted(pieces, key=len, reverse=True):
        if len(piece) >= _LEAST_SECRET:
            text = text.replace(piece, HIDDEN)
    return hide_in_text(text)[:_LONGEST_WHY]
