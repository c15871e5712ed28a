"""Log lines: what the daemon says, where it can't be said."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import pytest
import structlog

from icekeeper.execution import logging as logs


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_line_that_cant_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[object] = []
    with suppress(OSError), open("/dev/full", "w", buffering=1) as full:  # its end says again what could not be written
        monkeypatch.setattr(sys, "stderr", full)
        logs.configure("info", "json", None)
        try:
            log = structlog.get_logger("somebody")
            for say in (log.info, log.error, log.exception, log.bind(run_id="1").warning):
                told.append(say("disk_full"))
        finally:
            monkeypatch.undo()
            logs.configure("info", "json", None)
            structlog.reset_defaults()
    assert len(told) == 4
