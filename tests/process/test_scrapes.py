"""Scraping the real daemon ten times a second while it works hard: the loop has time for that."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import yaml

from daemon.sandbox import Sandbox, WorldSpec
from daemon.sandbox.process import free_ports, port_answers
from tests.conftest import BINANCE, COINBASE, GOLD, SILVER, SLOT, write_settings
from tests.process.program import icekeeper, running, wait_for

TEN_A_SECOND_S = 0.1
# On a machine of its own; on one that is busy twice what it takes an idle process comes on top.
MOST_S = 0.05
# So long at most, of a night that may take longer.
WATCHED_S = 30.0

# A process that answers the same and has nothing else to do: what it takes for that, the machine takes.
_IDLE = """
import sys
from aiohttp import web
from daemon.service.metrics import Metrics

metrics = Metrics()

async def answer(request):
    return web.Response(body=metrics.exposition())

app = web.Application()
app.router.add_get("/metrics", answer)
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)
"""


class Scraper:
    """Asks one address over one connection, as Prometheus does; `took` has the seconds of each answer."""

    def __init__(self, address: str) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=10)
        self.took: list[float] = []

    def scrape(self) -> str:
        began = time.monotonic()
        self._connection.request("GET", "/metrics")
        answer = self._connection.getresponse()
        body = answer.read().decode()
        self.took.append(time.monotonic() - began)
        assert answer.status == 200
        return body

    def p99(self) -> float:
        return sorted(self.took)[int(0.99 * len(self.took))]

    def close(self) -> None:
        self._connection.close()


@contextmanager
def idle() -> Iterator[str]:
    """The address of that process."""
    (port,) = free_ports(1)
    process = subprocess.Popen([sys.executable, "-c", _IDLE, str(port)])
    try:
        wait_for("the idle server", lambda: port_answers(port))
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def test_scrapes_ten_times_a_second_during_a_heavy_night_take_no_time(box: Sandbox, tmp_path: Path) -> None:
    """Others use the machine, too: what an idle process takes at the same moments is not the daemon's."""
    tables = (BINANCE, COINBASE, SILVER, GOLD)
    world = box.world(WorldSpec(now=SLOT, tables=tables, commits_per_day=48, rows_per_file=10, symbols=6))
    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state"), tmp_path / "stderr"
    listens = yaml.safe_load(config.read_text())["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0

    with idle() as beside, running("serve", config=config, log=log, at=SLOT - timedelta(seconds=10)) as daemon:
        wait_for("the night to be at work", lambda: "engine_started" in log.read_text())
        daemons, machines = Scraper(listens), Scraper(beside)
        ends = time.monotonic() + WATCHED_S
        upcoming = time.monotonic()
        body = ""
        while time.monotonic() < ends and "icekeeper_run_in_progress 0.0" not in body:
            machines.scrape()
            body = daemons.scrape()
            upcoming += TEN_A_SECOND_S
            time.sleep(max(0.0, upcoming - time.monotonic()))
        os.kill(daemon.pid, signal.SIGTERM)
        daemons.close()
        machines.close()
        assert daemon.wait(60) == 0

    assert len(daemons.took) > 50
    told = f"daemon {daemons.p99():.3f} s, an idle process {machines.p99():.3f} s, of {len(daemons.took)} scrapes"
    assert daemons.p99() < MOST_S + 2 * machines.p99(), told
