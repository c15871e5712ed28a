"""The real daemon, on a host without servers, is stopped while something of it hangs."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.process.program import running, wait_for
from tests.unit.test_worker import settings_of


def test_a_disk_that_hangs_keeps_no_daemon_from_ending(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    os.mkfifo(tmp_path / "state" / "pause.json")  # who reads it waits for ever, as on a mount whose server is away
    settings_of(tmp_path, "cold.a", spark={"home": "/nowhere"}, http={"listen": "127.0.0.1:0"})
    log = tmp_path / "stderr"
    with running("serve", config=tmp_path / "icekeeper.yaml", log=log) as daemon:
        wait_for("the start", lambda: "service_started" in log.read_text())
        os.kill(daemon.pid, signal.SIGTERM)
        wait_for("the stop", lambda: "service_stopped" in log.read_text())
        assert daemon.wait(20) == 0
    assert "threads_left_behind" in log.read_text()
