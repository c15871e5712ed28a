"""The JVM's process: why it did not start, and how it left. Who starts and kills it is `spark.py`."""

from __future__ import annotations

import shutil
import subprocess

from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.secrets import hide_in_text

# java -XX:+ExitOnOutOfMemoryError leaves with this code.
EXIT_OUT_OF_MEMORY = 3
# How long a JVM may take to leave by itself, taking its scratch files with it.
LEAVE_S = 5.0
# With less than this (bytes) free for its files no JVM starts.
_LEAST_DISK = 1024**2
_NO_SPACE = "No space left on device"


def not_started(said: str, options: SparkOptions) -> IcekeeperError:
    """The error of a start that failed. On a full disk Spark fails in many ways, and can't always write why."""
    there = next(path for path in (options.state_dir, *options.state_dir.parents) if path.exists())
    # What it could not write is removed when it fails, and there is room again.
    if shutil.disk_usage(there).free < _LEAST_DISK or _NO_SPACE in said:
        text = f"Spark did not start: the file system of {there} is full: {hide_in_text(said)}"
        return PermanentError(text, reason=Reason.DISK_LOW)  # it stays full while a retry is waited for
    return TransientError(f"Spark did not start: {hide_in_text(said)}", reason=Reason.ENGINE_DOWN)


def errors_in(text: str, lines: int = 3) -> str:
    """The last lines of what a JVM said that tell of an error; empty where none does."""
    telling = [line.strip() for line in text.splitlines() if "Exception" in line or "Error" in line]
    return " | ".join(telling[-lines:])


def left(jvm: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a JVM that is leaving, None if it doesn't within LEAVE_S seconds."""
    try:
        return jvm.wait(LEAVE_S)
    except subprocess.TimeoutExpired:
        return None
