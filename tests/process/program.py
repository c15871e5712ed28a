"""Starting the real program, waiting for what it does, and making sure that nothing of it is left."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import psutil

from tests.process import preloaded
from tests.process.preloaded import Program

T = TypeVar("T")
PATIENCE_S = 120.0

# `icekeeper` with another clock. It starts once the modules of `serve` are imported, in the order of that command: on a
# busy machine that takes longer than a test leaves before a slot.
_AT = """
import datetime, sys, time_machine
from icekeeper.cli import main
import icekeeper.execution.logging, icekeeper.service.ending, icekeeper.service.supervisor
time_machine.travel(datetime.datetime.fromisoformat(sys.argv.pop(1)), tick=True).start()
main()
"""


def icekeeper(
    *arguments: str | Path, config: Path, timeout: float = PATIENCE_S, fresh: bool = False
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end. `fresh`: by an interpreter of its own, as `python -m icekeeper`."""
    command = [*map(str, arguments), "--config", str(config)]
    if fresh:
        command = [sys.executable, "-m", "icekeeper", *command]
        return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment(), check=False)
    return preloaded.run(*command, timeout=timeout, env=environment())


def document(done: subprocess.CompletedProcess[str]) -> Any:
    """The one JSON document on stdout."""
    assert done.stdout, (done.returncode, done.stderr)
    return json.loads(done.stdout)


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("ICEKEEPER_")}


@contextmanager
def running(
    *arguments: str | Path,
    config: Path,
    log: Path,
    out: Path | None = None,
    at: datetime | None = None,
    fresh: bool = False,
) -> Iterator[Program | subprocess.Popen[bytes]]:
    """The program under way, its stderr in `log` and its stdout there or in `out`; its clock shows `at` when it starts.

    It and its children are gone when the block ends. `fresh`: by an interpreter of its own, as `python -m icekeeper`.
    """
    process: Program | subprocess.Popen[bytes]
    command = [*map(str, arguments), "--config", str(config)]
    with log.open("ab") as errors, (out or log).open("ab" if out is None else "wb") as output:
        if fresh:
            program = ["-m", "icekeeper"] if at is None else ["-c", _AT, at.isoformat()]
            command = [sys.executable, *program, *command]
            process = subprocess.Popen(command, stdout=output, stderr=errors, env=environment())
        else:
            process = preloaded.start(
                *command, stdout=output.fileno(), stderr=errors.fileno(), env=environment(), at=at
            )
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):  # it may have ended already
        family.append(psutil.Process(process.pid))
    try:
        yield process
        family += children(process.pid)
    finally:
        family += children(process.pid)
        for member in family:
            if member.is_running():
                member.kill()
        process.wait()


def children(pid: int) -> list[psutil.Process]:
    """All descendants of a process that still runs."""
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    return found


def wait_for(what: str, look: Callable[[], T | None], seconds: float = PATIENCE_S) -> T:
    """Looks until there is something to see; fails with `what` where there is nothing in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            return seen
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds:.0f} s in vain: {what}")


def fetch(url: str) -> str | None:
    """The body of a page, None where nobody answers (yet)."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            body: str = answer.read().decode()
            return body
    except OSError:
        return None


def metrics(base: str) -> dict[str, float]:
    """The samples that a scrape shows, by name and labels as they are written; empty where nobody answers."""
    samples: dict[str, float] = {}
    for line in (fetch(f"{base}/metrics") or "").splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            samples[name] = float(value)
    return samples
