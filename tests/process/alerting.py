"""A real Prometheus and a real Alertmanager with icekeeper's own rules, and somebody at the end who is told."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from icekeeper.sandbox.servers.process import free_ports
from tests.debian import program, share
from tests.process.program import fetch, wait_for
from tests.unit.test_alerting import ALERTMANAGER, RULES

# Where the runbooks' links lead.
DOCS = "https://git.example.com/icekeeper/blob/main"
# It answers first after its first configuration was loaded.
_UP_S = 60.0


class Webhook:
    """Takes what Alertmanager sends; `told` are the alerts in their order, each as Alertmanager writes it."""

    def __init__(self) -> None:
        self.alerts: list[dict[str, Any]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __enter__(self) -> Webhook:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def of(self, alert: str, status: str) -> list[dict[str, Any]]:
        """What came of an alert, `firing` or `resolved`."""
        return [one for one in self.alerts if (one["labels"]["alertname"], one["status"]) == (alert, status)]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        alerts = self.alerts

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                alerts.extend(body["alerts"])
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        return Handler


@contextmanager
def watched(target: str, directory: Path) -> Iterator[Webhook]:
    """Prometheus scrapes `target` every second; the block gets who is told of alerts."""
    prometheus = program("prometheus", "prometheus")
    alertmanager = program("prometheus-alertmanager", "prometheus-alertmanager", "alertmanager")
    directory.mkdir()
    at_prometheus, at_alertmanager = (f"127.0.0.1:{port}" for port in free_ports(2))
    with Webhook() as webhook:
        routed = _changed(ALERTMANAGER, directory, lambda document: _to(webhook, document))
        arguments = [f"--config.file={routed}", f"--storage.path={directory / 'alertmanager'}"]
        arguments += [f"--web.listen-address={at_alertmanager}", "--cluster.listen-address="]
        with _running(alertmanager, arguments, directory / "alertmanager.log"):
            _changed(RULES, directory, _at_once)
            scraping = _scraping(directory, target, at_alertmanager)
            arguments = [f"--config.file={scraping}", f"--storage.tsdb.path={directory / 'prometheus'}"]
            arguments += [f"--web.listen-address={at_prometheus}"]
            with _running(prometheus, arguments, directory / "prometheus.log"):
                for address in (at_prometheus, at_alertmanager):
                    wait_for(address, lambda at=address: fetch(f"http://{at}/-/ready"), _UP_S)  # type: ignore[misc]
                yield webhook


def _to(webhook: Webhook, document: dict[str, Any]) -> None:
    """The example's routes and inhibitions, with one receiver that does not wait."""
    del document["global"]
    document["route"] |= {"group_wait": "1s", "group_interval": "1s"}
    for receiver in document["receivers"]:
        receiver.pop("email_configs")
        receiver["webhook_configs"] = [{"url": webhook.url, "send_resolved": True}]


def _at_once(document: dict[str, Any]) -> None:
    """The rules as they are, but that nothing is waited for."""
    for group in document["groups"]:
        for rule in group["rules"]:
            rule.pop("for", None)


def _changed(file: Path, directory: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    document = yaml.safe_load(file.read_text())
    change(document)
    changed = directory / file.name
    changed.write_text(yaml.safe_dump(document))
    return changed


def _scraping(directory: Path, target: str, alertmanager: str) -> Path:
    document = {
        "global": {
            "scrape_interval": "1s",
            "scrape_timeout": "1s",
            "evaluation_interval": "1s",
            "external_labels": {"icekeeper_docs": DOCS},
        },
        "rule_files": [RULES.name],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [alertmanager]}]}]},
        "scrape_configs": [{"job_name": "icekeeper", "static_configs": [{"targets": [target]}]}],
    }
    path = directory / "prometheus.yml"
    path.write_text(yaml.safe_dump(document))
    return path


@contextmanager
def _running(executable: Path, arguments: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output:
        process = subprocess.Popen([executable, *arguments], stdout=output, stderr=output, cwd=share(executable))
    try:
        yield
    finally:
        process.kill()
        process.wait()
