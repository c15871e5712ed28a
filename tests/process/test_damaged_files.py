"""A data file that is gone from the store, as an operator meets it: commands, metrics, the page, and the way back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from icekeeper.core.calendar import window_of
from icekeeper.sandbox import Sandbox, WorldSpec
from icekeeper.sandbox.table_shapes import SHAPES
from tests.conftest import COINBASE, GOLD, SLOT, write_settings
from tests.process.program import document, fetch, icekeeper, metrics, running, wait_for

AUDITED = window_of(SLOT).start
THE_SLOT, THE_DAY = f"{SLOT:%Y-%m-%d}", f"{AUDITED:%Y-%m-%d}"
RANGE = ("--from", THE_DAY, "--to", THE_DAY)


@dataclass
class Damaged:
    """A world with a daemon, and a data file of the audited day, gone from the store."""

    box: Sandbox
    config: Path
    base: str
    path: str
    body: bytes

    def restore(self) -> None:
        with self.box.s3.filesystem().open_output_stream(self.path) as stream:
            stream.write(self.body)


@pytest.fixture(scope="module")
def damaged(box: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Damaged]:
    place = tmp_path_factory.mktemp("damaged")
    world = box.world(WorldSpec(now=SLOT, days=1.25, tables=(COINBASE, GOLD), rows_per_file=10, symbols=6))
    config, log = write_settings(world, place / "icekeeper.yaml", place / "state"), place / "stderr"
    base = "http://" + yaml.safe_load(config.read_text())["http"]["listen"]
    assert icekeeper("migrate", config=config).returncode == 0
    table = world.pyiceberg_catalog().load_table(SHAPES[COINBASE].identifier)
    of_the_day = [task.file.file_path for task in table.scan().plan_files() if THE_DAY in task.file.file_path]
    path = min(of_the_day).partition("://")[2]
    files = box.s3.filesystem()
    with files.open_input_stream(path) as stream:
        body = bytes(stream.read())
    files.delete_file(path)
    with running("serve", config=config, log=log, at=SLOT + timedelta(hours=1)) as daemon:
        wait_for("the session", lambda: metrics(base).get("icekeeper_engine_up") == 1)
        yield Damaged(box, config, base, path, body)
        os.kill(daemon.pid, signal.SIGTERM)
        assert daemon.wait(60) == 0


def test_a_dry_audit_of_days_finds_it_before_the_first_night_and_records_nothing(damaged: Damaged) -> None:
    done = icekeeper("audit", *RANGE, "--dry-run", "--json", config=damaged.config)
    assert done.returncode == 1, done.stderr
    (report,) = document(done)
    audits = {audit["iceberg_table"]: audit for audit in report["audits"]}
    assert (audits[GOLD]["status"], audits[GOLD]["proof"]) == ("ok", "files")
    found = audits[COINBASE]
    assert (found["status"], found["reason"], found["iceberg_row_count"]) == ("error", "file_missing", None)
    assert found["ch_row_count"] > 0
    assert damaged.path in found["notes"]
    assert [file["path"].endswith(damaged.path) for file in found["bad_files"]] == [True]
    assert document(icekeeper("history", "--json", config=damaged.config)) == []


@pytest.mark.long
def test_a_night_exits_1_and_the_table_is_held_until_the_file_is_back(damaged: Damaged) -> None:
    night = icekeeper("run", "--slot", THE_SLOT, "--json", config=damaged.config)
    assert night.returncode == 1, night.stderr
    report = document(night)
    assert report["outcome"] == "failed"
    shown = metrics(damaged.base)
    assert shown[f'icekeeper_audit_status{{status="error",table="{COINBASE}"}}'] == 1
    assert shown[f'icekeeper_open_findings{{status="error",table="{COINBASE}"}}'] == 1
    page = fetch(f"{damaged.base}/runs/{report['run_id']}") or ""
    assert damaged.path in page
    assert "file missing" in page

    (kept,) = document(icekeeper("history", report["run_id"], "--json", config=damaged.config))["audits"][:1]
    assert [file["fault"] for file in kept["bad_files"]] == ["missing"]

    compact = ("compact", "--slot", THE_SLOT, "--table", COINBASE, "--json")
    (task,) = document(icekeeper(*compact, config=damaged.config))["tasks"]
    assert task["outcome"] == "done", task  # the day that has no bad file
    assert f"not exchange_timestamp_day={THE_DAY}, where files are bad" in task["note"]
    (task,) = document(icekeeper(*compact, config=damaged.config))["tasks"]
    assert (task["outcome"], task["reason"]) == ("held", "audit_hold"), task
    assert f"{THE_DAY} (file_missing)" in task["note"]

    damaged.restore()
    again = icekeeper("audit", *RANGE, "--json", config=damaged.config)
    assert again.returncode == 0, again.stderr
    packed = icekeeper(*compact, config=damaged.config)
    assert [task["outcome"] for task in document(packed)["tasks"]] == ["done"]
    assert metrics(damaged.base)[f'icekeeper_open_findings{{status="error",table="{COINBASE}"}}'] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", THE_DAY), "--to needs --from"),
        (("--from", THE_DAY, "--to", "2026-02-01"), "lies behind"),
        (("--from", "2026-02-01", "--to", "2999-01-01"), "that day is not over"),
        (("--from", "yesterday"), "yesterday"),
        ((*RANGE, "--slot", THE_SLOT), "take neither --slot nor --window-hours"),
    ],
)
def test_days_that_are_no_range_are_bad_usage(damaged: Damaged, arguments: tuple[str, ...], message: str) -> None:
    done = icekeeper("audit", *arguments, config=damaged.config)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
