"""Nights of the real program, configured by the code blocks of docs/own-platform.md."""

from __future__ import annotations

import json
import re
import ssl
import subprocess
import textwrap
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from uuid import uuid4

import yaml

from icekeeper.sandbox import Sandbox
from icekeeper.sandbox.servers.process import free_ports
from tests.conftest import SHORT_LIVED
from tests.platforms.lakes import KEPT, TABLE, Content, audited_day, slot_after
from tests.process.program import document, fetch, icekeeper, running, wait_for

PAGE = Path(__file__).parents[2] / "docs" / "own-platform.md"
# A night's on a machine that is busy with other things.
PATIENCE_S = 400.0
TOKEN = "a token that is hard to guess"


def block(heading: str, language: str = "yaml") -> str:
    """The first code block of a language below a heading of the page."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", PAGE.read_text(), re.S | re.M)
    assert found is not None, f"{PAGE.name} has no section {heading!r}"
    code = re.search(rf"^( *)```{language}\n(.*?)^\1```", found[1], re.S | re.M)
    assert code is not None, f"the section {heading!r} has no {language}"
    return textwrap.dedent(code[2])


def filled(text: str, values: Mapping[str, object]) -> str:
    """A block with what it calls by examples replaced by what is there; every one of them has to occur."""
    for example, value in values.items():
        assert example in text, f"{example!r} is not in:\n{text}"
        text = text.replace(example, str(value))
    return text


@dataclass(frozen=True)
class Site:
    """A host that icekeeper is configured on: its file, and a directory of its own."""

    box: Sandbox
    directory: Path

    @property
    def config(self) -> Path:
        return self.directory / "icekeeper.yaml"

    def secret(self, name: str, text: str) -> Path:
        """A file that holds a secret."""
        path = self.directory / "secrets" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{text}\n")
        return path

    def configure(self, heading: str, values: Mapping[str, object], **more: Any) -> None:
        """Writes the file from a section of the page, for a small host; `more`: further blocks."""
        settings = yaml.safe_load(filled(block(heading), values))
        (port,) = free_ports(1)
        host: dict[str, Any] = {
            "spark": {"driver_memory": "1g", "conf": SHORT_LIVED},
            "state_dir": str(self.directory / "state"),
        }
        if "http" not in settings:
            host["http"] = {"listen": f"127.0.0.1:{port}", "token": TOKEN}
        for name, value in (host | more).items():
            settings[name] = {**settings.get(name, {}), **value} if isinstance(value, dict) else value
        self.config.write_text(yaml.safe_dump(settings))

    def clickhouse(self, database: str) -> dict[str, object]:
        """What the page's examples of ClickHouse are here."""
        server = self.box.clickhouse
        return {
            "https://clickhouse.example.com:8443": server.url,
            "database: shop": f"database: {database}",
            "user: reader": f"user: {server.user}",
            "/etc/icekeeper/secrets/clickhouse": self.secret("clickhouse", server.password),
        }

    def postgres(self) -> dict[str, object]:
        """What the page's examples of the ledger are here: a database of its own."""
        server, database = self.box.postgres, fresh_name()
        server.create_database(database)
        return {
            "postgresql://icekeeper@postgres.example.com:5432/icekeeper": server.dsn(database),
            "/etc/icekeeper/secrets/postgres": self.secret("postgres", server.password),
        }

    def command(self, *arguments: str) -> Any:
        """The document that a command answers; it has to succeed."""
        done = icekeeper(*arguments, "--json", config=self.config, timeout=PATIENCE_S)
        return document(succeeded(done))

    @contextmanager
    def daemon(self, at: datetime | None = None) -> Iterator[Daemon]:
        """The daemon, once it answers; its clock shows `at` when it starts."""
        settings = yaml.safe_load(self.config.read_text())
        base = f"http://{settings['http']['listen']}"
        self.prepare()
        with running("serve", config=self.config, log=self.directory / "stderr", at=at):
            wait_for("the daemon", lambda: fetch(f"{base}/livez"), seconds=PATIENCE_S)
            yield Daemon(base)

    def prepare(self) -> None:
        """The page's first commands."""
        assert self.command("config", "check")["ok"]
        if "postgres" in yaml.safe_load(self.config.read_text()):
            succeeded(icekeeper("migrate", config=self.config))

    def night(self) -> dict[str, Any]:
        """The first night, by the page's commands in their order; its report."""
        self.prepare()
        slot = slot_after(audited_day())
        night: dict[str, Any] = self.command("run", "--slot", f"{slot:%Y-%m-%dT%H:%M}Z")
        return night


