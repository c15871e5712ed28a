"""SIGTERM once and twice, and a daemon that stops for a reason of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

_PROGRAM = """
import asyncio, os, signal
from icekeeper.service.signals import Signals

async def main():
    signals = Signals()
    signals.install()
    signals.before_kill(lambda: print("killed", flush=True))
    for step in {steps!r}:
        if step == "stop":
            signals.stop.set()
        else:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(signals.stop.wait(), 30)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
    print("stopping", flush=True)

asyncio.run(main())
"""


def _run(*steps: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(steps=steps)], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout.split()


def test_the_first_sigterm_asks_for_a_stop_and_the_second_ends_the_process() -> None:
    assert _run("signal") == (0, ["stopping"])
    code, output = _run("signal", "signal")
    assert (code, output[-1]) == (130, "killed")


def test_the_first_sigterm_of_a_daemon_that_stops_by_itself_is_not_its_second() -> None:
    assert _run("stop", "signal") == (0, ["stopping"])


_LOGGING = """
import asyncio, os, signal, sys
from pathlib import Path
import structlog
from icekeeper.execution import logging as logs
from icekeeper.service.signals import Signals

def say():
    for number in range(300):
        structlog.get_logger().info("line", run_id="a-run", number=number)

async def main():
    logs.configure("info", "json", Path(sys.argv[1]), console_level="error")
    signals = Signals()
    signals.install()
    signals.before_kill(say)
    os.kill(os.getpid(), signal.SIGTERM)
    await signals.stop.wait()
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_the_second_sigterm_loses_no_log_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _LOGGING, str(tmp_path)], capture_output=True, check=False, timeout=60)
    assert done.returncode == 130
    assert len((tmp_path / "runs" / "a-run.jsonl").read_text().splitlines()) == 300
