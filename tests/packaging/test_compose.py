"""compose.yaml where no engine is: its syntax by Compose itself, and what its parts are told when they first start."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from icekeeper.adapters.postgres.embedded import programs
from icekeeper.sandbox import Sandbox, WorldSpec
from tests.conftest import GOLD, SLOT
from tests.packaging import debian

pytestmark = pytest.mark.packaging
ROOT = debian.ROOT


def test_compose_takes_the_file() -> None:
    debian.install("docker-compose")
    command = ["docker-compose", "--file", str(ROOT / "compose.yaml"), "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["services"].keys() == {"icekeeper", "migrate", "postgres", "clickhouse", "s3"}


def test_the_script_for_an_empty_postgres_makes_the_catalogs_role_and_database(box: Sandbox, tmp_path: Path) -> None:
    spec = WorldSpec(now=SLOT, days=0.25, tables=(GOLD,), commits_per_day=4, rows_per_file=1, symbols=1)
    world = box.world(spec)
    password = "it's a \\ password"
    (tmp_path / "iceberg-catalog-password").write_text(password + "\n")
    script = tmp_path / "catalog.sh"
    text = (ROOT / "config" / "postgres-init.sh").read_text()
    assert "/run/secrets/" in text
    script.write_text(text.replace("/run/secrets/", f"{tmp_path}/"))
    host, _, port = world.postgres.dsn("postgres").rpartition("@")[2].partition("/")[0].partition(":")
    user = world.postgres.dsn("postgres").partition("://")[2].partition("@")[0].partition(":")[0]
    server = {"PGHOST": host, "PGPORT": port, "PGPASSWORD": world.postgres.password}
    image = {"POSTGRES_USER": user, "POSTGRES_DB": world.postgres_database}
    environment = {**server, **image, "PATH": f"{programs.directory()}:{os.environ['PATH']}"}
    done = subprocess.run(["sh", script], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr

    login = [
        "psql",
        "--username=icekeeper_catalog",
        "--dbname=iceberg",
        "--command=CREATE TABLE iceberg_tables (a int)",
    ]
    done = subprocess.run(
        login, capture_output=True, text=True, env={**environment, "PGPASSWORD": password}, check=False
    )
    assert done.returncode == 0, done.stderr
