"""The real daemon tells of a night that failed: once, though the receiver was down and the daemon was restarted."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from tests.conftest import SLOT
from tests.process.program import document, fetch, icekeeper, metrics, running, wait_for

SECRET = "a-token-that-nobody-may-see"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def receiving(port: int) -> Iterator[list[Any]]:
    """A service that takes messages; what came."""
    came: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            came.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        serving = Thread(target=server.serve_forever)
        serving.start()
        try:
            yield came
        finally:
            server.shutdown()
            serving.join()


def write_config(directory: Path, url: str, http_port: int) -> Path:
    """Every part is away: a night fails within a second, and no JVM comes up."""
    unused = free_port()
    (directory / "receiver").write_text(url)
    config = directory / "icekeeper.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "catalog": {"name": "k2", "type": "rest", "uri": f"http://127.0.0.1:{unused}"},
                "clickhouse": {"url": f"http://127.0.0.1:{unused}", "database": "k2"},
                "postgres": {"dsn": f"postgresql://icekeeper@127.0.0.1:{unused}/icekeeper"},
                "spark": {"home": "/nowhere"},
                **{stage: {"retries": 0} for stage in ("compact", "expire", "audit")},
                "tables": [{"name": "cold.a", "source": "a", "timestamp": "ts", "layer": "gold"}],
                "http": {"listen": f"127.0.0.1:{http_port}", "url": "https://ice.example.com"},
                "notify": [{"url_file": "receiver"}],
                "state_dir": str(directory / "state"),
            }
        )
    )
    return config


@pytest.mark.long
def test_a_failed_night_is_notified_once_though_the_target_was_down_at_first(tmp_path: Path) -> None:
    port, http_port, log = free_port(), free_port(), tmp_path / "stderr"
    config, base = (
        write_config(tmp_path, f"json://127.0.0.1:{port}/{SECRET}", http_port),
        f"http://127.0.0.1:{http_port}",
    )
    delivered = 'icekeeper_notifications_total{result="delivered"}'

    with running("serve", config=config, log=log, at=SLOT - timedelta(seconds=10)) as daemon:
        wait_for("the night to fail", lambda: metrics(base).get('icekeeper_runs_total{outcome="failed"}') == 1)
        wait_for("the first attempt", lambda: "notification_not_delivered" in log.read_text())
        assert metrics(base)[delivered] == 0
        began = time.monotonic()
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0
        assert time.monotonic() - began < 20

    with receiving(port) as came:
        for later in (5, 10):  # after the second start it has been told
            with running("serve", config=config, log=log, at=SLOT + timedelta(minutes=later)) as daemon:
                wait_for("the daemon", lambda: fetch(f"{base}/livez"))
                wait_for("the message", lambda: came)
                if later == 5:
                    wait_for("its count", lambda: metrics(base).get(delivered) == 1)
                else:
                    time.sleep(3)  # nothing is to come, so there is nothing to wait for
                    assert metrics(base)[delivered] == 0
                os.kill(daemon.pid, signal.SIGTERM)
                assert daemon.wait(60) == 0
        (message,) = came

    assert message["title"] == "icekeeper: failed, slot 2026-02-18 02:00 UTC"
    assert message["type"] == "failure"
    assert message["message"].startswith("https://ice.example.com/runs/")
    assert "audit cold.a: error" in message["message"]
    for kept in (log, *(tmp_path / "state").rglob("*")):
        if kept.is_file():
            assert SECRET.encode() not in kept.read_bytes(), kept


def test_an_operator_tries_whom_it_would_tell(tmp_path: Path) -> None:
    port = free_port()
    config = write_config(tmp_path, f"json://127.0.0.1:{port}/{SECRET}", free_port())
    listed = icekeeper("notify", config=config)
    assert (listed.returncode, listed.stdout) == (0, "receiver: failed, held, partial, recovered, source_empty\n")
    refused = icekeeper("notify", "--test", config=config)
    assert refused.returncode == 1
    assert "receiver (json): A Connection error" in refused.stdout
    assert SECRET not in refused.stdout + refused.stderr
    with receiving(port) as came:
        taken = icekeeper("notify", "--test", "--json", config=config)
    assert (taken.returncode, document(taken)) == (
        0,
        {"receivers": [{"receiver": "receiver", "service": "json", "error": None}]},
    )
    assert "This is a test" in came[0]["message"]
    shown = icekeeper("config", "show", config=config)
    assert "127.0.0.1:" + str(port) not in shown.stdout
