"""Starts and stops server processes: free ports, log files, readiness, and the janitor of this process."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icekeeper.sandbox.errors import SandboxError

LOOPBACK = "127.0.0.1"
# Below the kernel's ephemeral range (from 32768), so that no outgoing connection takes the port of a server that is
# stopped for a while and comes back on the same one.
_PORTS = range(15_000, 32_000)
_LOG_TAIL_LINES = 25
_issued: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Free TCP ports on the loopback, never the same twice in this process. Another process may take one: retry."""
    found: list[int] = []
    while len(found) < count:
        port = random.choice(_PORTS)
        if port in _issued:
            continue
        with socket.socket() as probe:
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        _issued.add(port)
        found.append(port)
    return found


def port_answers(port: int) -> bool:
    """True if something accepts connections on that port of the loopback."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=1).close()
    except OSError:
        return False
    return True


class Janitor:
    """The process that ends the servers and removes their files if this process is killed (see janitor.py)."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(__file__).with_name("janitor.py")), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _send(self, line: str) -> None:
        if self._process.stdin is None:
            raise SandboxError("the sandbox is stopped already")
        self._process.stdin.write(f"{line}\n".encode())
        self._process.stdin.flush()

    def watch(self, pid: int, stop_signal: signal.Signals) -> None:
        """Ends that child, by that signal, if this process dies."""
        self._send(f"pid {pid} {int(stop_signal)}")

    def forget(self, pid: int) -> None:
        """The child has ended."""
        self._send(f"gone {pid}")

    def remove(self, path: Path) -> None:
        """Removes that file or directory if this process dies."""
        self._send(f"path {path}")

    def dismiss(self) -> None:
        """Ends the janitor: everything is stopped and removed."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._send("bye")
            self._process.stdin.close()
        self._process.wait()


@dataclass(frozen=True)
class Command:
    """How to run one server.

    `stop_signal` is what it takes as a polite request. `user` is the uid (and gid) to run as; None: ours.
    """

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path
    stop_signal: signal.Signals = signal.SIGTERM
    user: int | None = None


class ServerProcess:
    """One child with a log file."""

    def __init__(self, name: str, log: Path, janitor: Janitor) -> None:
        self.name = name
        self.log = log
        self._janitor = janitor
        self._process: subprocess.Popen[bytes] | None = None
        self._stop_signal = signal.SIGTERM

    @property
    def pid(self) -> int | None:
        """The process id, or None while stopped."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self, command: Command, ready: Callable[[], bool], *, timeout_s: float = 30) -> None:
        """Starts the server, returns when `ready()`; raises SandboxError with the log's tail if that never happens."""
        self._stop_signal = command.stop_signal
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                command.argv,
                env=dict(command.env),
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C on the terminal is for us; we stop the children in order.
                start_new_session=True,
                user=command.user,
                group=command.user,
                extra_groups=[] if command.user is not None else None,
            )
        self._janitor.watch(self._process.pid, command.stop_signal)
        deadline = time.monotonic() + timeout_s
        while not ready():
            code = self._process.poll()
            if code is not None:
                self._janitor.forget(self._process.pid)
                raise SandboxError(f"{self.name} ended with code {code} while starting.\n{self.log_tail()}")
            if time.monotonic() > deadline:
                self.stop()
                raise SandboxError(f"{self.name} was not ready after {timeout_s:g} s.\n{self.log_tail()}")
            time.sleep(0.02)

    def stop(self, *, timeout_s: float = 10) -> None:
        """Asks the server to stop, kills it after `timeout_s`. Stopping what is stopped is fine."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self._stop_signal)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._janitor.forget(process.pid)

    def log_tail(self) -> str:
        """The log's last lines, with a heading."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return f"--- the end of {self.log}:\n" + "\n".join(lines[-_LOG_TAIL_LINES:])


def start_with_free_ports(start: Callable[[], None], *, attempts: int = 3) -> None:
    """Calls `start`, which picks its ports itself, again if it fails: another process may have taken a port."""
    for attempt in range(1, attempts + 1):
        try:
            start()
            return
        except SandboxError:
            if attempt == attempts:
                raise
