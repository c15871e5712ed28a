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
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icekeeper.sandbox.errors import SandboxError

LOOPBACK = "127.0.0.1"
# Below the kernel's ephemeral range (from 32768), so that no outgoing connection takes the port of a server that is
# stopped for a while and comes back on the same one.
_PORTS = range(15_000, 32_000)
_LOG_TAIL_LINES = 25
_ATTEMPTS = 3
_START_S = 30.0
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


class Server(ABC):
    """One server program with a log file. It keeps its ports: stopped and started again, it is found where it was."""

    stop_timeout_s = 10.0

    def __init__(self, name: str, log: Path, janitor: Janitor, port_names: Sequence[str] = ("server",)) -> None:
        self._name = name
        self._log = log
        self._janitor = janitor
        self._port_names = port_names
        self._ports: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._stop_signal = signal.SIGTERM

    @property
    def pid(self) -> int | None:
        """The process id, or None while stopped."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def port(self) -> int:
        """The port of a server that has only one."""
        return self._ports["server"]

    def start(self) -> None:
        """Starts the server and returns when it answers: on free ports the first time, later on the same with the same
        data. Raises SandboxError with the log's tail where it does not answer.
        """
        self._prepare()
        if self._ports:
            self._launch()
            return
        for attempt in range(1, _ATTEMPTS + 1):
            self._ports = dict(zip(self._port_names, free_ports(len(self._port_names)), strict=True))
            try:
                self._launch()
                return
            except SandboxError:  # another process may have taken a port
                if attempt == _ATTEMPTS:
                    raise

    def stop(self) -> None:
        """Stops the server, by force where it does not leave; its data stays. Stopping what is stopped is fine."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(self._stop_signal)
        try:
            process.wait(self.stop_timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._janitor.forget(process.pid)

    @abstractmethod
    def _prepare(self) -> None:
        """Makes what has to be on disk before a start."""

    @abstractmethod
    def _command(self) -> Command:
        """How the server is run on its ports."""

    @abstractmethod
    def _is_ready(self) -> bool:
        """Whether the server answers."""

    def _launch(self) -> None:
        command = self._command()
        self._stop_signal = command.stop_signal
        with self._log.open("wb") as log:
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
        deadline = time.monotonic() + _START_S
        while not self._is_ready():
            code = self._process.poll()
            if code is not None:
                self._janitor.forget(self._process.pid)
                raise SandboxError(f"{self._name} ended with code {code} while starting.\n{self._log_tail()}")
            if time.monotonic() > deadline:
                self.stop()
                raise SandboxError(f"{self._name} was not ready after {_START_S:g} s.\n{self._log_tail()}")
            time.sleep(0.02)

    def _log_tail(self) -> str:
        """The log's last lines, with a heading."""
        lines = self._log.read_text(errors="replace").splitlines() if self._log.exists() else []
        return f"--- the end of {self._log}:\n" + "\n".join(lines[-_LOG_TAIL_LINES:])
