"""icekeeper in a container that holds another Spark: it starts its own, whatever the environment points at."""

from __future__ import annotations

import json
import os
import site
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyspark
import pytest

from icekeeper.__main__ import without_pythonpath
from icekeeper.sandbox import Sandbox, WorldSpec
from tests.conftest import GOLD, SHORT_LIVED, write_settings
from tests.process.program import children, icekeeper, running, wait_for

ROOT = Path(__file__).parents[2]
# What such images have in bin/: each leaves a trace, fails, and says so.
PROGRAMS = ("spark-submit", "spark-class", "load-spark-env.sh", "find-spark-home", "pyspark")


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that looks like Spark 3.5, and the environment of an image that is built around it."""
    home = tmp_path / "spark-3.5.0"
    for directory in ("bin", "jars", "conf", "python/pyspark", "python/py4j", "work-dir"):
        (home / directory).mkdir(parents=True)
    for name in PROGRAMS:
        program = home / "bin" / name
        program.write_text(f"#!/bin/sh\necho {name} \"$@\" >> '{home}/called'\necho 'the foreign Spark' >&2\nexit 1\n")
        program.chmod(0o755)
    (home / "RELEASE").write_text("Spark 3.5.0 built for Hadoop 3.3.4\n")
    (home / "jars" / "spark-core_2.12-3.5.0.jar").write_bytes(b"no jar that could be opened")
    # It would send icekeeper to a cluster, with a class that is nowhere.
    (home / "conf" / "spark-defaults.conf").write_text(
        "spark.master spark://elsewhere:7077\nspark.plugins org.example.NoSuchPlugin\n"
    )
    (home / "conf" / "spark-env.sh").write_text(f"echo spark-env.sh >> '{home}/called'\nexit 1\n")
    for package in ("pyspark", "py4j"):
        (home / "python" / package / "__init__.py").write_text("raise ImportError('the foreign Spark')\n")
    monkeypatch.setenv("SPARK_HOME", str(home))
    monkeypatch.setenv("SPARK_CONF_DIR", str(home / "conf"))
    monkeypatch.setenv("SPARK_DIST_CLASSPATH", str(home / "jars" / "*"))
    monkeypatch.setenv("SPARK_LOCAL_DIRS", str(home / "nowhere"))
    # The checkout beside it: where it is not the installed one, it is tested all the same.
    monkeypatch.setenv("PYTHONPATH", f"{home / 'python'}:{ROOT}")
    monkeypatch.setenv("PATH", str(home / "bin"), prepend=":")
    monkeypatch.setenv("PYSPARK_SUBMIT_ARGS", "--master spark://elsewhere:7077 pyspark-shell")
    monkeypatch.setenv("PYSPARK_PYTHON", str(home / "bin" / "pyspark"))
    # Where such images start their programs: PySpark looks for a Spark in the parent of the working directory.
    monkeypatch.chdir(home / "work-dir")
    return home


@pytest.mark.long
def test_a_night_in_a_container_with_an_older_spark_runs_on_its_own(
    foreign: Path, box: Sandbox, tmp_path: Path
) -> None:
    now = datetime.now(UTC) - timedelta(minutes=1)
    world = box.world(WorldSpec(now=now, days=2.25, tables=(GOLD,), commits_per_day=24, rows_per_file=10, symbols=6))
    # A directory whose name a shell would take apart.
    config = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "its state", with_packages)
    migrated = icekeeper("migrate", config=config, fresh=True)
    assert migrated.returncode == 0, migrated.stderr
    out, log = tmp_path / "report.json", tmp_path / "icekeeper.log"

    with running("run", "--json", config=config, log=log, out=out, fresh=True) as night:
        command = wait_for("the JVM", lambda: [each for each in map(session_of, children(night.pid)) if each])[0]
        code = night.wait(120)

    assert code == 0, log.read_text()
    assert json.loads(out.read_text())["outcome"] == "success"
    assert not (foreign / "called").exists(), (foreign / "called").read_text()
    classpath = command[command.index("-cp") + 1]
    assert str(foreign) not in classpath
    assert str(Path(pyspark.__file__).parent) in classpath
    assert f"-Djava.io.tmpdir={tmp_path}/its state/spark/" in " ".join(command)


def with_packages(document: dict[str, Any]) -> None:
    """Iceberg's jars come as they do by default."""
    document["spark"] = {"driver_memory": "1g", "conf": dict(SHORT_LIVED)}


def session_of(process: psutil.Process) -> list[str]:
    """The command line of a Spark session's JVM; empty for anything else."""
    try:
        command = process.cmdline()
    except psutil.Error:  # gone meanwhile
        return []
    # The scripts and the launcher that work out this command have the class among their arguments.
    on_its_way = not command or not command[0].endswith("/java") or "org.apache.spark.launcher.Main" in command
    return [] if on_its_way or "org.apache.spark.deploy.SparkSubmit" not in command else command


def test_what_pythonpath_adds_is_left_out_and_our_own_packages_are_kept() -> None:
    ours = site.getsitepackages()[0]
    path = [
        "",
        "/opt/spark/python",
        "/opt/spark/python/lib/py4j-0.10.9.7-src.zip",
        ours,
        os.__file__.rpartition("/")[0],
    ]
    named = os.pathsep.join(["/opt/spark/python/", "/opt/spark/python/lib/py4j-0.10.9.7-src.zip", "", ours])
    assert without_pythonpath(path, named) == ["", ours, path[-1]]
