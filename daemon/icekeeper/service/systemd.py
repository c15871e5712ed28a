"""Notifies systemd of readiness, reloads, status and life. Does nothing where systemd did not start us.

The protocol is sd_notify(3): datagrams of NAME=VALUE lines to the socket in $NOTIFY_SOCKET. The package sdnotify had
its last release in 2017 and knows nothing of the watchdog's interval; this is the whole protocol.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

# The socket's queue may be full for a moment; a systemd that hangs must not block our event loop for longer.
_SEND_S = 0.5


class Systemd:
    """The service manager, if one started us. No method raises or blocks for longer than half a second."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Systemd:
        """By $NOTIFY_SOCKET."""
        return cls(_address(environ.get("NOTIFY_SOCKET", "")))

    def ready(self, status: str | None = None) -> None:
        """The startup or a reload is over, whether that changed anything or not."""
        self._send("READY=1", *_status(status))

    def reloading(self) -> None:
        """A reload begins; `ready` has to follow. systemd matches it by its time with the reload that it requested."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str | None = None) -> None:
        """The shutdown begins."""
        self._send("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self._send(*_status(text))

    def alive(self) -> None:
        """Feeds the watchdog, if the unit has one: sd_watchdog_enabled(3) wants that twice in each of its intervals."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        # A socket per datagram: there are few, and none stays open that a child process could inherit.
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_SEND_S)
                sender.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError:  # the service goes on although its manager does not listen
            return


def _address(name: str) -> str | None:
    """As the socket module wants it; None for vsock addresses, which only virtual machines get."""
    if "\0" in name or len(name) < 2:
        return None
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def _status(text: str | None) -> tuple[str, ...]:
    """In one line: systemd would take a second one as a message of its own."""
    return () if text is None else (f"STATUS={' '.join(text.split())}",)
