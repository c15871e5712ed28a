"""Scraping the real daemon ten times a second while it works hard: the loop has time for that."""

from __future__ import annotations

import http.client
import os
import signal
import threading
import time
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from icekeeper.sandbox import Sandbox, WorldSpec
from tests.conftest import BINANCE, COINBASE, GOLD, SILVER, SLOT, write_settings
from tests.process.program import icekeeper, running, wait_for

TEN_A_SECOND_S = 0.1
MOST_S = 0.05
# So long at most, of a night that may take longer.
WATCHED_S = 20.0


class Scraper:
    """Asks over one connection, as Prometheus does; `took` has the seconds of each answer.

    Other programs use the machine, too: the time for which a processor was waited for is not counted, as the kernel
    knows it: by this thread, by the daemon's loop, and by the thread of the daemon that waited longest, as it may have
    held Python's lock. What the loop works, or waits for its own threads that work, is counted.
    """

    def __init__(self, address: str, daemon: int) -> None:
        self._connection = http.client.HTTPConnection(address, timeout=10)
        self._daemon = daemon
        self._own = Path(f"/proc/self/task/{threading.get_native_id()}")
        self.took: list[float] = []

    def scrape(self) -> str:
        before, began = self._queued(), time.monotonic()
        self._connection.request("GET", "/metrics")
        answer = self._connection.getresponse()
        body = answer.read().decode()
        took, after = time.monotonic() - began, self._queued()
        queued = {thread: after[thread] - before[thread] for thread in after.keys() & before.keys()}
        loop, own = queued.pop(str(self._daemon)), queued.pop("own")
        self.took.append(took - loop - own - max(queued.values(), default=0.0))
        assert answer.status == 200
        return body

    def _queued(self) -> dict[str, float]:
        """For how many seconds each thread of the daemon, and this one, have waited for a processor by now."""
        seconds = {"own": _queued(self._own)}
        for thread in Path(f"/proc/{self._daemon}/task").iterdir():
            with suppress(OSError):  # it has just ended
                seconds[thread.name] = _queued(thread)
        return seconds

    def p99(self) -> float:
        return sorted(self.took)[int(0.99 * len(self.took))]

    def close(self) -> None:
        self._connection.close()


def _queued(thread: Path) -> float:
    return int((thread / "schedstat").read_text().split()[1]) / 1e9


@pytest.mark.timing
def test_scrapes_ten_times_a_second_during_a_heavy_night_take_no_time(box: Sandbox, tmp_path: Path) -> None:
    tables = (BINANCE, COINBASE, SILVER, GOLD)
    world = box.world(WorldSpec(now=SLOT, tables=tables, commits_per_day=48, rows_per_file=10, symbols=6))
    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state"), tmp_path / "stderr"
    listens = yaml.safe_load(config.read_text())["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0

    with running("serve", config=config, log=log, at=SLOT - timedelta(seconds=5), fresh=True) as daemon:
        wait_for("the night", lambda: "run_started" in log.read_text())
        wait_for("the session", lambda: "engine_started" in log.read_text())
        scraper = Scraper(listens, daemon.pid)
        upcoming = time.monotonic()
        ends = upcoming + WATCHED_S
        body = ""
        while time.monotonic() < ends and "icekeeper_run_in_progress 0.0" not in body:
            body = scraper.scrape()
            upcoming += TEN_A_SECOND_S
            time.sleep(max(0.0, upcoming - time.monotonic()))
        scraper.close()
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0

    assert len(scraper.took) > 50
    assert scraper.p99() < MOST_S, sorted(scraper.took)[-20:]
