"""Two daemons and one PostgreSQL: one leads, the other stands by and takes over."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.adapters.postgres.lease import Lease
from icekeeper.sandbox import Sandbox, WorldSpec
from icekeeper.sandbox.servers.process import free_ports
from tests.conftest import BINANCE, COINBASE, GOLD, SLOT, write_settings
from tests.process.program import fetch, icekeeper, metrics, running, wait_for

# What the promise is; on one machine the kernel closes a dead leader's connection at once.
TAKEN_OVER_S = 30.0


@pytest.mark.long
def test_a_leader_that_is_killed_in_a_compaction_is_followed_by_its_standby_which_ends_the_night(
    box: Sandbox, tmp_path: Path
) -> None:
    tables = (COINBASE, BINANCE, GOLD)
    spec = WorldSpec(now=SLOT, days=1.25, tables=tables, commits_per_day=48, rows_per_file=10, symbols=6)
    world = box.world(spec)

    def settings(name: str) -> Path:
        def shared(document: dict[str, Any]) -> None:
            document["replicas"] = True
            document["http"]["listen"] = f"127.0.0.1:{free_ports(1)[0]}"

        return write_settings(world, tmp_path / f"{name}.yaml", tmp_path / name, shared)

    def base(config: Path) -> str:
        return "http://" + str(yaml.safe_load(config.read_text())["http"]["listen"])

    def logged(log: Path, event: str) -> bool:
        return log.exists() and f'"event": "{event}"' in log.read_text()

    first, second = settings("first"), settings("second")
    first_log, second_log = tmp_path / "first.log", tmp_path / "second.log"
    assert icekeeper("migrate", config=first).returncode == 0
    rows = {table: world.rows_iceberg(table) for table in tables}
    start = SLOT - timedelta(seconds=30)

    with running("serve", config=first, log=first_log, at=start) as leader:
        began = time.monotonic()
        wait_for("the leader", lambda: metrics(base(first)).get("icekeeper_leader") == 1)
        now = start + timedelta(seconds=time.monotonic() - began + 1)
        with running("serve", config=second, log=second_log, at=now) as standby:
            wait_for("the standby", lambda: fetch(f"{base(second)}/livez"))
            assert metrics(base(second))["icekeeper_leader"] == 0
            assert json.loads(fetch(f"{base(second)}/readyz") or "")["parts"]["lease"] == "waiting"
            refused = icekeeper("run", "--slot", f"{SLOT - timedelta(days=1):%Y-%m-%d}", config=second)
            assert refused.returncode == 4
            assert "this daemon stands by" in refused.stderr

            wait_for("the night to begin", lambda: logged(first_log, "task_done"))
            os.kill(leader.pid, signal.SIGKILL)
            killed_at = time.monotonic()
            wait_for("the standby to lead", lambda: metrics(base(second)).get("icekeeper_leader") == 1, TAKEN_OVER_S)
            assert time.monotonic() - killed_at < TAKEN_OVER_S
            ended = 'icekeeper_runs_total{outcome="success"}'
            wait_for("the night to end", lambda: metrics(base(second)).get(ended) == 1)
            os.kill(standby.pid, signal.SIGTERM)
            assert standby.wait(60) == 0

    query = "SELECT outcome, trigger FROM maintenance_runs ORDER BY started_at"
    assert world.postgres.execute(world.postgres_database, query) == [
        ("interrupted", "schedule"),
        ("success", "resume"),
    ]
    query = "SELECT iceberg_table, status FROM maintenance_audit_log ORDER BY iceberg_table"
    audits = world.postgres.execute(world.postgres_database, query)
    assert audits == [(table, "ok") for table in sorted(tables)]
    assert {table: world.rows_iceberg(table) for table in tables} == rows


@pytest.mark.long
def test_a_slot_that_comes_while_none_of_the_very_first_daemons_leads_is_done_by_the_next_leader(
    box: Sandbox, tmp_path: Path
) -> None:
    world = box.world(WorldSpec(now=SLOT, days=1.25, tables=(GOLD,), commits_per_day=4, rows_per_file=10, symbols=6))

    def replicas(document: dict[str, Any]) -> None:
        document["replicas"] = True

    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state", replicas), tmp_path / "log"
    base = "http://" + str(yaml.safe_load(config.read_text())["http"]["listen"])
    assert icekeeper("migrate", config=config).returncode == 0
    document = yaml.safe_load(config.read_text())["postgres"]
    with asyncio.Runner() as loop:
        gone_soon = Lease(document["dsn"], world.postgres.password, host="gone-soon")
        loop.run(gone_soon.acquire())
        with running("serve", config=config, log=log, at=SLOT - timedelta(seconds=20)) as daemon:
            wait_for("the daemon", lambda: fetch(f"{base}/livez"))
            following = (SLOT + timedelta(days=1)).timestamp()
            wait_for("the slot", lambda: metrics(base).get("icekeeper_next_run_timestamp_seconds") == following)
            loop.run(gone_soon.release())
            ended = 'icekeeper_runs_total{outcome="success"}'
            wait_for("the night to end", lambda: metrics(base).get(ended) == 1)
            os.kill(daemon.pid, signal.SIGTERM)
            assert daemon.wait(60) == 0
    query = "SELECT outcome, trigger, slot FROM maintenance_runs"
    assert world.postgres.execute(world.postgres_database, query) == [("success", "catch_up", SLOT)]
