"""What a Spark session is started with: options, environment, settings, scratch directory. `session.py` starts it."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path

import pyspark

from icekeeper.adapters.spark.java import JavaHome, find_java
from icekeeper.adapters.state_dir import give_to_its_owner

# By default Iceberg reads manifests in as many threads as there are cores; but they wait for the store, not for a core.
_MANIFEST_READERS = "-Diceberg.worker.num-threads=32"


@dataclass(frozen=True, slots=True)
class SparkOptions:
    """How the session is started. `state_dir` takes spark.log and Spark's scratch files; `home` is another Spark.

    `session_conf` (the catalog's settings, with its secrets) is set on the started session.
    """

    master: str
    driver_memory: str
    state_dir: Path
    jars: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    home: Path | None = None
    conf: Mapping[str, str] = field(default_factory=dict, repr=False)
    session_conf: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_local(self) -> bool:
        return self.master.startswith("local")

    @property
    def scratch(self) -> Path:
        """Where this process's session keeps its files: commands of several containers may share a state directory."""
        return self.state_dir / "spark" / f"{socket.gethostname()}-{os.getpid()}"

    @property
    def log(self) -> Path:
        return self.state_dir / "spark.log"


def prepare_environment(options: SparkOptions, environ: MutableMapping[str, str]) -> JavaHome:
    """Makes pip's PySpark start its own Spark with a Java that fits; PySpark reads all this from the environment.

    A container that holds another Spark sets SPARK_HOME, SPARK_CONF_DIR, SPARK_DIST_CLASSPATH, SPARK_LOCAL_DIRS, ...:
    they would start that one, or mix the two. Only `spark.home` in the settings chooses another one.
    """
    for name in [name for name in environ if name.startswith(("SPARK_", "PYSPARK_")) or name == "PYTHONPATH"]:
        del environ[name]
    # Always set: PySpark would take a Spark in the parent of the working directory before its own.
    environ["SPARK_HOME"] = str(options.home or Path(pyspark.__file__).parent)
    if options.is_local:
        environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    java = find_java(environ, options.state_dir / "java")
    environ["JAVA_HOME"] = str(java.home)
    return java


def spark_conf(options: SparkOptions) -> dict[str, str]:
    """The settings that the JVM is started with."""
    conf = {
        "spark.master": options.master,
        "spark.app.name": "icekeeper",
        "spark.submit.deployMode": "client",
        "spark.driver.memory": options.driver_memory,
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
        "spark.sql.session.timeZone": "UTC",
        # Maintenance shuffles little; with the default of 200 every expiry runs 200 tasks to find nothing.
        "spark.sql.shuffle.partitions": "2",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        # With the defaults the heap of a session that lives for months keeps growing.
        "spark.ui.retainedJobs": "50",
        "spark.ui.retainedStages": "50",
        "spark.sql.ui.retainedExecutions": "20",
        "spark.local.dir": str(options.scratch),
        "spark.sql.warehouse.dir": str(options.scratch / "warehouse"),
        "spark.log.structuredLogging.enabled": "false",
    }
    if options.is_local:
        conf |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    if options.jars:
        conf["spark.jars"] = ",".join(options.jars)
    if options.packages:
        conf["spark.jars.packages"] = ",".join(options.packages)
    conf |= options.conf
    # A JVM that has run out of memory may hang half dead: it exits, and a new one is started.
    java_options = options.conf.get("spark.driver.extraJavaOptions", "")
    conf["spark.driver.extraJavaOptions"] = (
        f"{_temporary_files(options)} {_MANIFEST_READERS} {java_options} -XX:+ExitOnOutOfMemoryError"
    )
    return conf


def _temporary_files(options: SparkOptions) -> str:
    """Keeps files out of /tmp that Iceberg stages before an upload, and libraries that codecs unpack and map.

    In a container /tmp is often a small tmpfs that counts as its memory, and mounted noexec.
    """
    path = str(options.scratch).replace("\\", "\\\\").replace('"', '\\"')
    return f'"-Djava.io.tmpdir={path}"'


def write_properties(conf: Mapping[str, str], path: Path) -> None:
    """Writes the settings as a Java properties file that only this user can read: all users can read a command line.

    `spark-submit --properties-file` takes it (java.util.Properties: backslash escapes).
    """
    path.touch(mode=0o600)
    lines = (f"{_escaped(key, ':= ')}={_escaped(value.strip(), '')}\n" for key, value in conf.items())
    path.write_text("".join(lines), encoding="utf-8")


def _escaped(text: str, separators: str) -> str:
    text = text.replace("\\", "\\\\").replace("\n", "\\n")
    for character in separators:
        text = text.replace(character, f"\\{character}")
    return text


# The scratch directories of this process, locked as long as it lives: processes of other containers can't see our pid.
_locked: dict[Path, int] = {}


def take_scratch(options: SparkOptions) -> None:
    """Makes this process's scratch directory, and locks it."""
    options.scratch.mkdir(parents=True)
    give_to_its_owner(options.scratch.parent)
    _locked[options.scratch] = os.open(options.scratch, os.O_RDONLY)
    fcntl.flock(_locked[options.scratch], fcntl.LOCK_EX | fcntl.LOCK_NB)


def clear_scratch(options: SparkOptions) -> None:
    """Removes this process's scratch files, and those that no process has locked: theirs died before it could."""
    if (ours := _locked.pop(options.scratch, None)) is not None:
        os.close(ours)
    for directory in (options.state_dir / "spark").glob("*"):
        try:
            found = os.open(directory, os.O_RDONLY)
        except OSError:  # gone meanwhile
            continue
        try:
            fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
        except BlockingIOError:
            pass  # another process uses it
        finally:
            os.close(found)
