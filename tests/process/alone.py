"""A daemon that has PostgreSQL and nothing else: no JVM comes up, no catalog answers. For what it says over HTTP."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.servers.process import free_ports
from icekeeper.sandbox.table_shapes import TABLES as SHAPES
from tests.conftest import SLOT
from tests.process.program import fetch, icekeeper, running, wait_for
from tests.years import fill

TOKEN = "open-sesame"
TABLES = tuple(shape.iceberg for shape in SHAPES)


@dataclass(frozen=True)
class Alone:
    """Such a daemon, an hour after the slot."""

    box: Sandbox
    database: str
    config: Path
    base: str
    log: Path
    pid: int

    def execute(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        return self.box.postgres.execute(self.database, statement, *values)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
        """Status and document of an answer, whatever it is."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        request = urllib.request.Request(self.base + path, body, sent, method=method)
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as exc:
            with exc:
                return exc.code, json.loads(exc.read() or b"{}")


@contextmanager
def alone(
    box: Sandbox, place: Path, *, nights: int = 0, lines: int = 20, http: Mapping[str, Any] | None = None, **blocks: Any
) -> Iterator[Alone]:
    """The ledger knows `nights`, that of SLOT the last of them; `blocks` take the place of those of the settings, the
    keys of `http` come to that block."""
    database = f"alone_{uuid4().hex[:8]}"
    box.postgres.create_database(database)
    (port, unused) = free_ports(2)
    document = {
        "spark": {"home": "/nowhere"},
        "catalog": {"name": "k2", "type": "rest", "uri": f"http://127.0.0.1:{unused}", "warehouse": "s3://cold/"},
        "clickhouse": {"url": f"http://127.0.0.1:{unused}", "database": "k2"},
        "postgres": {"dsn": box.postgres.dsn(database), "password": box.postgres.password},
        "tables": [
            {"name": shape.iceberg, "source": shape.source, "timestamp": shape.timestamp, "layer": shape.layer}
            for shape in SHAPES
        ],
        # What fails is not tried again: there is nothing to wait for.
        **{stage: {"retries": 0} for stage in ("compact", "expire", "audit")},
        "run": {"max_clock_skew": "3650d"},
        "http": {"listen": f"127.0.0.1:{port}", "token": TOKEN, **(http or {})},
        "state_dir": str(place / "state"),
        **blocks,
    }
    config, log, base = place / "icekeeper.yaml", place / "stderr", f"http://127.0.0.1:{port}"
    config.write_text(yaml.safe_dump(document))
    assert icekeeper("migrate", config=config).returncode == 0
    if nights:
        execute = partial(box.postgres.execute, database)
        fill(execute, TABLES, SLOT + timedelta(days=1), nights=nights, lines=lines)
    with running("serve", config=config, log=log, at=SLOT + timedelta(hours=1)) as daemon:
        wait_for("the daemon", lambda: fetch(f"{base}/livez"))
        yield Alone(box, database, config, base, log, daemon.pid)
