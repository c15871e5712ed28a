"""Starting Spark's JVM as a child that can't outlive us, and forgetting one that is gone. The session: `spark.py`.

PySpark would start it, too, but tells nobody its process before it has come up: a start that hangs could not be ended.
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

# The kernel kills the JVM when we die, however we do: it also watches its stdin, but one that is stopped, or whose
# shutdown waits for a store that is away, would stay. The option (PR_SET_PDEATHSIG = 1) outlives `exec`, and holds for
# the thread that forks: the session's own, which ends after its JVM. A program of its own sets it, because code
# between fork and exec may deadlock in a process of many threads.
_LEASH = f"""
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, {int(signal.SIGKILL)})
if os.getppid() != int(sys.argv[1]):
    sys.exit("its parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
_LOOK_EVERY_S = 0.05
_PORT, _SECRET = "PYSPARK_GATEWAY_PORT", "PYSPARK_GATEWAY_SECRET"


def spawn(options: SparkOptions, properties: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Starts `spark-submit` with the settings of a properties file; the path is where it will say how it is reached.

    What it says comes out of its stdout: whoever starts it has to read that, or it will wait. Called in the session's
    thread. OSError where there is no such program.
    """
    said_at = Path(tempfile.mkdtemp(dir=options.scratch)) / "connection"
    submit = Path(_find_spark_home()) / "bin" / "spark-submit"  # type: ignore[no-untyped-call]
    command = [str(submit), "--properties-file", str(properties), "pyspark-shell"]
    if not submit.exists():
        raise FileNotFoundError(2, "no spark-submit", str(submit))
    env = {**os.environ, "SPARK_CONNECT_MODE": "0", "_PYSPARK_DRIVER_CONN_INFO_PATH": str(said_at)}
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _LEASH, str(os.getpid()), *command],
        bufsize=0,
        stdin=subprocess.PIPE,  # the JVM leaves when this is closed
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=env,
        start_new_session=True,  # a signal to our group is ours to answer
    )
    return process, said_at


def connect(process: subprocess.Popen[bytes], said_at: Path) -> Any:
    """PySpark's gateway to the JVM once it has come up; ConnectionError where it left before that."""
    while not said_at.is_file():
        if process.poll() is not None:
            raise ConnectionError(f"it left before it was up (exit code {process.returncode})")
        time.sleep(_LOOK_EVERY_S)
    with said_at.open("rb") as file:
        port = read_int(file)  # type: ignore[no-untyped-call]
        secret = UTF8Deserializer().loads(file)  # type: ignore[no-untyped-call]
    reached: Mapping[str, str] = {_PORT: str(port), _SECRET: secret}
    os.environ.update(reached)
    try:
        gateway = launch_gateway()  # type: ignore[no-untyped-call]  # connects to the one that these name
    finally:
        for name in reached:
            os.environ.pop(name, None)
    return gateway


def forget() -> None:
    """Makes PySpark forget a session whose JVM is gone: it keeps it in class attributes and would hand it out again."""
    gateway = SparkContext._gateway
    if gateway is not None:
        try:
            gateway.shutdown()
        except Exception as exc:  # there is nobody at the other end
            log.debug("gateway_shutdown_failed", error=str(exc))
    SparkContext._gateway = None
    SparkContext._jvm = None
    SparkContext._active_spark_context = None
    SparkSession._instantiatedSession = None
