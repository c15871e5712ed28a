"""The real daemon: it runs the night at its 02:00, is scraped meanwhile, reloads, and stops in order."""

from __future__ import annotations

import json
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.sandbox import Sandbox, World, WorldSpec
from tests.conftest import COINBASE, GOLD, SLOT, write_settings
from tests.process.program import children, fetch, icekeeper, metrics, running, wait_for

# The daemon's clock when it starts: time enough to look around before the night.
BEFORE = SLOT - timedelta(seconds=15)
# Time enough for the program to start on a busy machine: a slot that passes before is none of this start's.
SHORTLY_BEFORE = SLOT - timedelta(seconds=10)

# Where it matters when a night begins and not what it does: no JVM comes up.
NO_SPARK = {"home": "/nowhere"}


@pytest.fixture
def world(box: Sandbox) -> World:
    spec = WorldSpec(now=SLOT, days=1.25, tables=(COINBASE, GOLD), commits_per_day=48, rows_per_file=10, symbols=6)
    return box.world(spec)


def edit(config: Path, **blocks: Any) -> None:
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **blocks}))


def runs(world: World) -> list[tuple[Any, ...]]:
    query = "SELECT outcome, trigger, slot FROM maintenance_runs ORDER BY started_at"
    return world.postgres.execute(world.postgres_database, query)


def test_serve_runs_the_night_at_its_slot_reloads_and_stops(world: World, tmp_path: Path) -> None:
    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state"), tmp_path / "stderr"
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0

    with running("serve", config=config, log=log, at=BEFORE) as daemon:
        wait_for("/livez", lambda: fetch(f"{base}/livez"))
        before = metrics(base)
        assert before["icekeeper_next_run_timestamp_seconds"] == SLOT.timestamp()
        assert before["icekeeper_run_in_progress"] == 0
        assert before['icekeeper_runs_total{outcome="success"}'] == 0
        assert before["icekeeper_config_last_reload_successful"] == 1

        wait_for("the night to begin", lambda: metrics(base).get("icekeeper_run_in_progress") == 1)
        assert fetch(f"{base}/livez") == "ok\n"
        wait_for("the night to end", lambda: metrics(base).get('icekeeper_runs_total{outcome="success"}') == 1)
        after = metrics(base)
        assert after['icekeeper_last_run_outcome{outcome="success"}'] == 1
        assert after[f'icekeeper_audit_status{{status="ok",table="{COINBASE}"}}'] == 1
        assert after[f'icekeeper_table_data_files{{table="{GOLD}"}}'] < 10
        assert after["icekeeper_next_run_timestamp_seconds"] == (SLOT + timedelta(days=1)).timestamp()
        assert after["icekeeper_engine_up"] == 1
        wait_for("the end of the run in the ledger", lambda: [run for run in runs(world) if run[0]])
        assert runs(world) == [("success", "schedule", SLOT)]

        good = config.read_text()
        edit(config, schedule={"cron": "0 25 * * *"})
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for("the refusal", lambda: metrics(base)["icekeeper_config_last_reload_successful"] == 0)
        assert "schedule.cron" in log.read_text()
        assert metrics(base)["icekeeper_next_run_timestamp_seconds"] == after["icekeeper_next_run_timestamp_seconds"]

        config.write_text(good)
        edit(config, schedule={"cron": "30 3 * * *"})
        os.kill(daemon.pid, signal.SIGHUP)
        half_past_three = SLOT.replace(hour=3, minute=30).timestamp()
        wait_for("the new slot", lambda: metrics(base)["icekeeper_next_run_timestamp_seconds"] == half_past_three)
        assert metrics(base)["icekeeper_config_last_reload_successful"] == 1

        family = children(daemon.pid)
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0
        assert not [member for member in family if member.is_running() and member.status() != "zombie"]


