"""What an older version left behind goes on under this one: its ledger, spool, state directory and settings.

tests/upgrade/VERSION/ holds it as that version's own code wrote it, once:

- `icekeeper.yaml`: a configuration with values of every kind;
- `ledger.sql`: the dump of a ledger (pg_dump --inserts) whose audit log was adopted, with runs of every outcome;
- `spool.sql`: the dump of a spool (sqlite3 .dump and its user_version) whose newest run, an open run and two readings
  of the configuration PostgreSQL does not have, one of them quarantined; with waiting notifications and an open slot;
- `state/`: the other files of that state directory: the log of each run, and a pause;
- `answers.json`: what commands of that version printed of it with --json. A later version may add keys.

A release adds a directory of its own here; the addresses and names in it are those of 0.1.0.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from icekeeper.adapters.ledger.sql.migrations import pending
from icekeeper.adapters.spool.spool import OpenSlot, Spool
from icekeeper.core.enums import Stage, Trigger
from icekeeper.sandbox.servers.postgres import Postgres as Server
from icekeeper.sandbox.servers.process import Janitor
from tests.process.program import document, icekeeper, metrics, running, wait_for
from tests.process.test_notify import free_port, receiving

VERSIONS = sorted(path for path in (Path(__file__).parents[1] / "upgrade").iterdir() if path.is_dir())
PASSWORD = "s3cr3t/p@ss:w'rd"
SLOT = datetime(2026, 2, 18, 2, tzinfo=UTC)
# The run that waits to be shipped, and the one whose process died within its second task.
WAITING, OPEN = (f"0189a1b2-0000-4000-8000-{number:012x}" for number in (7, 8))
SECRETS = ("s3-access-key", "s3-secret-key", "clickhouse-password", "icekeeper-token")


@dataclass(frozen=True)
class Installation:
    """An installation of an older version, restored with this version as its program."""

    config: Path
    state_dir: Path
    secrets: Path
    dsn: str
    answers: dict[str, Any]
    http_port: int
    notify_port: int

    def ask(self, *arguments: str) -> Any:
        done = icekeeper(*arguments, "--json", config=self.config)
        assert done.returncode == 0, done.stderr
        return document(done)

    def samples(self) -> dict[str, float]:
        return metrics(f"http://127.0.0.1:{self.http_port}")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    janitor = Janitor()
    with ExitStack() as stack:
        stack.callback(janitor.dismiss)
        server = Server(tmp_path_factory.mktemp("pg"), janitor, password=PASSWORD)
        server.start()
        stack.callback(server.stop)
        yield server


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
async def installed(request: pytest.FixtureRequest, server: Server, tmp_path: Path) -> Installation:
    old: Path = request.param
    database = f"of_{old.name.replace('.', '_')}_{tmp_path.name[-8:]}".lower()
    server.create_database(database)
    dsn = server.dsn(database)
    connection = await asyncpg.connect(dsn, password=PASSWORD)
    await connection.execute((old / "ledger.sql").read_text())
    await connection.close()

    secrets, state_dir = tmp_path / "secrets", tmp_path / "state"
    http_port, notify_port, closed_port = free_port(), free_port(), free_port()
    secrets.mkdir()
    for name in SECRETS:
        (secrets / name).write_text(f"hush-{name}")
    (secrets / "postgres-password").write_text(PASSWORD)
    (secrets / "slack").write_text(f"json://127.0.0.1:{notify_port}/slack")

    shutil.copytree(old / "state", state_dir)
    with sqlite3.connect(state_dir / "spool.db") as spool:
        spool.executescript((old / "spool.sql").read_text().replace("/run/secrets", str(secrets)))
    spool.close()

    config = tmp_path / "icekeeper.yaml"
    text = (old / "icekeeper.yaml").read_text()
    for there, here in {
        "postgresql://icekeeper@127.0.0.1:5432/icekeeper": dsn,
        "/var/lib/icekeeper": str(state_dir),
        "/run/secrets": str(secrets),
        "127.0.0.1:9420": f"127.0.0.1:{http_port}",
        "127.0.0.1:8085": f"127.0.0.1:{notify_port}",
        # The catalog, the store and ClickHouse are away: a run fails at once, and no session is started for it.
        **{f"127.0.0.1:{port}": f"127.0.0.1:{closed_port}" for port in (8181, 9000, 8123)},
    }.items():
        text = text.replace(there, here)
    config.write_text(text)
    answers = json.loads((old / "answers.json").read_text())
    return Installation(config, state_dir, secrets, dsn, answers, http_port, notify_port)


def assert_still_says(new: Any, old: Any, where: str) -> None:
    """Whatever the old version said is still there, under the same keys."""
    if isinstance(old, dict):
        assert isinstance(new, dict), where
        for key, value in old.items():
            assert key in new, f"{where}.{key}"
            assert_still_says(new[key], value, f"{where}.{key}")
    elif isinstance(old, list):
        assert len(new) == len(old), where
        if old and isinstance(old[0], dict) and {"run_id", "started_at"} <= old[0].keys():
            # Runs that began in the same instant have no order among themselves.
            new, old = (sorted(runs, key=lambda run: (run["started_at"], run["run_id"])) for runs in (new, old))
        for number, (one, other) in enumerate(zip(new, old, strict=True)):
            assert_still_says(one, other, f"{where}[{number}]")
    else:
        assert new == old, where


@pytest.mark.parametrize("old", VERSIONS, ids=lambda path: path.name)
def test_the_settings_load_and_mean_what_they_meant(old: Path, tmp_path: Path) -> None:
    for name in (*SECRETS, "postgres-password"):
        (tmp_path / name).write_text("hush")
    (tmp_path / "slack").write_text("json://127.0.0.1:8086/x")
    config = tmp_path / "icekeeper.yaml"
    config.write_text((old / "icekeeper.yaml").read_text().replace("/run/secrets", str(tmp_path)))
    checked = icekeeper("config", "check", config=config)
    assert checked.returncode == 0, checked.stderr
    for key in ("spark.master", "compact.strategy"):  # it has the slower way of 0.1 in it, and keeps it
        assert f"set {key} to auto" in checked.stderr
    shown = icekeeper("config", "show", "--json", config=config)
    assert shown.returncode == 0, shown.stderr
    answers = json.loads((old / "answers.json").read_text())
    now = json.loads(shown.stdout.replace(str(tmp_path), "/run/secrets"))
    # Since then also stages that are held, and sources that are empty, day after day are notified by default.
    for occasion in ("held", "source_empty"):
        now["notify"][1]["on"].remove(occasion)
    assert_still_says(now, answers["config show"], "config show")


@pytest.mark.long
async def test_what_waited_goes_on_and_nothing_is_lost_or_done_twice(installed: Installation) -> None:
    await asyncio.to_thread(installed.ask, "migrate")
    assert await pending(installed.dsn, PASSWORD) == []

    # What commands read of the ledger and the spool.
    for question, answer in installed.answers.items():
        if question != "config show":
            now = await asyncio.to_thread(installed.ask, *question.split())
            assert_still_says(now, answer, question)

    # What waits in the spool.
    spool = await Spool.open(installed.state_dir)
    assert await spool.open_slots() == (OpenSlot(SLOT, Trigger.SCHEDULE),)
    assert await spool.accounted_until() == SLOT
    (died,) = await spool.unfinished()
    assert (str(died.run_id), died.in_flight) == (OPEN, (Stage.COMPACT, "cold.bronze_trades_kraken"))
    assert [task.table for task in died.tasks] == ["cold.bronze_trades_binance"]
    await spool.close()
    assert not spool.corrupt_files()
    assert (await asyncio.to_thread(installed.ask, "spool", "--retry"))["retried"] == 1

    came = await asyncio.to_thread(_serve, installed)

    # Both targets got the message that waited and the one of the resumed night, and none that was delivered before.
    titles = sorted(message["title"].removeprefix("icekeeper: ") for message in came)
    assert titles == [f"failed, slot 2026-02-{day} 02:00 UTC" for day in (17, 17, 18, 18)]

    connection = await asyncpg.connect(installed.dsn, password=PASSWORD)
    try:
        await _check_the_ledger(connection, installed)
    finally:
        await connection.close()


def _serve(installed: Installation) -> list[Any]:
    """The daemon at work until all that waited has gone; the messages that it sent."""
    log = installed.state_dir.with_name("stderr")
    at = SLOT + timedelta(minutes=6)
    with (
        receiving(installed.notify_port) as came,
        running("serve", config=installed.config, log=log, at=at) as daemon,
    ):
        wait_for("the records to be shipped", lambda: installed.samples().get("icekeeper_spool_records") == 0)
        wait_for("the messages", lambda: len(came) >= 2)
        assert installed.samples()["icekeeper_paused"] == 1
        assert icekeeper("unpause", config=installed.config).returncode == 0
        wait_for("the resumed night", lambda: installed.samples().get('icekeeper_runs_total{outcome="failed"}') == 1)
        wait_for("its messages", lambda: len(came) >= 4)
        wait_for("its record", lambda: installed.samples().get("icekeeper_spool_records") == 0)
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0, log.read_text()
    return came


async def _check_the_ledger(connection: Any, installed: Installation) -> None:
    runs = {
        str(row["run_id"]): row
        for row in await connection.fetch("SELECT * FROM maintenance_runs ORDER BY started_at, run_id")
    }
    before = {run["run_id"] for run in installed.answers["history"]}
    (resumed,) = set(runs) - before - {WAITING, OPEN}
    assert set(runs) == {*before, WAITING, OPEN, resumed}
    assert (runs[WAITING]["outcome"], runs[WAITING]["host"]) == ("failed", "ice1")
    assert (runs[OPEN]["outcome"], runs[OPEN]["host"]) == ("interrupted", "ice1")
    assert (runs[resumed]["trigger"], runs[resumed]["slot"]) == ("resume", SLOT)

    async def count(table: str, run_id: str) -> int:
        number: int = await connection.fetchval(f"SELECT count(*) FROM {table} WHERE run_id = $1", run_id)
        return number

    assert [await count(f"maintenance_{table}", WAITING) for table in ("tasks", "audit_log", "logs")] == [9, 3, 3]
    tasks = await connection.fetch("SELECT * FROM maintenance_tasks WHERE run_id = $1 ORDER BY position", OPEN)
    assert [(task["stage"], task["iceberg_table"], task["outcome"]) for task in tasks] == [
        ("compact", "cold.bronze_trades_binance", "done"),
        ("compact", "cold.bronze_trades_kraken", "failed"),  # the process died within it
    ]
    assert await connection.fetchval("SELECT count(*) FROM maintenance_audit_log WHERE run_id IS NULL") == 1
    loads = await connection.fetch("SELECT loaded_by FROM maintenance_config_loads ORDER BY loaded_at")
    assert [load["loaded_by"] for load in loads] == ["boot", "sighup", "http", "boot"], "the last is this version's own"

    # All of it is of the one installation, also what waited in the spool.
    (mine,) = await connection.fetch("SELECT installation_id, name FROM maintenance_installations")
    kept = json.loads((installed.state_dir / "installation.json").read_text())
    assert kept == {"id": str(mine["installation_id"]), "name": mine["name"]}
    for table in ("runs", "audit_log", "acks", "evidence"):
        others = (
            f"SELECT count(*) FROM maintenance_{table} WHERE installation_id IS DISTINCT FROM $1 AND run_id IS NOT NULL"
        )
        assert await connection.fetchval(others, mine["installation_id"]) == 0, table

    # The finding of the run that waited is open beside those that were.
    now = await asyncio.to_thread(installed.ask, "ack")
    were = {(finding["table"], finding["day"]) for finding in installed.answers["ack"]["open"]}
    found = {(finding["table"], finding["day"]) for finding in now["open"]}
    assert ("cold.gold_ohlcv_1m", "2026-02-16") in found - were
    assert were <= found
    assert_still_says(now["acknowledged"], installed.answers["ack"]["acknowledged"], "ack")
