"""The real daemon before a real Prometheus: who is told of a failed night, what silences it, what a restart knows."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.sandbox import Sandbox, WorldSpec
from tests.conftest import COINBASE, GOLD, SLOT, write_settings
from tests.process.alerting import DOCS, watched
from tests.process.program import icekeeper, metrics, running, wait_for

YESTERDAY = SLOT.replace(hour=0) - timedelta(days=1)
LOST = tuple((COINBASE, YESTERDAY + timedelta(hours=hour)) for hour in (6, 7, 8))


def edit(config: Path, **blocks: Any) -> None:
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), **blocks}))


@pytest.mark.long
def test_a_night_that_lacks_rows_is_alerted_until_it_is_acknowledged_and_known_after_a_restart(
    box: Sandbox, tmp_path: Path
) -> None:
    few: dict[str, Any] = {"days": 1.25, "commits_per_day": 24, "files_per_commit": 1, "symbols": 6}
    world = box.world(WorldSpec(now=SLOT, tables=(COINBASE, GOLD), lost=LOST, **few))
    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state"), tmp_path / "stderr"
    listens = yaml.safe_load(config.read_text())["http"]["listen"]
    base = f"http://{listens}"
    assert icekeeper("migrate", config=config).returncode == 0
    finding = f'icekeeper_open_findings{{status="missing_data",table="{COINBASE}"}}'

    with watched(listens, tmp_path / "watching") as webhook:
        with running("serve", config=config, log=log, at=SLOT - timedelta(seconds=10)) as daemon:
            (alert, *_) = wait_for("the alert", lambda: webhook.of("IcekeeperMissingData", "firing"))
            assert alert["labels"]["table"] == COINBASE
            assert alert["annotations"]["summary"] == f"Rows are missing in {COINBASE}"
            assert alert["annotations"]["runbook_url"] == f"{DOCS}/docs/runbooks/IcekeeperMissingData.md"
            failed = metrics(base)
            assert failed['icekeeper_last_run_outcome{outcome="failed"}'] == 1
            assert (failed["icekeeper_last_run_failure_open"], failed[finding]) == (1, 1)
            assert not webhook.of("IcekeeperMissingData", "resolved")

            day = f"{YESTERDAY:%Y-%m-%d}"
            assert icekeeper("ack", COINBASE, day, "--note", "the feed was down", config=config).returncode == 0
            # What is shipped shows that PostgreSQL is there: it is asked anew.
            edit(config, logs={"level": "debug"})
            os.kill(daemon.pid, signal.SIGHUP)
            wait_for("the all-clear", lambda: webhook.of("IcekeeperMissingData", "resolved"))
            assert metrics(base)[finding] == 0
            assert metrics(base)["icekeeper_last_run_failure_open"] == 0
            before = metrics(base)
            os.kill(daemon.pid, signal.SIGTERM)
            assert daemon.wait(60) == 0

        edit(config, spark={"home": "/nowhere"})  # what a restart knows, it knows without a session
        with running("serve", config=config, log=log, at=SLOT + timedelta(minutes=5)) as daemon:
            first: dict[str, float] = wait_for("a scrape", lambda: metrics(base))
            known = [name for name in before if name.startswith(_KNOWN)]
            assert len(known) > 30
            assert {name: first.get(name) for name in known} == {name: before[name] for name in known}
            assert first['icekeeper_runs_total{outcome="failed"}'] == 0
            os.kill(daemon.pid, signal.SIGTERM)
            assert daemon.wait(60) == 0


# The gauges that the ledger knows.
_KNOWN = (
    "icekeeper_last_",
    "icekeeper_table_",
    "icekeeper_audit_",
    "icekeeper_consecutive_",
    "icekeeper_open_findings",
)
