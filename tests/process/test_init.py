"""`icekeeper init` on real catalogs, and the next commands with the file that it wrote."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
import yaml
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.transforms import DayTransform

from icekeeper.sandbox import Sandbox, WorldSpec
from tests import jvm
from tests.conftest import COINBASE, GOLD, SILVER
from tests.process import preloaded
from tests.process.program import document, environment

ROWS = pa.table({"id": [1, 2], "at": [datetime(2026, 2, 17, hour, tzinfo=UTC) for hour in (1, 2)]})
NOTES = pa.table({"id": [1, 2], "note": ["a", None]})


def _environment(packages: list[str] | None = None, **spark: Any) -> dict[str, str]:
    """Beside the file, which is what is tested: options of JVMs that live for seconds."""
    conf = spark.get("conf", {"spark.driver.extraJavaOptions": jvm.SHORT_LIVED})
    env = {**environment(), "ICEKEEPER_SPARK__DRIVER_MEMORY": "1g", "ICEKEEPER_SPARK__CONF": json.dumps(conf)}
    return env if packages is None else {**env, "ICEKEEPER_SPARK__PACKAGES": json.dumps(packages)}


def _run(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return preloaded.run(*arguments, timeout=280, env=env)


def _follow(env: dict[str, str], config: Path, *commands: str) -> Any:
    """What the last of these commands answers, of those that `init` names; none fails."""
    for command in commands:
        done = _run(env, *command.split(), "--config", str(config))
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    return document(done)


def _on_a_terminal(env: dict[str, str], typed: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout (a pipe) and what was shown on the terminal, where `typed` is typed in."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "icekeeper", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=theirs, env=env) as program:
        os.close(theirs)
        os.write(ours, typed.encode())
        shown = b""
        try:
            while piece := os.read(ours, 65536):
                shown += piece
        except OSError:  # nobody holds the other end any more
            pass
        finally:
            os.close(ours)
        assert program.stdout is not None
        return program.wait(), program.stdout.read().decode(), shown.decode()


def test_from_nothing_to_the_first_plan_on_a_catalog_in_sqlite(tmp_path: Path) -> None:
    uri, warehouse, config = f"{tmp_path}/catalog.db", tmp_path / "warehouse", tmp_path / "new" / "icekeeper.yaml"
    catalog = SqlCatalog("lake", uri=f"sqlite:///{uri}", warehouse=f"file://{warehouse}")
    for namespace in ("shop", "hr"):
        catalog.create_namespace(namespace)
    orders = catalog.create_table("shop.orders", schema=ROWS.schema)
    with orders.update_spec() as spec:
        spec.add_field("at", DayTransform())
    orders.append(ROWS)
    for name in (("shop", "notes"), ("shop", "odd name"), ("hr", "pay"), ("shop", "lost")):
        catalog.create_table(name, schema=NOTES.schema).append(NOTES)
    Path(catalog.load_table("shop.lost").metadata_location.removeprefix("file://")).unlink()
    catalog.close()
    env = _environment()
    options = ("--exclude", "hr.*", "--state-dir", f"{tmp_path}/state", "--config", str(config))

    typed = f"jdbc\nlake\njdbc:sqlite:/no/such/file\njdbc:sqlite:{uri}\n{warehouse}\n\n"
    code, out, shown = _on_a_terminal(env, typed, "init", *options)

    assert code == 0, shown
    assert "Error: there is no such file" in shown
    written = yaml.safe_load(config.read_text())
    assert written["mode"] == "observe"
    assert written["catalog"] == {
        "name": "lake",
        "type": "jdbc",
        "uri": f"jdbc:sqlite:{uri}",
        "warehouse": str(warehouse),
    }
    assert written["tables"] == [{"name": "shop.notes"}, {"name": "shop.orders", "timestamp": "at"}]
    assert "shop.lost: metadata_missing" in out
    assert "left out shop.odd name: a dot, a blank" in out
    assert "#   shop.odd name: a dot, a blank" in config.read_text()
    assert f"icekeeper plan --config {config}" in out
    assert "migrate" not in out  # its ledger is embedded
    assert "\x1b" not in out

    planned = _follow(env, config, "config check", "plan --json")
    assert {each["table"] for each in planned["plans"]} == {"shop.notes", "shop.orders"}

    before = config.read_text()
    again = _run(env, "init", *options)
    assert (again.returncode, config.read_text()) == (2, before)
    assert f"{config} is there already" in again.stderr
    elsewhere = _run(env, "init", "--type", "jdbc", "--config", f"{tmp_path}/other.yaml")
    assert elsewhere.returncode == 2
    assert "without a terminal these have to be given: --name, --uri, --warehouse" in elsewhere.stderr


@pytest.mark.long
def test_a_rest_catalog_of_which_a_table_has_a_source_of_its_name_in_clickhouse(box: Sandbox, tmp_path: Path) -> None:
    name = f"init{uuid4().hex[:8]}"
    ledger = f"{name}_ledger"  # beside the world's own
    box.postgres.create_database(ledger)
    spec = WorldSpec(name=name, now=datetime.now(UTC), days=1.25, tables=(COINBASE, SILVER, GOLD), commits_per_day=4,
                     rows_per_file=10, symbols=6, catalog="rest", old_snapshots=0)  # fmt: skip
    world = box.world(spec)
    # Two that must not be taken for a source: what is counted there would not be all, or not ClickHouse's.
    for statement in (
        "CREATE VIEW gold_ohlcv_1m AS SELECT * FROM ohlcv_1m",
        "RENAME TABLE silver_trades TO silver_before",
        "CREATE TABLE silver_trades (timestamp Nullable(DateTime64(3))) ENGINE = MergeTree ORDER BY tuple()",
    ):
        world.clickhouse.execute(statement, database=world.clickhouse_database)
    settings = world.settings(tmp_path)
    catalog, clickhouse = settings["catalog"], settings["clickhouse"]
    options = ["--type", "rest", "--name", name, "--uri", catalog["uri"], "--warehouse", catalog["warehouse"]]
    for key, value in catalog["properties"].items():
        if key in ("credential", "s3.access-key-id", "s3.secret-access-key"):
            (tmp_path / key).write_text(value)
            key, value = f"{key}_file", tmp_path / key
        options += ["--property", f"{key}={value}"]
    (tmp_path / "clickhouse").write_text(clickhouse["password"] or "none")
    options += ["--clickhouse", clickhouse["url"], "--clickhouse-database", clickhouse["database"]]
    options += [
        "--clickhouse-user",
        clickhouse["user"],
        "--postgres",
        box.postgres.dsn(ledger),
        "--state-dir",
        f"{tmp_path}/state",
    ]
    if clickhouse["password"]:
        options += ["--clickhouse-password-file", f"{tmp_path}/clickhouse"]
    config = tmp_path / "icekeeper.yaml"
    env = _environment(**jvm.settings()) | {"ICEKEEPER_POSTGRES__PASSWORD": box.postgres.password}

    done = _run(env, "init", *options, "--config", str(config), "--json")

    assert done.returncode == 0, done.stderr
    tables = {each["name"]: (each["source"], each["timestamp"]) for each in document(done)["tables"]}
    assert tables == {
        COINBASE: ("bronze_trades_coinbase", "exchange_timestamp"),
        SILVER: (None, "timestamp"),
        GOLD: (None, "window_start"),
    }
    text = config.read_text()
    assert "not audited against ClickHouse's gold_ohlcv_1m: it is of engine View, and may read the lake itself" in text
    assert "not audited against ClickHouse's silver_trades: timestamp may be NULL there" in text
    secrets = [catalog["properties"][key] for key in ("credential", "s3.secret-access-key")]
    assert not [secret for secret in (*secrets, box.postgres.password) if secret in text]

    assert _follow(env, config, "config check", "migrate", "doctor --json")["ok"]
