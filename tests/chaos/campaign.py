"""Plays runs one after another on one sandbox. What a run is to be: `plan.py`; what is judged: `judge.py`."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil

from icekeeper.adapters.ledger.sql.migrations import migrate
from icekeeper.sandbox import Sandbox, World
from tests.chaos.judge import Before, Violation, Wrong, judge_ledger, judge_tables
from tests.chaos.network import Network, Part
from tests.chaos.plan import Plan, Strike
from tests.chaos.result import Result
from tests.chaos.scene import Program, Scene
from tests.conftest import SLOT, write_settings
from tests.process.program import environment

# How long a slot may stay open, from its start on. The longest way there is a JVM that stands still twice.
LIMIT_S = 300.0
_DRAIN_S = 30.0
_STOP_S = 60.0
_ORPHAN_S = 15.0
_LOOK_S = 0.1
# Worlds are never taken away, so now and then all of them are.
_WORLDS_A_SANDBOX = 25


class Campaign:
    """Runs on sandboxes that it makes and ends; one at a time. `keep`: where the logs of runs go, by seed."""

    def __init__(self, keep: Path | None = None) -> None:
        self._keep = keep

    def play(self, plans: Iterable[Plan], tell: Callable[[Result], None]) -> list[Result]:
        """Plays all; tells each result at once."""
        results: list[Result] = []
        waiting = list(plans)
        while waiting:
            some, waiting = waiting[:_WORLDS_A_SANDBOX], waiting[_WORLDS_A_SANDBOX:]
            with Sandbox.start() as box, Network(box) as network:
                lead = 4 * _time_to_start()
                for plan in some:
                    results.append(self._play(box, network, plan, lead))
                    tell(results[-1])
        return results

    def _play(self, box: Sandbox, network: Network, plan: Plan, lead: timedelta) -> Result:
        began = time.monotonic()
        world = box.world(plan.spec)
        asyncio.run(migrate(world.postgres.dsn(world.postgres_database), world.postgres.password))
        with tempfile.TemporaryDirectory(prefix="icekeeper-chaos-") as place, ExitStack() as stack:
            directory = Path(place)
            before = Before.of(world)
            for strike in plan.strikes:
                stack.enter_context(strike.fault.around(directory))
            run = _Run(box, world, network, plan, directory, lead)
            try:
                violations = run.night()
                violations += judge_tables(box, world, before)
                if run.outcome is not None:  # of an open slot the ledger can't tell the whole truth yet
                    violations += judge_ledger(world, plan.may_fail)
            except Exception:  # the campaign goes on; a run that nobody could judge is none that went well
                violations = [Violation(Wrong.NOT_JUDGED, traceback.format_exc())]
            finally:
                run.clear()
            if self._keep is not None:
                shutil.copytree(directory, self._keep / str(plan.seed), dirs_exist_ok=True, ignore=_scratch)
        return Result(
            seed=plan.seed,
            name=plan.name,
            plan=", ".join(map(str, plan.strikes)),
            struck=run.struck,
            outcome=run.outcome,
            closed_s=run.closed_s,
            starts=sum(program.starts for program in run.scene.programs),
            duration_s=round(time.monotonic() - began, 1),
            happened=tuple(run.scene.happened),
            violations=tuple(violations),
        )


class _Run:
    """A night, its faults, and its end."""

    def __init__(
        self, box: Sandbox, world: World, network: Network, plan: Plan, directory: Path, lead: timedelta
    ) -> None:
        self.scene = Scene(box, world, network, f"{world.name}-{id(self)}", lead)
        self.outcome: str | None = None
        self.closed_s: float | None = None
        self._plan = plan
        self._threads = [_Striking(strike, self.scene) for strike in plan.strikes]
        network.delay(Part.STORE, plan.store_delay_s)
        for number in range(plan.replicas):
            home = directory / f"host{number + 1}"
            home.mkdir()
            self.scene.add(write_settings(world, home / "icekeeper.yaml", home / "state", self._change), home)

    @property
    def struck(self) -> bool:
        return all(thread.struck for thread in self._threads)

    def _change(self, settings: dict[str, Any]) -> None:
        network = self.scene.network
        settings["catalog"]["properties"]["s3.endpoint"] = f"http://127.0.0.1:{network.port(Part.STORE)}"
        settings["clickhouse"]["url"] = f"http://127.0.0.1:{network.port(Part.SOURCE)}"
        server, ledger = f":{self.scene.box.postgres.port}/", f":{network.port(Part.LEDGER)}/"
        settings["postgres"]["dsn"] = settings["postgres"]["dsn"].replace(server, ledger)
        self._plan.change(settings)

    def night(self) -> list[Violation]:
        """From the program's start to its end."""
        found: list[Violation] = []
        with self._tended():
            for thread in self._threads:
                thread.start()
            if not self._wait(LIMIT_S, self._closed):
                found.append(Violation(Wrong.STUCK, f"the slot was still open after {LIMIT_S:.0f} s"))
            self.scene.over.set()
            for thread in self._threads:
                thread.end()
            self.scene.network.calm()
            if left := self._left_in_spool():
                found.append(Violation(Wrong.SPOOL_LEFT, f"{left} records", left))
        for program in self.scene.programs:
            if not program.stop(_STOP_S):
                found.append(Violation(Wrong.STUCK, f"it did not stop within {_STOP_S:.0f} s"))
            found += [Violation(Wrong.DIED, f"it ended by itself with code {code}") for code in program.deaths]
        if not self._wait(_ORPHAN_S, lambda: not self.scene.processes()):
            names = [process.name() for process in self.scene.processes()]
            found.append(Violation(Wrong.PROCESS_LEFT, f"after {_ORPHAN_S:.0f} s: {names}", len(names)))
        return found + self.scene.wrong

    def clear(self) -> None:
        """Whatever happened to us: nothing goes on, and everything is right again for the next run."""
        self.scene.over.set()
        self.scene.network.calm()
        if self.scene.box.postgres.pid is None:
            self.scene.box.postgres.start()
        for process in self.scene.processes():
            process.kill()
        psutil.wait_procs(self.scene.processes(), timeout=5)

    @contextmanager
    def _tended(self) -> Iterator[None]:
        """The programs are started, and started again, while this lasts."""
        done = threading.Event()

        def tend() -> None:
            while not done.wait(_LOOK_S):
                for program in self.scene.programs:
                    program.tend()

        tending = threading.Thread(target=tend, name="tend")
        tending.start()
        try:
            yield
        finally:
            done.set()
            tending.join()

    def _closed(self) -> bool:
        self.outcome = self.scene.closed()
        if self.outcome is not None:
            self.closed_s = round(self.scene.clock.since(SLOT), 1)
        return self.outcome is not None

    def _left_in_spool(self) -> int:
        """How many records wait, once PostgreSQL has been back for a while."""
        self._wait(_DRAIN_S, lambda: not any(map(_waiting, self.scene.programs)))
        return sum(map(_waiting, self.scene.programs))

    def _wait(self, seconds: float, true: Callable[[], bool]) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if true():
                return True
            time.sleep(_LOOK_S)
        return False


