"""What systemd is told of this service: readiness, a line of status, that it lives. Without systemd nobody is told.

The protocol is sd_notify(3): datagrams of NAME=VALUE lines to the socket in $NOTIFY_SOCKET. Its package on PyPI,
sdnotify, had its last release in 2017 and can't say how often the watchdog wants to hear something; this is all of it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping

# The queue of systemd's socket may be full for a moment; a systemd that hangs must not hang our loop as well.
_PATIENCE_S = 0.5


class Systemd:
    """The service manager that started us, or nobody. No method ever raises, and none waits for longer than a moment.

    `watchdog_s`: systemd kills this process where `alive` is not called for so many seconds; None where it doesn't
    look. Calling it every half of that is what sd_watchdog_enabled(3) recommends.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Systemd:
        """The manager that $NOTIFY_SOCKET, $WATCHDOG_USEC and $WATCHDOG_PID name; nobody where they are not set."""
        return cls(_address(environ.get("NOTIFY_SOCKET", "")), _watchdog_s(environ))

    def ready(self, status: str | None = None) -> None:
        """The service is up; or a reload has ended, whether it changed anything or not."""
        self._tell("READY=1", *_status(status))

    def reloading(self) -> None:
        """A reload begins; `ready` has to follow. The instant tells systemd which reload that answers."""
        self._tell("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self, status: str | None = None) -> None:
        """The service ends of its own accord or because it was asked to."""
        self._tell("STOPPING=1", *_status(status))

    def status(self, text: str) -> None:
        """The line that `systemctl status` shows."""
        self._tell(*_status(text))

    def alive(self) -> None:
        """Feeds the watchdog."""
        self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        if self._address is None:
            return
        # A socket for each datagram: there are few, and none is held that a child could inherit.
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_PATIENCE_S)
                sender.sendto("\n".join(lines).encode(errors="replace"), self._address)
        except OSError:  # a service goes on though its manager does not listen; to whom would we complain
            return


def _address(name: str) -> str | None:
    """As the socket module writes it; None for addresses of other kinds, which only virtual machines are given."""
    if "\0" in name or len(name) < 2:
        return None
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else None


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """None where the watchdog is off, or another process's: a parent's variables are inherited."""
    interval, owner = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", str(os.getpid()))
    if not (interval.isascii() and interval.isdigit()) or owner != str(os.getpid()):
        return None
    return int(interval) / 1_000_000 or None


def _status(text: str | None) -> tuple[str, ...]:
    """Of several lines of text the second would be a message of its own."""
    return () if text is None else (f"STATUS={' '.join(text.split())}",)
