"""Starting Spark's JVM as a child that can't outlive us, connecting to it, and forgetting one that is gone.

PySpark would start it, too, but returns its process only once it is up: a start that hangs could not be ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from pyspark import SparkContext
from pyspark.find_spark_home import _find_spark_home
from pyspark.java_gateway import launch_gateway
from pyspark.serializers import UTF8Deserializer, read_int
from pyspark.sql import SparkSession

from icekeeper.adapters.spark.options import SparkOptions

log = structlog.get_logger(__name__)

# The kernel kills the JVM when this process dies, whatever the cause. The JVM itself watches its stdin, but one that is
# stopped, or whose shutdown waits for a store that is down, would stay. The option (PR_SET_PDEATHSIG = 1) outlives
# `exec`, and holds for the thread that forks: the session's own, which ends after its JVM. A program of its own sets
# it, because code between fork and exec may deadlock in a process with many threads.
_DIE_WITH_PARENT = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGKILL)})
if os.getppid() != int(sys.argv[1]):
    sys.exit("its parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
_POLL_S = 0.05
_PORT, _SECRET = "PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET"


def spawn(options: SparkOptions, properties: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Starts `spark-submit` with the settings of a properties file; the path is that of its connection file.

    The caller has to read its stdout, or it blocks. Called in the session's thread. OSError where it is not installed.
    """
    connection_file = Path(tempfile.mkdtemp(dir=options.scratch)) / "connection"
    submit = Path(_find_spark_home()) / "bin" / "spark-submit"  # type: ignore[no-untyped-call]
    command = [str(submit), "--properties-file", str(properties), "pyspark-shell"]
    if not submit.exists():
        raise FileNotFoundError(2, "no spark-submit", str(submit))
    env = {**os.environ, "SPARK_CONNECT_MODE": "0", "_PYSPARK_DRIVER_CONN_INFO_PATH": str(connection_file)}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command],
        bufsize=0,
        stdin=subprocess.PIPE,  # the JVM exits when this is closed
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,  # a signal to our process group must not reach it
    )
    return process, connection_file


def connect(process: subprocess.Popen[bytes], connection_file: Path) -> Any:
    """PySpark's gateway to the JVM once that is up; ConnectionError where it exited before."""
    while not connection_file.is_file():
        if process.poll() is not None:
            raise ConnectionError(f"it exited before it was up (exit code {process.returncode})")
        time.sleep(_POLL_S)
    with connection_file.open("rb") as file:
        port = read_int(file)  # type: ignore[no-untyped-call]
        secret = UTF8Deserializer().loads(file)  # type: ignore[no-untyped-call]
    address: Mapping[str, str] = {_PORT: str(port), _SECRET: secret}
    os.environ.update(address)
    try:
        gateway = launch_gateway()  # type: ignore[no-untyped-call]  # connects to the address in these variables
    finally:
        for name in address:
            os.environ.pop(name, None)
    return gateway


def forget() -> None:
    """Makes PySpark forget a session whose JVM is gone: class attributes hold it, and it would be returned again."""
    gateway = SparkContext._gateway
    if gateway is not None:
        try:
            gateway.shutdown()
        except Exception as exc:  # the JVM is gone
            log.debug("gateway_shutdown_failed", error=str(exc))
    SparkContext._gateway = None
    SparkContext._jvm = None
    SparkContext._active_spark_context = None
    SparkSession._instantiatedSession = None
