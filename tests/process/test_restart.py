"""The daemon dies, is down, comes back: each slot is done once, and the ledger tells what happened."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox, World, WorldSpec
from icekeeper.service.supervisor import STOP_S
from tests.conftest import COINBASE, GOLD, SLOT, write_settings
from tests.process.program import children, icekeeper, metrics, running, wait_for

DAY = timedelta(days=1)


@pytest.fixture
def world(box: Sandbox) -> World:
    spec = WorldSpec(now=SLOT, days=1.25, tables=(COINBASE, GOLD), commits_per_day=24, rows_per_file=10, symbols=6)
    return box.world(spec)


def runs(world: World) -> list[tuple[Any, ...]]:
    query = "SELECT outcome, trigger, slot FROM maintenance_runs ORDER BY slot, started_at"
    return world.postgres.execute(world.postgres_database, query)


def audits(world: World) -> list[tuple[Any, ...]]:
    query = "SELECT slot, iceberg_table, status FROM maintenance_audit_log ORDER BY slot, iceberg_table"
    return world.postgres.execute(world.postgres_database, query)


def lines(log: Path, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == event]


def in_flight(state_dir: Path) -> list[tuple[str, str]]:
    """Stage and table of the task that a run is at, as the spool has it."""
    query = "SELECT in_flight_stage, in_flight_table FROM runs WHERE in_flight_table IS NOT NULL"
    with closing(sqlite3.connect(f"file:{state_dir}/spool.db?mode=ro", uri=True)) as spool:
        return spool.execute(query).fetchall()


def tasks_done(log: Path) -> set[tuple[str, str]]:
    return {(line["stage"], line["table"]) for line in lines(log, "task_done")}


def gone(family: list[psutil.Process]) -> bool:
    return not [one for one in family if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.long
def test_killed_in_the_middle_down_for_days_and_stopped_twice(world: World, tmp_path: Path) -> None:
    config, state = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state"), tmp_path / "state"
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0
    rows = {table: world.rows_iceberg(table) for table in (COINBASE, GOLD)}

    first = tmp_path / "first"
    with running("serve", config=config, log=first, at=SLOT - timedelta(seconds=15)) as daemon:
        wait_for("a task to be done", lambda: first.exists() and '"task_done"' in first.read_text())
        family = children(daemon.pid)
        (jvm,) = [one for one in family if one.name() == "java"]
        jvm.suspend()  # one that can't notice that we are gone must go all the same
        wait_for("a task to be under way", lambda: set(in_flight(state)) - tasks_done(first))
        os.kill(daemon.pid, signal.SIGKILL)
        daemon.wait(10)
        wait_for("the JVM to be gone", lambda: gone(family), seconds=10)
    assert (state / "spool.db").exists()

    half_past_two, resumed = SLOT + timedelta(minutes=30), tmp_path / "resumed"
    with running("serve", config=config, log=resumed, at=half_past_two) as daemon:
        wait_for("the slot to be closed", lambda: len(runs(world)) == 2 and runs(world)[1][0])
        assert runs(world) == [("interrupted", "schedule", SLOT), ("success", "resume", SLOT)]
        (dead,) = lines(resumed, "run_found_dead")
        assert dead["trigger"] == "schedule"
        query = "SELECT outcome, error FROM maintenance_tasks WHERE reason = $1"
        died = world.postgres.execute(world.postgres_database, query, Reason.PROCESS_DIED.value)
        assert died == [("failed", "the process died while this was under way")]
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0
    assert audits(world) == [(SLOT, COINBASE, "ok"), (SLOT, GOLD, "ok")]
    assert {table: world.rows_iceberg(table) for table in rows} == rows

    # Nothing is owed when it starts once more the same night; then it is down for three days.
    later, missed = SLOT + 3 * DAY + timedelta(minutes=30), tmp_path / "missed"
    with running("serve", config=config, log=missed, at=later) as daemon:
        wait_for("the last slot to be closed", lambda: len(runs(world)) == 5 and runs(world)[4][0])
        assert runs(world)[2:] == [
            ("missed", "catch_up", SLOT + DAY),
            ("missed", "catch_up", SLOT + 2 * DAY),
            ("success", "catch_up", SLOT + 3 * DAY),
        ]
        assert metrics(base)["icekeeper_next_run_timestamp_seconds"] == (SLOT + 4 * DAY).timestamp()

        family = children(daemon.pid)
        (jvm,) = [one for one in family if one.name() == "java"]
        jvm.suspend()  # it does not end when it is asked to
        os.kill(daemon.pid, signal.SIGTERM)
        wait_for("the stop", lambda: lines(missed, "service_stopping"))
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(min(STOP_S.values())) == 130  # it waits for no step, not even for the shortest
        wait_for("the JVM to be gone", lambda: gone(family), seconds=10)


def test_a_stop_does_not_wait_for_a_session_that_never_comes_up(world: World, tmp_path: Path) -> None:
    def slow(document: dict[str, Any]) -> None:
        # A Java that hangs before Spark is there, as a download of jars may.
        document["spark"]["home"] = str(tmp_path / "spark")

    submit = tmp_path / "spark" / "bin" / "spark-submit"
    submit.parent.mkdir(parents=True)
    submit.write_text("#!/bin/sh\nexec sleep 600\n")
    submit.chmod(0o755)
    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state", slow), tmp_path / "stderr"
    assert icekeeper("migrate", config=config).returncode == 0
    with running("serve", config=config, log=log, at=SLOT + timedelta(hours=1)) as daemon:
        wait_for("the start of Spark", lambda: [one for one in children(daemon.pid) if one.name() == "sleep"])
        family = children(daemon.pid)
        began = time.monotonic()
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(30) == 0
        assert time.monotonic() - began < 25  # a start may take minutes
        assert gone(family)
    assert not lines(log, "step_overran")


@pytest.mark.long
def test_postgresql_that_is_away_when_the_daemon_starts_holds_up_no_night(
    world: World, box: Sandbox, tmp_path: Path
) -> None:
    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state"), tmp_path / "stderr"
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0
    good = config.read_text()
    document = yaml.safe_load(good)
    reached = document["postgres"]["dsn"]
    document["postgres"]["dsn"] = reached.replace(f":{box.postgres.port}/", ":1/")
    document["catalog"] = {**document["catalog"]}
    config.write_text(yaml.safe_dump(document))
    with running("serve", config=config, log=log, at=SLOT - timedelta(seconds=15)) as daemon:
        ended = 'icekeeper_runs_total{outcome="success"}'
        wait_for("the night to end", lambda: metrics(base).get(ended) == 1)
        seen = metrics(base)
        assert (seen["icekeeper_ledger_up"], runs(world)) == (0, [])
        wait_for("the record to be counted", lambda: metrics(base)["icekeeper_spool_records"] >= 1)
        config.write_text(good)  # the server is back: here, under its old name
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for("the run in the ledger", lambda: runs(world))
        wait_for("the spool to be empty", lambda: metrics(base)["icekeeper_spool_records"] == 0)
        assert runs(world) == [("success", "schedule", SLOT)]
        assert audits(world) == [(SLOT, COINBASE, "ok"), (SLOT, GOLD, "ok")]
        (loads,) = world.postgres.execute(
            world.postgres_database, "SELECT count(*) FROM maintenance_config_loads WHERE loaded_by = 'sighup'"
        )
        assert loads == (1,)
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0
