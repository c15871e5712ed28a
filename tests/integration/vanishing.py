"""A leader's host that vanishes: a program for a network namespace of its own. Prints when each side saw it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from icekeeper.adapters.postgres.lease import Lease
from icekeeper.sandbox.servers.postgres import Postgres
from icekeeper.sandbox.servers.process import Janitor


def run(*command: str) -> None:
    subprocess.run(command, check=True)


async def vanish(server: Postgres) -> dict[str, float]:
    dsn = server.dsn("postgres")
    leader, standby = (Lease(dsn, server.password, host=host) for host in ("leader", "standby"))
    await leader.acquire()
    query = "SELECT client_port FROM pg_stat_activity WHERE application_name = 'icekeeper lease leader'"
    ((port,),) = server.execute("postgres", query)
    for end in ("--source-port", "--destination-port"):
        run("iptables", "--insert", "INPUT", "--protocol", "tcp", end, str(port), "--jump", "DROP")
    began = time.monotonic()
    seen: dict[str, float] = {}

    async def watch() -> None:
        await leader.lost()
        seen["given_up_s"] = time.monotonic() - began

    async def wait() -> None:
        await standby.acquire()
        seen["taken_over_s"] = time.monotonic() - began

    async with asyncio.timeout(60):
        await asyncio.gather(watch(), wait())
    await standby.release()
    return seen


def main() -> None:
    run("ip", "link", "set", "lo", "up")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        root.chmod(0o711)
        janitor = Janitor()
        stack.callback(janitor.dismiss)
        server = Postgres(root, janitor, password="vanishing")
        server.start()
        stack.callback(server.stop)
        print(json.dumps(asyncio.run(vanish(server))))


if __name__ == "__main__":
    main()