class _Striking(threading.Thread):
    """A fault that waits for its moment."""

    def __init__(self, strike: Strike, scene: Scene) -> None:
        super().__init__(name=strike.fault.name, daemon=True)
        self.struck = False
        self._strike = strike
        self._scene = scene
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            if self._scene.await_moment(self._strike.moment):
                self.struck = True
                self._strike.fault.strike(self._scene)
        except BaseException as exc:
            self._error = exc

    def end(self) -> None:
        """Waits for its end; raises what it raised."""
        self.join(60)
        if self.is_alive():
            raise TimeoutError(f"{self._strike} did not come to its end")
        if self._error is not None:
            raise self._error


def _time_to_start() -> timedelta:
    """How long the program's start takes here and now, most of which is reading its modules.

    The first start of all owes no slot, so it must be up before the slot comes, on a busy machine, too.
    """
    began = time.monotonic()
    subprocess.run([sys.executable, "-c", "import icekeeper.service.supervisor"], check=True, env=environment())
    return timedelta(seconds=time.monotonic() - began)


def _waiting(program: Program) -> int:
    """How many records the program's host still has to tell PostgreSQL; of a host that stays dead nobody expects it."""
    spool = program.config.parent / "state" / "spool.db"
    if not program.wanted or not spool.exists():
        return 0
    with closing(sqlite3.connect(f"file:{spool}?mode=ro", uri=True, timeout=5)) as database:
        (waiting,) = database.execute("SELECT count(*) FROM outbox WHERE shipped < revision").fetchone()
    return int(waiting)


def _scratch(directory: str, names: list[str]) -> list[str]:
    """What nobody wants to keep of a run, and what can't be kept."""
    return [name for name in names if name in ("spark", "java", "ballast") or name.endswith(".sock")]
