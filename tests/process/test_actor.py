"""Who ordered a run, from the order to the ledger, the history and the page, on the real program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icekeeper.sandbox import Sandbox
from tests.conftest import SLOT
from tests.process.alone import TABLES, TOKEN, Alone, alone
from tests.process.program import document, fetch, icekeeper, wait_for

STAGES = ("--stage", "expire", "--table", TABLES[0], "--slot", f"{SLOT:%Y-%m-%d}")


def _ordered(daemon: Alone, **headers: str) -> str:
    """A run that ends in a moment, for there is no Spark; once the one before it is over."""
    body = json.dumps({"stages": ["expire"], "tables": [TABLES[0]]}).encode()
    headers |= {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json"}

    def begin() -> str | None:
        status, answer = daemon.ask("POST", "/api/v1/runs", body, **headers)
        assert status in (202, 409), answer
        return answer.get("run_id")

    run_id = wait_for("the run before", begin)
    query = "SELECT 1 FROM maintenance_runs WHERE run_id::text = $1 AND outcome IS NOT NULL"
    wait_for("the run", lambda: daemon.execute(query, run_id))
    return run_id


def _by_command(config: Path) -> str:
    def run() -> str | None:
        done = icekeeper("run", *STAGES, "--json", config=config)
        assert done.stdout or "another run is under way" in done.stderr, done.stderr
        return str(document(done)["run_id"]) if done.stdout else None

    return wait_for("the run before", run)


def _history(config: Path, run_id: str) -> Any:
    done = icekeeper("history", run_id, "--json", config=config)
    assert done.returncode == 0, done.stderr
    return document(done)["actor"]


def test_who_ordered_a_run_is_kept_with_it(box: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    http = {"trusted_proxies": ["127.0.0.1"], "user_header": "X-Auth-User"}
    with alone(box, tmp_path, nights=1, http=http) as daemon:
        by_proxy = _ordered(daemon, X_Auth_User="ann@example.com")
        unknown = _ordered(daemon, X_Forwarded_User="eve", X_Icekeeper_Actor="eve")
        monkeypatch.setenv("SUDO_USER", "bob")
        beside = _by_command(daemon.config)
        reloaded = icekeeper("reload", config=daemon.config)

        found = {run_id: _history(daemon.config, run_id) for run_id in (by_proxy, unknown, beside)}
        assert found == {by_proxy: "ann@example.com", unknown: None, beside: "bob"}
        _, listed = daemon.ask("GET", "/api/v1/runs")
        assert {run["run_id"]: run["actor"] for run in listed["items"] if run["run_id"] in found} == found
        assert "by ann@example.com on" in (fetch(f"{daemon.base}/runs/{by_proxy}") or "")
        assert " by " not in (fetch(f"{daemon.base}/runs/{unknown}") or "").partition("</dl>")[0]
        assert reloaded.returncode == 0, reloaded.stderr
        lines = [json.loads(line) for line in daemon.log.read_text().splitlines() if line.startswith("{")]
        assert [line.get("actor") for line in lines if line["event"] == "reloaded"] == ["bob"]
        config = daemon.config.read_text()
        daemon.config.write_text(config.replace("max_clock_skew: 3650d", "max_clock_skew: 3649d"))
        assert icekeeper("reload", config=daemon.config).returncode == 0
        kept = "SELECT loaded_by, actor FROM maintenance_config_loads WHERE loaded_by <> 'boot'"
        assert wait_for("the reload", lambda: daemon.execute(kept)) == [("http", "bob")]
        shown = icekeeper("history", by_proxy, config=daemon.config).stdout
        assert "manual by ann@example.com  failed" in shown
