"""Log lines: what the daemon says, where it can't be said."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from daemon.service import logs


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_line_that_cant_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    full = open("/dev/full", "w", buffering=1)
    monkeypatch.setattr(sys, "stderr", full)
    logs.configure("info", "json", None)
    try:
        log = structlog.get_logger("somebody")
        log.error("disk_full")
        log.exception("disk_full")
        log.bind(run_id="1").info("disk_full")
    finally:
        structlog.reset_defaults()
        monkeypatch.undo()
        logs.configure("info", "json", None)
        structlog.reset_defaults()
        with suppress(OSError):  # the lines that never went
            full.close()
