"""Programs that need not import icekeeper any more: each is a fork of a process that has.

Importing its modules takes two to three seconds of a processor, most of what a short command costs. Everything else is
as it is for `python -m icekeeper`: a process of its own, with its own arguments, environment, output and exit.

    python -m tests.process.preloaded SOCKET    the process that forks; `start` runs it, and asks it over the socket
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import pkgutil
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_MESSAGE = 256 * 1024


class Program:
    """A program that `start` started, with the methods of subprocess.Popen that the tests need."""

    def __init__(self, news: int) -> None:
        self._news = os.fdopen(news, "r")
        self.pid = int(self._news.readline())
        self.returncode: int | None = None
        try:
            self._ended = os.pidfd_open(self.pid)
        except ProcessLookupError:  # it has ended already, and the next line is its exit code
            self.returncode = int(self._news.readline())
            self._news.close()

    def poll(self) -> int | None:
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, or a signal's negative number."""
        if (code := self._wait(timeout)) is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with suppress(ProcessLookupError):  # it has ended just now
                signal.pidfd_send_signal(self._ended, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is None:
            with selectors.DefaultSelector() as selector:
                selector.register(self._news, selectors.EVENT_READ)
                if selector.select(timeout):
                    self.returncode = int(self._news.readline())
                    self._news.close()
                    os.close(self._ended)
        return self.returncode


_forker: socket.socket | None = None


def start(
    *arguments: str,
    stdout: int,
    stderr: int,
    env: Mapping[str, str],
    cwd: Path | None = None,
    at: datetime | None = None,
    main: str = "icekeeper.__main__:main",
) -> Program:
    """Starts `main` of a module with these arguments and no input; with `at`, its clock shows that first."""
    global _forker
    if _forker is None:
        _forker = _start_forker()
    news, told = os.pipe()
    asked = {
        "arguments": arguments,
        "env": dict(env),
        "cwd": str(cwd or Path.cwd()),
        "at": at and at.isoformat(),
        "main": main,
    }
    socket.send_fds(_forker, [json.dumps(asked).encode()], [told, stdout, stderr])
    os.close(told)
    return Program(news)


def run(
    *arguments: str, timeout: float, env: Mapping[str, str], cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, as subprocess.run does; kills it where it takes too long."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        program = start(*arguments, stdout=out.fileno(), stderr=errors.fileno(), env=env, cwd=cwd)
        try:
            code = program.wait(timeout)
        except BaseException:
            program.kill()
            program.wait()
            raise
        for file in (out, errors):
            file.seek(0)
        return subprocess.CompletedProcess(list(arguments), code, out.read(), errors.read())


def _start_forker() -> socket.socket:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", __name__, str(theirs.fileno())]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    theirs.close()

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


# --- in the process that forks


def _import_everything() -> None:
    import icekeeper

    for found in pkgutil.walk_packages(icekeeper.__path__, "icekeeper."):
        if not found.name.startswith(("icekeeper.sandbox", "icekeeper.demo", "icekeeper.cli.demo")):
            importlib.import_module(found.name)


def _serve(asked: socket.socket) -> Callable[[], None]:
    """Forks for each message. Returns in the forks, with what they are to do; ends with the socket."""
    selector = selectors.DefaultSelector()
    selector.register(asked, selectors.EVENT_READ)
    running: dict[int, tuple[int, int]] = {}
    while True:
        for key, _ in selector.select():
            if key.fd in running:
                pid, news = running.pop(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with suppress(BrokenPipeError):
                    os.write(news, f"{code}\n".encode())
                selector.unregister(key.fd)
                os.close(key.fd)
                os.close(news)
                continue
            message, fds, _, _ = socket.recv_fds(asked, _MESSAGE, 3)
            if not message:
                os._exit(0)
            news, out, errors = fds
            if (pid := os.fork()) == 0:
                os.dup2(out, 1)
                os.dup2(errors, 2)
                selector.close()
                os.closerange(3, 1024)
                return _program(json.loads(message))
            os.write(news, f"{pid}\n".encode())
            os.close(out)
            os.close(errors)
            running[ended := os.pidfd_open(pid)] = pid, news
            selector.register(ended, selectors.EVENT_READ)


def _program(asked: dict[str, Any]) -> Callable[[], None]:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    module, _, name = asked["main"].partition(":")
    sys.argv = [module, *asked["arguments"]]
    if asked["at"] is not None:
        import time_machine

        time_machine.travel(datetime.fromisoformat(asked["at"]), tick=True).start()
    main: Callable[[], None] = getattr(importlib.import_module(module), name)
    return main


def _main() -> None:
    asked = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    import time_machine  # noqa: F401

    _import_everything()
    program = _serve(asked)
    asked.detach()
    program()


if __name__ == "__main__":
    _main()
