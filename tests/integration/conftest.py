"""What some integration tests share beside the lakehouse of tests/conftest.py."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.servers.process import free_ports, port_answers
from tests.process.program import wait_for


@pytest.fixture
def bouncer(box: Sandbox, tmp_path: Path) -> Iterator[Callable[..., int]]:
    """Starts real PgBouncers before the sandbox's PostgreSQL; each call gives a port."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None:
        pytest.skip("there is no pgbouncer here: Debian has it in a package of that name")
    with ExitStack() as stack:

        def start(mode: str, *extra: str) -> int:
            (port,) = free_ports(1)
            users, config = tmp_path / f"{port}.users", tmp_path / f"{port}.ini"
            users.write_text(f'"{box.postgres.user}" "{box.postgres.password}"\n')
            lines = ["[databases]", f"* = host={box.postgres.host} port={box.postgres.port}", "[pgbouncer]"]
            lines += ["listen_addr = 127.0.0.1", f"listen_port = {port}", "unix_socket_dir =", f"pool_mode = {mode}"]
            lines += ["auth_type = scram-sha-256", f"auth_file = {users}", *extra]
            config.write_text("\n".join(lines))
            account: dict[str, Any] = {}
            if os.geteuid() == 0:  # it refuses to run as root; nobody must come through to its files
                account = {"user": "nobody", "group": "nogroup", "extra_groups": []}
                for path in (users, config, *list(config.parents)[:3]):
                    path.chmod(path.stat().st_mode | 0o055)
            process = subprocess.Popen([program, "-q", str(config)], stderr=subprocess.DEVNULL, **account)
            stack.callback(process.wait)
            stack.callback(process.kill)
            wait_for("PgBouncer", lambda: port_answers(port), 20)
            return port

        yield start
