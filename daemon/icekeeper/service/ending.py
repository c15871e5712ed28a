"""The end of the daemon's process, also where one of its threads hangs on a disk: Python would wait for that thread."""

from __future__ import annotations

import os
import threading

import structlog

from icekeeper.execution.log_files import flush

log = structlog.get_logger(__name__)

# How long the last log lines of a run may take to be written.
_FLUSH_S = 0.5


def end_at_once(code: int) -> None:
    """Ends this process without waiting for anything but the log lines of its last moment."""
    flush(_FLUSH_S)
    os._exit(code)


def end_within(seconds: float, code: int) -> None:
    """Ends this process with this code if it has not ended by itself after so many seconds."""

    def end() -> None:
        hanging = [thread.name for thread in threading.enumerate() if not thread.daemon]
        log.error("threads_left_behind", threads=hanging)
        end_at_once(code)

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
