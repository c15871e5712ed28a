"""How a Spark session is started: its options, the environment and the settings of its JVM. Starting it: `spark.py`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from daemon.adapters.java import JavaHome, find_java

_SECRET_WORDS = ("secret", "password", "token", "credential", "access-key", "access.key")


@dataclass(frozen=True, slots=True)
class SparkOptions:
    """How the session is started. `state_dir` takes spark.log and Spark's scratch files; `home` is another Spark.

    `session_conf` (the catalog's settings, with its secrets) is set on the started session: what stands on the JVM's
    command line all can read.
    """

    master: str
    driver_memory: str
    state_dir: Path
    jars: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    home: Path | None = None
    conf: Mapping[str, str] = field(default_factory=dict)
    session_conf: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_local(self) -> bool:
        return self.master.startswith("local")


def prepare_environment(options: SparkOptions, environ: dict[str, str] | os._Environ[str]) -> JavaHome:
    """Makes pip's PySpark start its own Spark with a Java that fits; PySpark reads all this from the environment.

    A SPARK_HOME of the container would make it launch that other Spark, a SPARK_CONF_DIR or PYTHONPATH would mix the
    two. Only `spark.home` in the settings chooses another one.
    """
    for name in ("SPARK_HOME", "SPARK_CONF_DIR", "PYTHONPATH", "PYSPARK_SUBMIT_ARGS", "PYSPARK_GATEWAY_PORT"):
        environ.pop(name, None)
    if options.home is not None:
        environ["SPARK_HOME"] = str(options.home)
    if options.is_local:
        environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    java = find_java(environ, options.state_dir / "java")
    environ["JAVA_HOME"] = str(java.home)
    return java


def spark_conf(options: SparkOptions) -> tuple[dict[str, str], dict[str, str]]:
    """The settings for the JVM's command line, and those with a secret, which are set on the started session."""
    conf = {
        "spark.master": options.master,
        "spark.app.name": "icekeeper",
        "spark.submit.deployMode": "client",
        "spark.driver.memory": options.driver_memory,
        # The process that holds the tables must not linger half dead: it exits, and a new one is started.
        "spark.driver.extraJavaOptions": "-XX:+ExitOnOutOfMemoryError",
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
        "spark.local.dir": str(options.state_dir / "spark"),
        "spark.sql.warehouse.dir": str(options.state_dir / "spark" / "warehouse"),
        "spark.log.structuredLogging.enabled": "false",
    }
    if options.is_local:
        conf |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
    if options.jars:
        conf["spark.jars"] = ",".join(options.jars)
    if options.packages:
        conf["spark.jars.packages"] = ",".join(options.packages)
    own = {key: value for key, value in options.conf.items() if not _is_secret(key)}
    if "spark.driver.extraJavaOptions" in own:
        own["spark.driver.extraJavaOptions"] += " " + conf["spark.driver.extraJavaOptions"]
    secrets = {key: value for key, value in options.conf.items() if _is_secret(key)}
    return conf | own, secrets


def _is_secret(key: str) -> bool:
    return any(word in key.lower() for word in _SECRET_WORDS)
