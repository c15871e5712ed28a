"""Log lines: what the daemon says where it can't be said, and the files of its runs."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import pytest
import structlog

from icekeeper.execution import logging as logs
from icekeeper.execution.log_files import flush, logs_of, run_log_path


@pytest.fixture
def state_dir(tmp_path: Path) -> Iterator[Path]:
    """A state directory, with the process's log lines going there."""
    logs.configure("info", "json", tmp_path, console_level="error")
    yield tmp_path
    logs.configure("info", "json", None)
    structlog.reset_defaults()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_line_that_cant_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    returned: list[object] = []
    with suppress(OSError), open("/dev/full", "w", buffering=1) as full:  # its end says again what could not be written
        monkeypatch.setattr(sys, "stderr", full)
        logs.configure("info", "json", None)
        try:
            log = structlog.get_logger("somebody")
            for say in (log.info, log.error, log.exception, log.bind(run_id="1").warning):
                returned.append(say("disk_full"))
        finally:
            monkeypatch.undo()
            logs.configure("info", "json", None)
            structlog.reset_defaults()
    assert len(returned) == 4


async def test_a_disk_that_hangs_holds_up_no_caller_of_the_log_and_no_line_is_lost_or_out_of_order(
    state_dir: Path,
) -> None:
    hangs, goes = run_log_path(state_dir, "1"), run_log_path(state_dir, "2")
    hangs.parent.mkdir()
    os.mkfifo(hangs)  # opening it waits for a reader
    log = structlog.get_logger()
    saying = threading.Thread(
        target=lambda: [log.info("said", run_id=run_id, n=n) for n in range(100) for run_id in "12"], daemon=True
    )
    saying.start()
    await asyncio.to_thread(saying.join, 10)
    assert not saying.is_alive()
    assert not flush(timeout_s=0)

    reader = os.open(hangs, os.O_RDWR)  # the disk answers again
    assert flush()
    in_order = list(range(100))
    assert [json.loads(line)["n"] for line in os.read(reader, 2**20).splitlines()] == in_order
    assert [json.loads(line)["n"] for line in goes.read_text().splitlines()] == in_order
    os.close(reader)


def test_what_a_run_has_logged_so_far_is_in_its_lines(state_dir: Path) -> None:
    run_id, log = uuid4(), structlog.get_logger()
    for n in range(1000):
        log.info("said", run_id=str(run_id), n=n)
        if n % 100 == 0:
            assert [line["n"] for line in logs_of(state_dir, run_id)] == list(range(n + 1))


def test_lines_logged_before_and_after_a_reload_keep_their_order(state_dir: Path) -> None:
    run_id = uuid4()
    for n in range(200):
        if n % 50 == 0:
            logs.configure("info", "json", state_dir, console_level="error")
        structlog.get_logger().info("said", run_id=str(run_id), n=n)
    assert [line["n"] for line in logs_of(state_dir, run_id)] == list(range(200))


def test_a_state_directory_that_takes_no_file_ends_nothing(state_dir: Path) -> None:
    (state_dir / "runs").write_text("in the way")
    log = structlog.get_logger()
    log.info("lost", run_id="1")
    assert flush()
    (state_dir / "runs").unlink()
    log.info("kept", run_id="1")
    assert flush()
    assert json.loads(run_log_path(state_dir, "1").read_text())["event"] == "kept"


def test_a_process_that_ends_has_written_all_its_lines(tmp_path: Path) -> None:
    program = (
        "import sys, structlog\n"
        "from pathlib import Path\n"
        "from icekeeper.execution import logging\n"
        "logging.configure('info', 'json', Path(sys.argv[1]), console_level='error')\n"
        "for n in range(500): structlog.get_logger().info('said', run_id='1', n=n)\n"
        "sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == 3
    assert len(run_log_path(tmp_path, "1").read_text().splitlines()) == 500
