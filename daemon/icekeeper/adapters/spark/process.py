"""The JVM's process: why it did not start, and how it exited. `session.py` starts and kills it."""

from __future__ import annotations

import shutil
import signal
import subprocess

from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.core.errors import IcekeeperError, PermanentError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.core.secrets import hide_in_text

# java -XX:+ExitOnOutOfMemoryError exits with this code.
EXIT_OUT_OF_MEMORY = 3
# How long a JVM may take to exit by itself, removing its scratch files.
EXIT_S = 5.0
# With less free space than this (bytes) no JVM starts.
_LEAST_DISK = 1024**2
_NO_SPACE = "No space left on device"


def not_started(cause: str, options: SparkOptions) -> IcekeeperError:
    """The error of a start that failed. On a full disk Spark fails in many ways, and can't always write why."""
    existing = next(path for path in (options.state_dir, *options.state_dir.parents) if path.exists())
    # What it could not write is removed when it fails, and there is room again.
    if shutil.disk_usage(existing).free < _LEAST_DISK or _NO_SPACE in cause:
        text = f"Spark did not start: the file system of {existing} is full: {hide_in_text(cause)}"
        return PermanentError(text, reason=Reason.DISK_LOW)  # a retry would find it as full
    return TransientError(f"Spark did not start: {hide_in_text(cause)}", reason=Reason.ENGINE_DOWN)


def errors_in(text: str, lines: int = 3) -> str:
    """The last lines of a JVM's output that name an error; empty where none does."""
    errors = [line.strip() for line in text.splitlines() if "Exception" in line or "Error" in line]
    return " | ".join(errors[-lines:])


def exit_code(jvm: subprocess.Popen[bytes]) -> int | None:
    """The exit code of a JVM that is leaving, None if it has not left after EXIT_S seconds."""
    try:
        return jvm.wait(EXIT_S)
    except subprocess.TimeoutExpired:
        return None


def describe_exit(code: int | None) -> str:
    """An exit code in words; Popen's is negative after a signal."""
    if code == -signal.SIGKILL:
        return "killed; if nobody did it by hand, the host or the container ran out of memory"
    return f"exit code {code}"
