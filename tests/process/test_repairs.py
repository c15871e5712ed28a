"""Missing rows that the command `repair` shows, and that the daemon brings back by itself after a night."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from icekeeper.sandbox import Sandbox, WorldSpec
from tests.conftest import COINBASE, SLOT, write_settings
from tests.process.program import document, icekeeper, running, wait_for


@pytest.mark.long
def test_a_night_that_lacks_rows_is_followed_by_their_repair(box: Sandbox, tmp_path: Path) -> None:
    yesterday = SLOT - timedelta(days=1)
    world = box.world(
        WorldSpec(
            now=SLOT, days=1.25, tables=(COINBASE,), commits_per_day=24, rows_per_file=20, symbols=6, old_snapshots=0,
            lost=tuple((COINBASE, yesterday.replace(hour=hour)) for hour in (9, 15)),
        )
    )  # fmt: skip

    def automatic(settings: dict[str, Any]) -> None:
        settings["tables"][0] |= {"audit": {"key": ["symbol", "sequence_number"]}, "source_ttl": "none"}
        settings["repair"] = {"automatic": True}

    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state", automatic), tmp_path / "stderr"
    assert icekeeper("migrate", config=config).returncode == 0
    audited = icekeeper("audit", "--slot", f"{SLOT:%Y-%m-%d}", "--json", config=config)
    assert audited.returncode == 1, audited.stderr
    (found,) = [audit["findings"] for audit in document(audited)["audits"]]

    shown = icekeeper("repair", "--json", config=config)
    assert shown.returncode == 0, shown.stderr
    (planned,) = [plan["repairs"] for each in document(shown) for plan in each["plans"]]
    assert [(each["finding_id"], each["rows"], each["refusal"]) for each in planned] == [
        (finding["id"], finding["rows"], None) for finding in found
    ]
    unknown = icekeeper("repair", "--finding", "ffffffffffffffff", config=config)
    assert (unknown.returncode, "ffffffffffffffff" in unknown.stderr) == (2, True)

    def runs() -> list[tuple[Any, ...]]:
        query = "SELECT trigger, outcome, stages FROM maintenance_runs WHERE trigger <> 'manual' OR stages <> '{audit}'"
        return world.postgres.execute(world.postgres_database, f"{query} ORDER BY started_at")

    with running("serve", config=config, log=log, at=SLOT - timedelta(seconds=10)):
        wait_for("the repair", lambda: [run for run in runs() if run[0] == "manual" and run[1]])
    assert runs() == [
        ("schedule", "failed", ["compact", "expire", "audit"]),
        ("manual", "success", ["repair", "audit"]),
    ]
    assert "repair_ordered" in log.read_text()
    states = "SELECT state, rows FROM maintenance_repairs"
    assert world.postgres.execute(world.postgres_database, states) == [
        ("repaired", finding["rows"]) for finding in found
    ]
    # The findings of the audit by hand, whose clock is months ahead of the daemon's, are the newest.
    done = icekeeper("repair", "--yes", "--json", config=config)
    assert done.returncode == 0, done.stderr
    assert [(task["stage"], task["reason"]) for run in document(done) for task in run["tasks"]] == [
        ("repair", "nothing_missing"),
        ("audit", None),
    ]