@dataclass(frozen=True)
class Daemon:
    """A daemon by the address at which it is asked; what it is ordered needs the token."""

    base: str
    tls: ssl.SSLContext | None = None

    def page(self, path: str) -> str:
        return self._answer(urllib.request.Request(self.base + path)).decode()

    def plan(self) -> dict[str, Any] | None:
        """What a night would do; None while the session starts."""
        try:
            return self.ask("GET", "/api/v1/plan")
        except urllib.error.HTTPError as exc:
            exc.close()
            if exc.code == HTTPStatus.SERVICE_UNAVAILABLE:
                return None
            raise

    def ask(self, method: str, path: str, body: bytes | None = None) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.base + path, body, headers, method=method)
        answer: dict[str, Any] = json.loads(self._answer(request))
        return answer

    def night(self, slot: datetime) -> dict[str, Any]:
        """Orders a night, and waits for its report."""
        asked = json.dumps({"slot": f"{slot:%Y-%m-%dT%H:%M}:00Z"}).encode()
        run_id = self.ask("POST", "/api/v1/runs", asked)["run_id"]

        def ended() -> dict[str, Any] | None:
            run = self.ask("GET", f"/api/v1/runs/{run_id}")
            return run if run["outcome"] is not None else None

        return wait_for("the end of the night", ended, seconds=PATIENCE_S)

    def _answer(self, request: urllib.request.Request) -> bytes:
        with urllib.request.urlopen(request, timeout=PATIENCE_S, context=self.tls) as answer:
            return bytes(answer.read())


def hours_away() -> dict[str, str]:
    """A schedule by which a daemon of now neither begins a night by itself nor catches one up."""
    at = datetime.now(UTC) + timedelta(hours=6)
    return {"cron": f"{at.minute} {at.hour} * * *"}


def fresh_name() -> str:
    return f"shop{uuid4().hex[:8]}"


def succeeded(done: subprocess.CompletedProcess[str]) -> subprocess.CompletedProcess[str]:
    assert done.returncode == 0, f"exit code {done.returncode}:\n{done.stdout}\n{done.stderr[-4000:]}"
    return done


def judge(site: Site, night: Mapping[str, Any], before: Content, after: Content, *, audited: date | None) -> None:
    """The table was compacted, expired and audited (that day, where it has a source), holds the rows that it held, and
    the ledger has the run."""
    stages = ["compact", "expire", *(["audit"] if audited is not None else [])]
    assert night["outcome"] == "success", night
    assert [(task["stage"], task["table"], task["outcome"]) for task in night["tasks"]] == [
        (stage, TABLE, "done") for stage in stages
    ]
    judge_table(before, after)
    if audited is not None:
        (audit,) = night["audits"]
        day = [before.rows["placed_at"][place].as_py().date() for place in range(before.rows.num_rows)]
        rows = day.count(audited)
        assert rows > 0
        assert (audit["status"], audit["ch_row_count"], audit["iceberg_row_count"]) == ("ok", rows, rows), audit
    kept = site.command("history", night["run_id"])
    assert (kept["run_id"], kept["outcome"]) == (night["run_id"], "success")
    assert [(task["stage"], task["outcome"]) for task in kept["tasks"]] == [(stage, "done") for stage in stages]


def judge_table(before: Content, after: Content) -> None:
    assert after.rows.equals(before.rows)
    assert before.files > after.files
    assert (after.files, after.snapshots) == KEPT
