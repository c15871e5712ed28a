"""The embedded ledger's server, in `state_dir/ledger`: started by the first process that needs it, stopped by the last.

Two lock files, which the kernel frees however their holders die, keep processes apart:

    users.lock   each process that uses the server holds it shared. The one that closes and gets it alone is the last,
                 and stops the server; one that comes meanwhile waits for that
    server.lock  held by the server itself: its processes inherit it. Who gets it knows that none of them lives, and may
                 start one, whatever postmaster.pid says: that number may belong to another process by now

So a server whose users were all killed goes on, and is joined by the next.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from subprocess import Popen
from urllib.parse import quote

import asyncpg

from icekeeper.adapters.postgres.embedded import files, programs
from icekeeper.adapters.postgres.embedded.data import make_data, refuse_other_version
from icekeeper.adapters.postgres.pool import CONNECT_TIMEOUT_S, FOREIGN_ERRORS, Target, translated
from icekeeper.adapters.state_dir import make_state_dir
from icekeeper.adapters.users import user_name
from icekeeper.core.errors import ConfigError, IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason

DIRECTORY = "ledger"
ROLE = DATABASE = "icekeeper"
EXTRA = "pip install 'icekeeper[embedded]'"
# The kernel's limit of a socket's path; and what PostgreSQL calls the socket.
_LONGEST = 107
_SOCKET = ".s.PGSQL.5432"
# A recovery after a crash may take a while on a slow disk.
_START_S = 60.0
_STOP_S = 10.0
_POLL_S = 0.02
_LOG_MAX = 1024**2
_CREDENTIALS = struct.Struct("3i")  # of a socket's peer: process, user, group
# Servers that this process has started and others still use: children that it does not wait for.
_left_running: list[Popen[bytes]] = []
_SETTINGS = {
    "listen_addresses": "",
    # Whoever may pass the directory is let in: its owner, and root.
    "unix_socket_permissions": "0700",
    "max_connections": "40",
    "shared_buffers": "32MB",
    "max_wal_size": "128MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",
    "max_parallel_workers_per_gather": "0",
    "max_logical_replication_workers": "0",
    # Nothing in /dev/shm, which systemd's RemoveIPC empties when the daemon's unit is stopped.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Of statements that fail their clients know; its own state is logged.
    "log_min_messages": "log",
    "log_checkpoints": "off",
}


def environment(state_dir: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` with which PostgreSQL's own programs are found, and find the ledger of a state directory."""
    path = f"{programs.directory()}{os.pathsep}{environ.get('PATH', os.defpath)}"
    ledger = {"PGHOST": str(state_dir / DIRECTORY), "PGPORT": "5432", "PGUSER": ROLE, "PGDATABASE": DATABASE}
    # Without the user's own: PGSERVICE or PGHOSTADDR would lead to another server.
    kept = {name: value for name, value in environ.items() if not name.startswith("PG")}
    return {**kept, **ledger, "PATH": path}


def refuse_place(state_dir: Path) -> None:
    """ConfigError where a ledger could never be embedded there."""
    path = str(state_dir / DIRECTORY / _SOCKET)
    if programs.directory() is None:
        text = f"the embedded ledger needs PostgreSQL's programs, which are not installed: {EXTRA}"
        raise ConfigError([f"{text}, or give postgres.dsn"])
    if (excess := len(os.fsencode(path)) - _LONGEST) > 0:
        text = f"its path has {excess} bytes too many for the socket of an embedded ledger ({path})"
        raise ConfigError([f"state_dir: {text}: choose a shorter one, or give postgres.dsn"])
    if "," in path:
        text = "a comma separates two servers in the address of an embedded ledger"
        raise ConfigError([f"state_dir: {text}: choose a path without one, or give postgres.dsn"])


