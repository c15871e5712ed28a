"""Starts, stops and queries the sandbox's ClickHouse. The server program: clickhouse_server.py."""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from urllib.parse import urlencode

from icekeeper.sandbox.errors import SandboxError
from icekeeper.sandbox.servers.process import LOOPBACK, Command, Janitor, Server, port_answers


class ClickHouse(Server):
    """One ClickHouse engine behind HTTP on the loopback. `timezone` is the server's own time zone."""

    stop_timeout_s = 5.0

    def __init__(self, root: Path, janitor: Janitor, *, password: str, timezone: str = "UTC") -> None:
        super().__init__("ClickHouse", root / "clickhouse.log", janitor)
        self.user = "icekeeper"
        self.password = password
        self.timezone = timezone
        self._path = root / "clickhouse"

    @property
    def url(self) -> str:
        """`http://127.0.0.1:PORT`"""
        return f"http://{LOOPBACK}:{self.port}"

    def _prepare(self) -> None:
        self._path.mkdir(exist_ok=True)

    def _command(self) -> Command:
        # By its path, not with -m: that would import the whole package, which takes as long as the engine's start.
        argv = [sys.executable, "-P", str(Path(__file__).with_name("clickhouse_server.py"))]
        argv += ["--path", str(self._path), "--port", str(self.port), "--user", self.user]
        environment = {
            **os.environ,
            # The engine takes its server time zone from here.
            "TZ": self.timezone,
            "SANDBOX_CLICKHOUSE_PASSWORD": self.password,
        }
        return Command(argv, environment, cwd=self._path)

    def _is_ready(self) -> bool:
        if not port_answers(self.port):
            return False
        # Another process may have taken the port meanwhile; it would refuse the password.
        with contextlib.suppress(SandboxError):
            return self.execute("SELECT 1") == b"1\n"
        return False

    def execute(
        self,
        sql: str,
        *,
        database: str = "default",
        data: bytes = b"",
        parameters: Mapping[str, object] = MappingProxyType({}),
        settings: Mapping[str, object] = MappingProxyType({}),
    ) -> bytes:
        """Runs one statement and returns the raw answer (TabSeparated unless the query names a FORMAT).

        `data` is what follows an `INSERT ... FORMAT x`; `parameters` fill the query's `{name:Type}`. Raises
        SandboxError with ClickHouse's message.
        """
        query = {
            "database": database,
            **{f"param_{name}": str(value) for name, value in parameters.items()},
            **{name: str(value) for name, value in settings.items()},
        }
        connection = http.client.HTTPConnection(LOOPBACK, self.port, timeout=120)
        try:
            connection.request(
                "POST",
                "/?" + urlencode(query),
                body=sql.encode() + b"\n" + data if data else sql.encode(),
                headers={"X-ClickHouse-User": self.user, "X-ClickHouse-Key": self.password},
            )
            response = connection.getresponse()
            body = response.read()
        except OSError as error:
            raise SandboxError(f"ClickHouse does not answer at {self.url}: {error}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise SandboxError(f"ClickHouse refused a statement: {body.decode(errors='replace').strip()}\n{sql[:500]}")
        return body