def test_sigterm_in_the_middle_of_a_night_records_it_as_interrupted(world: World, tmp_path: Path) -> None:
    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state"), tmp_path / "stderr"
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0

    with running("serve", config=config, log=log, at=SHORTLY_BEFORE) as daemon:
        wait_for("the night to begin", lambda: metrics(base).get("icekeeper_run_in_progress") == 1)
        wait_for("a JVM", lambda: "engine_started" in log.read_text())
        family = children(daemon.pid)
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0
        assert family
        assert not [member for member in family if member.is_running() and member.status() != "zombie"]
    assert runs(world) == [("interrupted", "schedule", SLOT)]
    # What was begun and not finished left the table whole.
    assert world.rows_iceberg(COINBASE) > 0


@pytest.mark.long
def test_a_slot_that_comes_due_in_a_pause_waits_and_begins_when_that_is_over(world: World, tmp_path: Path) -> None:
    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state"), tmp_path / "stderr"
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0
    edit(config, spark=NO_SPARK)
    (tmp_path / "state").mkdir(mode=0o700)  # as the daemon makes it
    assert icekeeper("pause", "--note", "moving the warehouse", config=config).returncode == 0

    with running("serve", config=config, log=log, at=SHORTLY_BEFORE) as daemon:
        wait_for("the slot to be held", lambda: "slot_paused" in log.read_text())
        paused = metrics(base)
        assert (paused["icekeeper_paused"], paused["icekeeper_paused_until_timestamp_seconds"]) == (1, 0)
        assert paused["icekeeper_next_run_timestamp_seconds"] == (SLOT + timedelta(days=1)).timestamp()
        assert "run_started" not in log.read_text()
        assert icekeeper("unpause", config=config).returncode == 0
        wait_for("the night to begin", lambda: runs(world))
        assert metrics(base)["icekeeper_paused"] == 0
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0
    assert runs(world) == [("interrupted", "catch_up", SLOT)]
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert sum(line["event"] == "slot_paused" for line in logged) == 1
    assert "moving the warehouse" in next(line["message"] for line in logged if line["event"] == "slot_paused")


@pytest.mark.long
def test_a_slot_that_waited_too_long_is_recorded_as_missed_and_open_findings_are_shown(
    world: World, tmp_path: Path
) -> None:
    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state"), tmp_path / "stderr"
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    edit(config, schedule={"catch_up": "3s"}, spark=NO_SPARK)
    assert icekeeper("migrate", config=config).returncode == 0
    world.postgres.execute(
        world.postgres_database,
        """
        INSERT INTO maintenance_audit_log (run_id, run_timestamp, iceberg_table, ch_source, layer, audit_window_hours,
          window_start, window_end, delta, status, installation_id)
        SELECT gen_random_uuid(), '2026-02-17 02:05Z', $1, 'x', 'bronze', 24, '2026-02-16 00:00Z', '2026-02-17 00:00Z',
          -100, 'missing_data', installation_id
        FROM maintenance_installations
        """,
        COINBASE,
    )
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "pause.json").write_text("this is no pause")

    with running("serve", config=config, log=log, at=SHORTLY_BEFORE) as daemon:
        open_days = f'icekeeper_open_findings{{status="missing_data",table="{COINBASE}"}}'
        wait_for("the open finding", lambda: metrics(base).get(open_days) == 1)
        assert metrics(base)[f'icekeeper_open_findings{{status="missing_data",table="{GOLD}"}}'] == 0
        wait_for("the missed slot", lambda: metrics(base).get('icekeeper_runs_total{outcome="missed"}') == 1)
        wait_for("its record", lambda: runs(world))
        assert runs(world) == [("missed", "catch_up", SLOT)]
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0
    assert "pause.json can't be read" in log.read_text()
    assert "slot_missed" in log.read_text()
    assert "missed" in icekeeper("history", config=config).stdout


def test_a_daemon_with_a_bad_configuration_does_not_start(tmp_path: Path) -> None:
    config = tmp_path / "icekeeper.yaml"
    config.write_text("tables: []\n")
    done = icekeeper("serve", config=config, fresh=True)
    assert done.returncode == 2
    assert "catalog is missing" in done.stderr


def test_a_port_that_is_taken_is_a_plain_error(world: World, tmp_path: Path, box: Sandbox) -> None:
    config = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state")
    edit(config, http={"listen": box.clickhouse.url.removeprefix("http://")})
    done = icekeeper("serve", config=config)
    assert done.returncode == 4
    assert "http.listen" in done.stderr
