"""Commands beside a daemon that runs: it does their work in its own session, and says how that goes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from icekeeper.core.tables.state import MISMATCH_TAG
from icekeeper.sandbox import Sandbox, World, WorldSpec
from icekeeper.sandbox.table_shapes import SHAPES
from tests.conftest import COINBASE, GOLD, SLOT, write_settings
from tests.process.program import children, document, fetch, icekeeper, metrics, running, wait_for

DAY = f"{SLOT:%Y-%m-%d}"
SLOT_TEXT = f"{SLOT:%Y-%m-%dT%H:%MZ}"


@dataclass
class Served:
    """A world with a daemon whose clock shows an hour after the slot, so that it has nothing of its own to do."""

    world: World
    config: Path
    base: str
    log: Path
    pid: int

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]

    def jvms(self) -> list[psutil.Process]:
        return [child for child in children(self.pid) if child.name() == "java"]

    def runs(self) -> list[tuple[Any, ...]]:
        query = "SELECT outcome, trigger FROM maintenance_runs WHERE outcome IS NOT NULL ORDER BY started_at"
        return self.world.postgres.execute(self.world.postgres_database, query)


@pytest.fixture(scope="module")
def served(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    place = tmp_path_factory.mktemp("control")
    world = box.world(WorldSpec(now=SLOT, days=1.25, tables=(COINBASE, GOLD), rows_per_file=10, symbols=6))
    config, log = write_settings(world, place / "icekeeper.yaml", place / "state"), place / "stderr"
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0
    with running("serve", config=config, log=log, at=SLOT + timedelta(hours=1)) as daemon:
        wait_for("the session", lambda: metrics(base).get("icekeeper_engine_up") == 1)
        yield Served(world, config, base, log, daemon.pid)
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0


def test_a_plan_is_made_by_the_daemon_and_starts_no_second_session(served: Served) -> None:
    done = icekeeper("plan", "--slot", DAY, "--json", config=served.config)
    assert done.returncode == 0, done.stderr
    plans = document(done)["plans"]
    assert [plan["stage"] for plan in plans if plan["table"] == COINBASE] == ["compact", "expire", "audit"]
    assert plans[0]["decision"] == "act"
    assert len(served.jvms()) == 1
    assert served.runs() == []


def test_a_run_is_done_by_the_daemon_and_its_report_is_the_commands(served: Served) -> None:
    done = icekeeper("compact", "--slot", DAY, "--table", COINBASE, "--json", config=served.config)
    assert done.returncode == 0, done.stderr
    report = document(done)
    (task,) = report["tasks"]
    assert (report["trigger"], report["outcome"], task["outcome"]) == ("manual", "success", "done")
    assert task["after"]["data_files"] < task["before"]["data_files"]
    # When the command returns, PostgreSQL has it.
    assert served.runs() == [("success", "manual")]
    assert any(line["event"] == "run_ordered" and line["run_id"] == report["run_id"] for line in served.events())
    assert metrics(served.base)['icekeeper_runs_total{outcome="success"}'] == 1


def test_a_dry_audit_counts_in_the_daemon_and_records_nothing(served: Served) -> None:
    before = served.runs()
    done = icekeeper("audit", "--slot", DAY, "--dry-run", "--json", config=served.config)
    assert done.returncode == 0, done.stderr
    assert {audit["status"] for audit in document(done)["audits"]} == {"ok"}
    assert served.runs() == before


def test_a_runs_audits_are_counted_again_in_the_daemon_at_their_snapshots(served: Served) -> None:
    run = document(icekeeper("audit", "--slot", DAY, "--json", config=served.config))
    before = served.runs()

    done = icekeeper("audit", "--again", run["run_id"][:13], "--json", config=served.config)

    assert done.returncode == 0, done.stderr
    found = {one["iceberg_table"]: one for one in document(done)}
    assert {one["past"] for one in found.values()} == {"same"}
    for audit in run["audits"]:
        counts = [audit["iceberg_row_count"]] * 2
        assert (found[audit["iceberg_table"]]["iceberg"], counts[0] > 0) == (counts, True)
    assert served.runs() == before
    assert len(served.jvms()) == 1

    refused = icekeeper("audit", "--again", run["run_id"], "--from", "2026-02-10", config=served.config)
    assert refused.returncode == 2
    assert "--again has the run's own slot and window" in refused.stderr


def test_the_flows_windows_are_counted_in_the_daemon_and_compared(served: Served) -> None:
    counted = icekeeper(
        "audit", "--slot", SLOT_TEXT, "--window-hours", "12", "--dry-run", "--json", config=served.config
    )
    audits = document(counted)["audits"]
    write = """
        INSERT INTO maintenance_audit_log (run_timestamp, iceberg_table, ch_source, layer, audit_window_hours,
          window_start, window_end, ch_row_count, iceberg_row_count, delta, delta_pct, status)
        VALUES ($1, $2, 'source', 'layer', 12, $3, $4, $5, $6, 0, 0, 'ok')
    """
    for audit in audits:
        start, end = (datetime.fromisoformat(audit[key]) for key in ("window_start", "window_end"))
        rows = (audit["ch_row_count"], audit["iceberg_row_count"])
        served.world.postgres.execute(
            served.world.postgres_database, write, end, audit["iceberg_table"], start, end, *rows
        )
    before = served.runs()

    done = icekeeper("compare", "--days", "3650", "--json", config=served.config)

    assert done.returncode == 0, done.stderr
    found = document(done)
    causes = {
        each["flow"]["iceberg_table"]: [why["cause"] for why in each["explanations"]] for each in found["comparisons"]
    }
    assert (found["explained"], causes) == (True, {COINBASE: ["agree"], GOLD: ["agree"]})
    assert served.runs() == before
    assert len(served.jvms()) == 1

    # A number that nothing explains.
    worse = (
        "UPDATE maintenance_audit_log SET ch_row_count = ch_row_count + 7 WHERE iceberg_table = $1 AND run_id IS NULL"
    )
    served.world.postgres.execute(served.world.postgres_database, worse, COINBASE)
    done = icekeeper("compare", "--days", "3650", "--table", COINBASE, config=served.config)
    assert done.returncode == 1, done.stderr
    assert "unexplained: ClickHouse holds 7 rows less than the flow counted" in " ".join(done.stdout.split())
    assert "1 audit: 0 agree, 0 explained, 1 not" in done.stdout
    assert icekeeper("compare", "--table", "cold.nowhere", config=served.config).returncode == 2


def test_a_rewrite_that_was_found_wrong_is_accepted_by_the_daemon(served: Served) -> None:
    accept = ("ack", COINBASE, "--rewrite", "--note", "looked at both", "--by", "ann")
    none = icekeeper(*accept, config=served.config)
    assert (none.returncode, none.stdout) == (2, "")
    assert "no rewrite of" in none.stderr

    table = served.world.pyiceberg_catalog().load_table(SHAPES[COINBASE].identifier)
    table.manage_snapshots().create_tag(table.snapshots()[-2].snapshot_id, f"{MISMATCH_TAG}a-run").commit()
    plan = icekeeper("plan", "--slot", DAY, "--table", COINBASE, "--json", config=served.config)
    assert {each["reason"] for each in document(plan)["plans"] if each["decision"] == "hold"} <= {"rewrite_mismatch"}

    done = icekeeper(*accept, "--json", config=served.config)
    assert done.returncode == 0, done.stderr
    assert document(done)["tags"] == [f"{MISMATCH_TAG}a-run"]
    (line,) = [line for line in served.events() if line["event"] == "rewrite_accepted" and line["tags"]]
    assert (line["by"], line["note"], line["table"]) == ("ann", "looked at both", COINBASE)
    assert len(served.jvms()) == 1


def test_a_slot_in_the_daemons_future_is_refused(served: Served) -> None:
    done = icekeeper("run", "--slot", "2026-03-01", config=served.config)
    assert done.returncode == 2
    assert "lies in the future" in done.stderr


def test_a_table_that_the_daemon_does_not_know_is_a_mistake_of_the_command(served: Served) -> None:
    done = icekeeper("plan", "--slot", DAY, "--table", "cold.nowhere", config=served.config)
    assert done.returncode == 2
    assert "cold.nowhere" in done.stderr


def test_ctrl_c_cancels_the_run_in_the_daemon_and_a_second_run_meanwhile_is_refused(
    served: Served, tmp_path: Path
) -> None:
    (jvm,) = served.jvms()
    out, log = tmp_path / "out", tmp_path / "stderr"
    jvm.suspend()  # so that the run lasts
    try:
        with running("run", "--slot", DAY, "--json", config=served.config, log=log, out=out) as command:
            wait_for("the run", lambda: metrics(served.base).get("icekeeper_run_in_progress") == 1)
            refused = icekeeper("compact", "--slot", DAY, config=served.config)
            assert refused.returncode == 4
            assert "another run is under way in the daemon" in refused.stderr
            os.kill(command.pid, signal.SIGINT)
            jvm.resume()
            assert command.wait(60) == 130
    finally:
        if jvm.is_running():
            jvm.resume()
    assert json.loads(out.read_text())["outcome"] == "cancelled"
    assert served.runs()[-1] == ("cancelled", "manual")


def test_a_run_under_way_is_shown_followed_and_cancelled_by_other_commands(served: Served, tmp_path: Path) -> None:
    (jvm,) = served.jvms()
    log, followed, ended, cancelled = (tmp_path / name for name in ("stderr", "followed", "ended", "cancelled"))
    jvm.suspend()  # so that the run lasts
    try:
        with (
            running("run", "--slot", DAY, config=served.config, log=log) as command,
            ExitStack() as stack,
        ):
            wait_for("the run", lambda: metrics(served.base).get("icekeeper_run_in_progress") == 1)
            run = document(icekeeper("status", "--json", config=served.config))["run"]
            assert [stage["stage"] for stage in run["stages"]] == ["compact", "expire", "audit"]
            assert run["run_id"][:8] in icekeeper("status", config=served.config).stdout
            wrong = icekeeper("cancel", "ffffffff", config=served.config)
            assert (wrong.returncode, run["run_id"] in wrong.stderr) == (2, True)
            with running("logs", "--follow", "--json", config=served.config, log=log, out=followed) as follower:
                wait_for("the log", lambda: "run_started" in followed.read_text())
                cancelling = stack.enter_context(
                    running("cancel", run["run_id"][:8], "--json", config=served.config, log=cancelled, out=ended)
                )
                # Soon: a JVM that does not stop is killed.
                wait_for("the answer", lambda: "was asked to end" in cancelled.read_text())
                jvm.resume()
                assert command.wait(60) == 130
                assert cancelling.wait(60) == 0
                assert follower.wait(60) == 0
    finally:
        if jvm.is_running():
            jvm.resume()
    assert json.loads(ended.read_text()) == {"run_id": run["run_id"], "outcome": "cancelled"}
    lines = [json.loads(line) for line in followed.read_text().splitlines()]
    assert (lines[0]["event"], lines[-1]["event"]) == ("run_ordered", "run_ended")
    assert lines[-1]["fields"]["outcome"] == "cancelled"
    assert [line["line_no"] for line in lines] == list(range(1, len(lines) + 1))
    assert icekeeper("cancel", config=served.config).returncode == 2


def test_a_jvm_that_dies_while_it_is_idle_is_there_again_for_the_next_command(served: Served) -> None:
    (jvm,) = wait_for("a session", served.jvms)
    wait_for("the session", lambda: metrics(served.base).get("icekeeper_engine_up") == 1)
    lost = metrics(served.base)['icekeeper_engine_restarts_total{why="died"}']
    jvm.kill()
    wait_for("the loss to be seen", lambda: metrics(served.base)["icekeeper_engine_up"] == 0)
    done = icekeeper("plan", "--slot", DAY, "--stage", "compact", config=served.config)
    assert done.returncode == 0, done.stderr
    seen = metrics(served.base)
    assert seen["icekeeper_engine_up"] == 1
    assert seen['icekeeper_engine_restarts_total{why="died"}'] == lost + 1


def test_readyz_names_the_parts(served: Served) -> None:
    readiness = json.loads(fetch(f"{served.base}/readyz") or "")
    assert readiness["ready"] is True
    assert set(readiness["parts"]) == {"engine", "ledger", "spool", "configuration", "lease"}


def test_a_second_daemon_on_the_same_state_directory_is_refused(served: Served) -> None:
    done = icekeeper("serve", config=served.config)
    assert done.returncode == 4
    assert "another daemon serves this state_dir" in done.stderr