class EmbeddedPostgres:
    """The server of one state directory, as one of the processes uses it."""

    def __init__(self, state_dir: Path, prepare: Callable[[str], Awaitable[list[str]]]) -> None:
        """Starts nothing. ConfigError where it could never start there.

        `prepare` brings the database at a DSN up to date when the server has started or was joined, and says by what.
        """
        refuse_place(state_dir)
        self.home = state_dir / DIRECTORY
        self.data = self.home / "data"
        self.dsn = f"postgresql://{ROLE}@/{DATABASE}?host={quote(str(self.home), safe='/')}&port=5432"
        self.applied: list[str] = []
        self._state_dir = state_dir
        self._prepare = prepare
        self._is_prepared = False
        # One attempt for all who need it, in a thread of its own: it may take a minute.
        self._attempt: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedded ledger")
        self._closed = False
        self._users: int | None = None
        self._process: Popen[bytes] | None = None

    async def ensure(self) -> None:
        """Returns when the server answers and its tables are up to date; starts it where it does not run.

        TransientError `ledger_down` where it does not come up, PermanentError where it can't; never `unexpected`.
        """
        if self._attempt is None or self._attempt.done():
            self._attempt = asyncio.create_task(self._bring_up())
            self._attempt.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(self._attempt)

    async def aclose(self) -> None:
        """Stops the server where no other process uses it. Closed, it stays closed."""
        if self._closed:
            return
        self._closed = True  # that ends an attempt under way, of which the thread has one part
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.wait([self._attempt])
        await asyncio.get_running_loop().run_in_executor(self._thread, self._leave)
        self._thread.shutdown(wait=False)

    async def _bring_up(self) -> None:
        try:
            self._refuse_closed()
            await asyncio.get_running_loop().run_in_executor(self._thread, self._run)
            if not self._is_prepared:
                await _make_database(self.dsn)
                self.applied = await self._prepare(self.dsn)
                self._is_prepared = True
        except IcekeeperError as exc:
            if exc.reason is Reason.UNEXPECTED:  # which is about a record: it would be set aside
                exc.reason = Reason.LEDGER_DOWN
            raise

    def _refuse_closed(self) -> None:
        if self._closed:
            raise TransientError("it is closed", reason=Reason.LEDGER_DOWN, where=str(self.home))

    # --- starting

    def _run(self) -> None:
        """Returns when it answers."""
        deadline = time.monotonic() + _START_S
        with _translated(self.home):
            if self._process is not None:
                self._process.poll()  # one that has died leaves no zombie
            self._make_home()
            while self._users is None:
                self._users = files.try_lock(self.home / "users.lock", files.SHARED)
                self._wait(deadline, "another process has been stopping it for too long", self._users is not None)
            while not (ready := self._is_ready()):
                if (lock := files.try_lock(self.home / "server.lock")) is not None:
                    try:
                        self._start(lock, deadline)
                    finally:
                        os.close(lock)  # the server's processes have inherited it
                else:
                    self._wait(deadline, f"its processes are there, and it does not answer: see {self._log}", ready)

    def _wait(self, deadline: float, late: str, done: bool) -> None:
        self._refuse_closed()
        if not done:
            if time.monotonic() > deadline:
                raise TransientError(late, reason=Reason.LEDGER_DOWN)
            time.sleep(_POLL_S)

    def _make_home(self) -> None:
        make_state_dir(self._state_dir)
        with suppress(FileExistsError):
            self.home.mkdir(mode=0o700)
        account, owner = programs.account(self._state_dir), self.home.stat().st_uid
        if account is not None and owner != account and not self.data.exists():
            programs.give_to(account, self.home)
        elif os.geteuid() not in (0, owner):
            text = f"it belongs to {user_name(owner)}: run this as that user, or as root"
            raise PermanentError(text, reason=Reason.ACCESS_DENIED)

    def _start(self, lock: int, deadline: float) -> None:
        account = programs.account(self.home)
        if not self.data.is_dir():
            make_data(self.data, ROLE, account, lock)
            self._is_prepared = False
        refuse_other_version(self.data, account)
        # Of a server that is gone, as the lock proves; its number may be another process's by now, or a zombie's.
        for left in (self.data / "postmaster.pid", self.home / f"{_SOCKET}.lock", self.home / _SOCKET):
            left.unlink(missing_ok=True)
        with ExitStack() as opened:
            data, home = files.directory(self.data), files.directory(self.home)
            log = files.file(self._log, os.O_WRONLY | os.O_APPEND)
            for each in (data, home, log):
                opened.callback(os.close, each)
            if (began := os.fstat(log).st_size) > _LOG_MAX:
                os.ftruncate(log, began := 0)
            # By what is open: the user that PostgreSQL runs as need not be let into the directories above.
            settings = {**_SETTINGS, "unix_socket_directories": f"/proc/self/fd/{home}"}
            argv = ["postgres", "-D", f"/proc/self/fd/{data}"]
            for name, value in settings.items():
                argv += ["-c", f"{name}={value}"]
            self._process = programs.command(argv, account).start(log, (lock, data, home))
        while not (ready := self._is_ready()):
            if self._process.poll() is not None:
                text = f"PostgreSQL did not start: {self._reason_since(began)}"
                raise TransientError(text, reason=Reason.LEDGER_DOWN)
            self._wait(deadline, f"PostgreSQL is not ready after {_START_S:g} s: see {self._log}", ready)

    def _is_ready(self) -> bool:
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return self._postmaster() is not None and [line.strip() for line in lines[7:8]] == ["ready"]

    def _postmaster(self) -> int | None:
        """The process that listens on the socket, 0 where it is another container's; None where none does."""
        try:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(1.0)
                probe.connect(str(self.home / _SOCKET))
                credentials = probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return None
        return int(_CREDENTIALS.unpack(credentials)[0])

    @property
    def _log(self) -> Path:
        return self.home / "server.log"

    def _reason_since(self, began: int) -> str:
        with self._log.open("rb") as log:
            log.seek(began)
            lines = log.read().decode(errors="replace").strip().splitlines()
        causes = [line for line in lines if re.search("FATAL|PANIC|DETAIL|HINT|could not", line)]
        return "; ".join(causes[-3:] or lines[-3:]) or f"see {self._log}"

    # --- stopping

    def _leave(self) -> None:
        users, self._users = self._users, None
        if users is None:
            return
        try:
            if files.keep(users, files.ALONE):  # of two that close at a time, one gets it
                self._stop()
            elif self._process is not None:
                _left_running.append(self._process)
        finally:
            os.close(users)

    def _stop(self) -> None:
        pid = self._postmaster()
        if pid is None and self._process is not None and self._process.poll() is None:
            pid = self._process.pid  # not ready yet
        if not pid:
            return
        # The first doesn't wait for clients; the second doesn't wait for anything, and the next start recovers.
        for stop_signal in (signal.SIGINT, signal.SIGQUIT):
            with suppress(ProcessLookupError):
                os.kill(pid, stop_signal)
            deadline = time.monotonic() + _STOP_S
            while time.monotonic() < deadline:
                if self._process is not None:
                    self._process.poll()
                if (lock := files.try_lock(self.home / "server.lock")) is not None:
                    os.close(lock)
                    if self._process is not None:
                        self._process.wait()
                    return
                time.sleep(_POLL_S)


@contextmanager
def _translated(home: Path) -> Iterator[None]:
    try:
        yield
    except IcekeeperError as exc:
        exc.where = exc.where or str(home)
        raise
    except OSError as exc:
        text = f"the embedded ledger can't be started: {exc.filename or home}: {exc.strerror or exc}"
        if exc.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise PermanentError(text, reason=Reason.ACCESS_DENIED) from exc
        raise TransientError(text, reason=Reason.LEDGER_DOWN) from exc


async def _make_database(dsn: str) -> None:
    """Makes the database where there is none yet."""
    try:
        try:
            connection = await asyncpg.connect(dsn, timeout=CONNECT_TIMEOUT_S)
        except asyncpg.InvalidCatalogNameError:
            connection = await asyncpg.connect(dsn, database="postgres", timeout=CONNECT_TIMEOUT_S)
            with suppress(asyncpg.DuplicateDatabaseError, asyncpg.UniqueViolationError):  # another process was quicker
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        await connection.close()
    except FOREIGN_ERRORS as exc:
        raise translated(exc, Target.of(dsn)) from exc
