"""Reloading a daemon that runs: what each change does, what is refused, and that a storm disturbs nothing."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.sandbox import Sandbox, World, WorldSpec
from icekeeper.sandbox.servers.process import free_ports
from tests.conftest import BINANCE, COINBASE, GOLD, SLOT, write_settings
from tests.process.program import fetch, icekeeper, metrics, running, wait_for

TOKEN = "let-me-in"


@pytest.fixture
def world(box: Sandbox) -> World:
    tables = (COINBASE, BINANCE, GOLD)
    spec = WorldSpec(now=SLOT, days=1.25, tables=tables, commits_per_day=48, rows_per_file=10, symbols=6)
    return box.world(spec)


def post(url: str, token: str | None) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, method="POST")
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refused:
        return refused.code, json.loads(refused.read())


def lines(log: Path, event: str) -> list[dict[str, Any]]:
    return [line for line in map(json.loads, log.read_text().splitlines()) if line["event"] == event]


@pytest.mark.timing
def test_a_storm_of_reloads_during_a_night_disturbs_nothing_and_the_loop_is_never_held_up(
    world: World, tmp_path: Path
) -> None:
    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state"), tmp_path / "stderr"
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0
    good, bad = config.read_text(), "tables: []\n"
    slower = yaml.safe_dump({**yaml.safe_load(good), "compact": {"timeout": "20m"}})
    lag, over = [0.0], threading.Event()

    with running("serve", config=config, log=log, at=SLOT - timedelta(seconds=8)) as daemon:
        wait_for("/livez", lambda: fetch(f"{base}/livez"))

        def storm() -> None:
            for text in _for_ever(good, bad, slower, bad):
                if over.is_set():
                    return
                (new := config.with_suffix(".new")).write_text(text)
                new.replace(config)  # half a file is another test
                os.kill(daemon.pid, signal.SIGHUP)
                time.sleep(0.05)

        wait_for("the night to begin", lambda: metrics(base).get("icekeeper_run_in_progress") == 1)
        metrics(base)  # from here on the loop's lag is the night's
        storming = threading.Thread(target=storm)
        storming.start()
        try:

            def ended() -> bool:
                seen = metrics(base)
                lag[0] = max(lag[0], seen["icekeeper_loop_lag_seconds"])
                return seen['icekeeper_runs_total{outcome="success"}'] == 1

            wait_for("the night to end", ended)
        finally:
            over.set()
            storming.join()
        config.write_text(good)
        os.kill(daemon.pid, signal.SIGHUP)
        wait_for("the good file", lambda: metrics(base)["icekeeper_config_last_reload_successful"] == 1)
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0
    # Nothing blocks it for long; on a busy machine a second process may have the core for a while.
    assert lag[0] < 1.0
    query = "SELECT outcome, trigger, settings_hash FROM maintenance_runs"
    ((outcome, trigger, digest),) = world.postgres.execute(world.postgres_database, query)
    assert (outcome, trigger) == ("success", "schedule")
    assert digest == lines(log, "config_loaded")[0]["settings_hash"]  # the run kept what it began with
    assert len(lines(log, "reload_failed")) > 3
    assert len(lines(log, "run_started")) == 1


def _for_ever(*texts: str) -> Any:
    while True:
        yield from texts


def test_every_change_takes_effect_and_is_reported_and_what_can_not_be_is_refused(world: World, tmp_path: Path) -> None:
    def change(document: dict[str, Any]) -> None:
        document["spark"]["home"] = "/nowhere"  # no JVM has a part in this
        document["http"]["token"] = TOKEN

    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state", change), tmp_path / "stderr"
    first = yaml.safe_load(config.read_text())
    base = "http://" + first["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0

    def edit(by: Callable[[dict[str, Any]], None]) -> None:
        document = yaml.safe_load(yaml.safe_dump(first))
        by(document)
        config.write_text(yaml.safe_dump(document))

    with running("serve", config=config, log=log, at=SLOT + timedelta(hours=1)) as daemon:
        wait_for("/livez", lambda: fetch(f"{base}/livez"))
        status, problem = post(f"{base}/-/reload", None)
        assert (status, problem["status"], problem["title"]) == (401, 401, "Unauthorized")
        assert post(f"{base}/-/reload", "guess")[0] == 401
        status, load = post(f"{base}/-/reload", TOKEN)
        assert (status, load["changes"], load["by"]) == (200, [], "http")

        edit(lambda document: document.update(schedule={"cron": "0 99 * * *"}))
        status, problem = post(f"{base}/-/reload", TOKEN)
        assert (status, problem["status"]) == (422, 422)
        assert "schedule.cron" in problem["problems"][0]
        assert metrics(base)["icekeeper_config_last_reload_successful"] == 0

        refused = icekeeper("reload", config=config)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert "schedule.cron" in refused.stderr
        config.write_text(yaml.safe_dump(first))
        assert icekeeper("reload", config=config).stdout == "nothing has changed\n"
        assert metrics(base)["icekeeper_config_last_reload_successful"] == 1

        edit(lambda document: document.update(state_dir=str(tmp_path / "elsewhere")))
        status, problem = post(f"{base}/-/reload", TOKEN)
        assert status == 422
        assert "state_dir: it can't change while the daemon runs" in problem["problems"][0]
        unserved = icekeeper("reload", config=config)
        assert unserved.returncode == 4
        (torn := tmp_path / "torn.yaml").write_text("tables: [")
        unreadable = icekeeper("reload", config=torn)
        assert (unreadable.returncode, "torn.yaml:" in unreadable.stderr) == (2, True)
        assert f"no daemon serves {tmp_path / 'elsewhere'}" in unserved.stderr
        assert not (tmp_path / "elsewhere").exists()

        def much(document: dict[str, Any]) -> None:
            document["schedule"] = {"cron": "30 3 * * *"}
            document["logs"] = {"level": "debug"}
            document["tables"] = [table for table in document["tables"] if table["name"] != GOLD]
            document["tables"][0]["compact"] = {"min_input_files": 7}
            document["postgres"]["password"] = "another"
            document["spark"]["driver_memory"] = "2g"
            document["expire"] = {"older_than": "14d"}

        edit(much)
        done = icekeeper("reload", "--json", config=config)
        assert done.returncode == 0
        changes = "\n".join(json.loads(done.stdout)["changes"])
        for line in (
            "schedule.cron: 0 2 * * * -> 30 3 * * *: rescheduled",
            "logs.level: info -> debug: applied",
            f"tables: {GOLD} dropped",
            f"tables: {first['tables'][0]['name']} changed",
            "postgres: a secret of it: pool rebuilt",
            "spark.driver_memory: 1g -> 2g: the session is recycled between runs",
            "expire.older_than: 7d -> 14d: from the next run on",
        ):
            assert line in changes, changes
        assert "another" not in changes + log.read_text()
        half_past_three = (SLOT.replace(hour=3, minute=30)).timestamp()
        assert metrics(base)["icekeeper_next_run_timestamp_seconds"] == half_past_three
        assert f'icekeeper_open_findings{{status="error",table="{GOLD}"}}' not in metrics(base)

        (port,) = free_ports(1)
        edit(lambda document: document["http"].update(listen=f"127.0.0.1:{port}"))
        # The request that moves the listener is answered where it came in.
        assert post(f"{base}/-/reload", TOKEN)[0] == 200
        moved = f"http://127.0.0.1:{port}"
        wait_for("the new address", lambda: fetch(f"{moved}/livez"))
        wait_for("the old one to be free", lambda: fetch(f"{base}/livez") is None)
        # Another host on the same port: the listener before has to go first.
        edit(lambda document: document["http"].update(listen=f"127.0.0.2:{port}"))
        assert post(f"{moved}/-/reload", TOKEN)[0] == 200
        wait_for("the same port elsewhere", lambda: fetch(f"http://127.0.0.2:{port}/livez"))
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0


@pytest.mark.long
def test_what_is_rotated_in_a_secret_file_is_taken_up_without_a_reload(world: World, tmp_path: Path) -> None:
    (token := tmp_path / "token").write_text("first")

    def change(document: dict[str, Any]) -> None:
        document["spark"]["home"] = "/nowhere"  # no JVM has a part in this
        document["http"]["token_file"] = str(token)

    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state", change), tmp_path / "stderr"
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0
    with running("serve", config=config, log=log, at=SLOT + timedelta(hours=1)) as daemon:
        wait_for("/livez", lambda: fetch(f"{base}/livez"))
        assert [post(f"{base}/-/reload", text)[0] for text in ("first", "second")] == [200, 401]
        token.write_text("")  # half of a rotation
        wait_for("the empty file", lambda: metrics(base).get("icekeeper_config_last_reload_successful") == 0, 60)
        assert post(f"{base}/-/reload", "first")[0] == 422, "the token in force is the old one"
        (tmp_path / "new").write_text("second")
        (tmp_path / "new").replace(token)
        wait_for("the new token", lambda: post(f"{base}/-/reload", "second")[0] == 200, 60)
        assert post(f"{base}/-/reload", "first")[0] == 401
        assert metrics(base)["icekeeper_config_last_reload_successful"] == 1
        assert [
            line["by"] for line in lines(log, "reload_failed") + lines(log, "reloaded") if line["by"] == "rotation"
        ] == ["rotation"] * 2
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0
