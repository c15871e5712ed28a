"""The stage of one run: a world, the program on it (two, as replicas), its clock, and the instants of its night."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import psycopg2  # type: ignore[import-untyped]  # no annotations

from icekeeper.sandbox import Sandbox, World
from tests.chaos.judge import Violation
from tests.chaos.network import Network
from tests.conftest import SLOT
from tests.process.program import environment

_ROOT = Path(__file__).parents[2]
# As a unit's RestartSec.
_RESTART_S = 1.0
_LOOK_S = 0.05
# Every process of a run has its name in the environment, so that none can hide by losing its parent.
_MARK = "CHAOS_RUN"


@dataclass(frozen=True)
class Moment:
    """An instant of the night: so long after this many tasks have ended. -1 tasks: since the service has started."""

    tasks: int
    delay_s: float

    def __str__(self) -> str:
        after = {-1: "the start", 0: "the night began"}.get(self.tasks, f"task {self.tasks}")
        return f"{self.delay_s:.2f} s after {after}"


class Clock:
    """The world's time: it goes on at its pace, and makes steps."""

    def __init__(self, start: datetime) -> None:
        self._start = start
        self._began = time.monotonic()
        self._stepped = 0.0

    def now(self) -> datetime:
        return self._start + timedelta(seconds=time.monotonic() - self._began + self._stepped)

    def step(self, seconds: float) -> None:
        self._stepped += seconds

    def since(self, moment: datetime) -> float:
        """How many seconds really went by since it showed that instant for the first time."""
        return time.monotonic() - self._began - (moment - self._start).total_seconds()


class Program:
    """One `icekeeper serve`, which `tend` starts again when it has ended, as systemd would."""

    def __init__(self, config: Path, directory: Path, clock: Clock, mark: str) -> None:
        self.config = config
        self.log = directory / "stderr"
        self.starts = 0
        # How it ended where nobody had asked for it.
        self.deaths: list[int] = []
        self.wanted = True
        self._step = directory / "clock"
        self._clock = clock
        self._mark = mark
        self._process: subprocess.Popen[bytes] | None = None
        self._asked = False
        self._ended_at = 0.0
        self._read_from = 0

    def tend(self) -> None:
        """Starts it where it isn't running and is wanted."""
        if self._process is not None and (code := self._process.poll()) is not None:
            if not self._asked:
                self.deaths.append(code)
            self._process, self._ended_at = None, time.monotonic()
        if self._process is None and self.wanted and time.monotonic() - self._ended_at >= _RESTART_S:
            self._start()

    def _start(self) -> None:
        self._asked = False
        self.starts += 1
        self._read_from = self.log.stat().st_size if self.log.exists() else 0
        command = [sys.executable, "-m", "tests.chaos.child", self._clock.now().isoformat(), str(self._step)]
        command += ["serve", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=_ROOT, env={**environment(), _MARK: self._mark}
            )

    @property
    def up(self) -> bool:
        """Whether it has said that it has started, and so takes signals."""
        process = self._process
        if process is None or process.poll() is not None:
            return False
        with self.log.open("rb") as log:
            log.seek(self._read_from)
            return b'"service_started"' in log.read()

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def hang_up(self) -> None:
        if self.up:  # before that, it would be its end
            self._send(signal.SIGHUP)

    def step_clock(self, seconds: float) -> None:
        if self.up:
            self._step.write_text(str(seconds))
            self._send(signal.SIGUSR2)

    def _send(self, number: signal.Signals) -> None:
        process = self._process
        if process is not None:
            self._asked = self._asked or number in (signal.SIGKILL, signal.SIGTERM)
            process.send_signal(number)

    def stop(self, patience_s: float) -> bool:
        """Asks for its end, and kills it where that does not come; whether it came."""
        self.wanted = False
        self.terminate()
        if self._process is None:
            return True
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        return True

    def jvms(self) -> list[psutil.Process]:
        process = self._process
        if process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            return [one for one in psutil.Process(process.pid).children(recursive=True) if one.name() == "java"]
        return []

    def log_lines(self) -> Iterator[dict[str, Any]]:
        """The lines of its log; what a death cut in half is left out."""
        for line in self.log.read_text(errors="replace").splitlines() if self.log.exists() else ():
            with suppress(ValueError):
                document = json.loads(line)
                if isinstance(document, dict):
                    yield document


class Scene:
    """What the faults see of a run."""

    def __init__(self, box: Sandbox, world: World, network: Network, mark: str, lead: timedelta) -> None:
        """`lead` before the slot the clock begins."""
        self.box = box
        self.world = world
        self.network = network
        self.clock = Clock(SLOT - lead)
        self.programs: list[Program] = []
        # The slot is closed, or nobody waits for that any more.
        self.over = threading.Event()
        # What the faults did, as it happened.
        self.happened: list[str] = []
        # What they saw that must not be.
        self.wrong: list[Violation] = []
        self._mark = mark
        self._began = time.monotonic()

    def add(self, config: Path, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        self.programs.append(Program(config, directory, self.clock, self._mark))

    @property
    def program(self) -> Program:
        """The one that leads the night: whose log tells of the latest run."""
        return max(self.programs, key=lambda program: (_at(program, "run_started"), -self.programs.index(program)))

    def tell(self, what: str) -> None:
        self.happened.append(f"{time.monotonic() - self._began:.1f} s: {what}")

    def await_moment(self, moment: Moment) -> bool:
        """Waits for it; False where the night is over before."""
        while not self._reached(moment.tasks):
            if self.over.wait(_LOOK_S):
                return False
        return not self.over.wait(moment.delay_s)

    def _reached(self, tasks: int) -> bool:
        events = [line.get("event") for program in self.programs for line in program.log_lines()]
        if tasks < 0:
            return "service_started" in events
        return "run_started" in events and events.count("task_done") >= tasks

    def rest(self, seconds: float) -> None:
        """How long a fault lasts; the end of the night doesn't shorten it."""
        time.sleep(seconds)

    def closed(self) -> str | None:
        """The outcome that closed the slot; None while it is open, or where PostgreSQL doesn't tell."""
        query = "SELECT outcome FROM maintenance_runs WHERE slot = $1 AND outcome <> 'interrupted'"
        try:
            rows = self.world.postgres.execute(self.world.postgres_database, query, SLOT)
        except psycopg2.OperationalError:
            return None
        return str(rows[0][0]) if rows else None

    def processes(self) -> list[psutil.Process]:
        """All processes of this run that live, whoever their parent is."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.environ().get(_MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found


def _at(program: Program, event: str) -> str:
    """When a program has last said so, by the real clock's order; empty where it never has."""
    return max((str(line["timestamp"]) for line in program.log_lines() if line.get("event") == event), default="")
