"""What can happen to a night. Each fault draws its own measure, strikes once, and puts right what it broke.

What a fault does to the program's settings is there so that its end comes within a test's patience, not a night's.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import psutil

from icekeeper.core.enums import NIGHT, Stage
from icekeeper.sandbox.offload import Offload
from icekeeper.sandbox.world_spec import OFFLOAD_LAG, from_micros, to_micros
from tests.chaos.judge import Violation, Wrong
from tests.chaos.network import Part
from tests.chaos.scene import Scene
from tests.conftest import SLOT
from tests.integration.faults import Mode

# Within what time a standby has to lead.
TAKE_OVER_S = 30.0
# A clock that is set back by more than this before the slot takes the slot with it, beyond a test's patience.
_NOBODY_WAITS = timedelta(minutes=3)
# By then a slot that has come has been heard of: a step back at the slot's very instant may come before its timer.
_FIRED = timedelta(seconds=2)
ALL_STAGES = frozenset(NIGHT)
_BROKEN = (Mode.REFUSE, Mode.RESET, Mode.HANG)


@dataclass(frozen=True)
class Fault(ABC):
    """One thing that happens.

    `may_fail`: the stages whose tasks may have failed when the slot is closed, because of this; in all others every
    task must have come to its end. `replicas`: how many programs there are.
    """

    name: ClassVar[str]
    may_fail: ClassVar[frozenset[Stage]] = frozenset()
    replicas: ClassVar[int] = 1

    @classmethod
    def draw(cls, random: Random) -> Fault:
        """One of its kind."""
        return cls()

    @abstractmethod
    def strike(self, scene: Scene) -> None:
        """Happens now; returns when it is over."""

    def change(self, settings: dict[str, Any]) -> None:  # noqa: B027  # most need nothing
        """What it needs of the settings."""

    @contextmanager
    def around(self, directory: Path) -> Iterator[None]:
        """What it needs around the run, whose state directories lie in this one."""
        yield

    @classmethod
    def impossible(cls) -> str | None:
        """Why it can't happen on this machine; None where it can."""
        return None


class Calm(Fault):
    """Nothing: what all the others are measured by."""

    name = "nothing"

    def strike(self, scene: Scene) -> None:
        scene.tell("nothing happened")


class DaemonKilled(Fault):
    """SIGKILL: no handler, no exit function, no last words. It is started again."""

    name = "daemon killed"

    def strike(self, scene: Scene) -> None:
        scene.tell("SIGKILL to the daemon")
        scene.program.kill()


class Deployed(Fault):
    """SIGTERM, and a start: what a new version means to the old one."""

    name = "deployed"

    def strike(self, scene: Scene) -> None:
        scene.tell("SIGTERM to the daemon")
        scene.program.terminate()


class JvmKilled(Fault):
    """The JVM dies, as by the kernel's hand where memory is short."""

    name = "JVM killed"

    def strike(self, scene: Scene) -> None:
        jvms = scene.program.jvms()
        scene.tell(f"SIGKILL to {len(jvms)} JVM")
        _send(jvms, signal.SIGKILL)


class JvmStopped(Fault):
    """The JVM stands still and holds its connections: only a deadline finds that out."""

    name = "JVM stopped"

    def change(self, settings: dict[str, Any]) -> None:
        _stages(settings, timeout="20s")

    def strike(self, scene: Scene) -> None:
        jvms = scene.program.jvms()
        scene.tell(f"SIGSTOP to {len(jvms)} JVM")
        _send(jvms, signal.SIGSTOP)


@dataclass(frozen=True)
class _Away(Fault):
    """A part can't be reached for a while."""

    part: ClassVar[Part]
    mode: Mode
    seconds: float

    @classmethod
    def draw(cls, random: Random) -> Fault:
        return cls(random.choice(_BROKEN), round(random.uniform(1, 10), 1))

    def change(self, settings: dict[str, Any]) -> None:
        _stages(settings, timeout="30s")

    def strike(self, scene: Scene) -> None:
        scene.tell(f"connections to the {self.part}: {self.mode.value}")
        scene.network.set(self.part, self.mode)
        scene.rest(self.seconds)
        scene.network.set(self.part, Mode.PASS)
        scene.tell(f"the {self.part} is back")


class LedgerAway(_Away):
    """The ledger's PostgreSQL is away, the catalog's isn't: nothing may come of it."""

    name = "ledger away"
    part = Part.LEDGER


class SourceAway(_Away):
    """ClickHouse is away: audits that can't count are errors, and that is the truth."""

    name = "ClickHouse away"
    part = Part.SOURCE
    may_fail = frozenset({Stage.AUDIT})


class StoreAway(_Away):
    """S3 is away: anything may fail, and no file may be lost for it."""

    name = "S3 away"
    part = Part.STORE
    may_fail = ALL_STAGES


@dataclass(frozen=True)
class PostgresStopped(Fault):
    """The server stops and starts, with the ledger, and the catalog of most worlds: every session is cut off."""

    name = "PostgreSQL stopped"
    may_fail = ALL_STAGES
    seconds: float

    @classmethod
    def draw(cls, random: Random) -> Fault:
        return cls(round(random.uniform(0, 8), 1))

    def strike(self, scene: Scene) -> None:
        scene.tell("PostgreSQL stops")
        scene.box.postgres.stop()
        scene.rest(self.seconds)
        scene.box.postgres.start()
        scene.tell("PostgreSQL is back")


@dataclass(frozen=True)
class DiskFull(Fault):
    """The file system of the state directory has no byte left for a while."""

    name = "disk full"
    may_fail = ALL_STAGES
    seconds: float

    @classmethod
    def draw(cls, random: Random) -> Fault:
        return cls(round(random.uniform(2, 10), 1))

    @classmethod
    def impossible(cls) -> str | None:
        if os.geteuid() != 0 or shutil.which("mount") is None:
            return "only root may mount the small file system that it needs"
        return None

    @contextmanager
    def around(self, directory: Path) -> Iterator[None]:
        # Each JVM has its own copy of the jars in the state directory.
        mount = ["mount", "-t", "tmpfs", "-o", "size=640m,mode=0755", "chaos", str(directory)]
        subprocess.run(mount, check=True)
        try:
            yield
        finally:
            subprocess.run(["umount", "--lazy", str(directory)], check=True)

    def strike(self, scene: Scene) -> None:
        ballast = scene.program.config.parent / "ballast"
        scene.tell("the disk is full")
        with ballast.open("wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                with suppress(OSError):
                    while True:
                        file.write(bytes(size))
        scene.rest(self.seconds)
        ballast.unlink()
        scene.tell("the disk has room again")


@dataclass(frozen=True)
class ClockStepped(Fault):
    """The host's clock jumps: back over the slot's own instant, or on by hours."""

    name = "clock stepped"
    seconds: float

    @classmethod
    def draw(cls, random: Random) -> Fault:
        return cls(random.choice((-3600.0, -90.0, -10.0, 30.0, 1800.0, 7200.0)))

    def strike(self, scene: Scene) -> None:
        under_way = scene.clock.now() >= SLOT + _FIRED
        self._step(scene, self.seconds)
        if not under_way and scene.clock.now() < SLOT - _NOBODY_WAITS:
            scene.rest(3)
            self._step(scene, -self.seconds)  # somebody sets it right again

    def _step(self, scene: Scene, seconds: float) -> None:
        scene.tell(f"the clock jumps by {seconds:+.0f} s")
        scene.clock.step(seconds)
        for program in scene.programs:
            program.step_clock(seconds)


@dataclass(frozen=True)
class HangUps(Fault):
    """SIGHUP twenty times a second, and each time the file says something else: a deployment script has gone mad."""

    name = "SIGHUP storm"
    seconds: float

    @classmethod
    def draw(cls, random: Random) -> Fault:
        return cls(round(random.uniform(1, 8), 1))

    def strike(self, scene: Scene) -> None:
        scene.tell(f"SIGHUP 20 times a second, for {self.seconds} s")
        program = scene.program
        before = program.config.read_text()
        other = before.replace("retry_delay: 1s", "retry_delay: 2s")
        assert other != before
        for text, _ in zip(cycle((other, before)), range(round(self.seconds * 10) * 2), strict=False):
            # At once or not at all: half a file is another fault.
            new = program.config.with_suffix(".new")
            new.write_text(text)
            new.replace(program.config)
            program.hang_up()
            scene.rest(0.05)


@dataclass(frozen=True)
class Offloaded(Fault):
    """The offload commits to every table meanwhile."""

    name = "offload commits"
    ticks: int

    @classmethod
    def draw(cls, random: Random) -> Fault:
        return cls(random.randint(1, 5))

    def strike(self, scene: Scene) -> None:
        offload, step = Offload(scene.world), scene.world.spec.step_us
        for _ in range(self.ticks):
            at = from_micros(to_micros(scene.world.traded_until() + OFFLOAD_LAG) + step)
            rows = offload.run(at=at)
            scene.tell(f"the offload appends {rows} rows")


class LeaderKilled(Fault):
    """Two replicas; the leader dies in the middle, and does not come back before the slot is closed."""

    name = "leader killed"
    replicas = 2

    def change(self, settings: dict[str, Any]) -> None:
        settings["replicas"] = True

    def strike(self, scene: Scene) -> None:
        leader = scene.program
        scene.tell("SIGKILL to the leader")
        leader.wanted = False
        leader.kill()
        killed_at = time.monotonic()
        others = [program for program in scene.programs if program is not leader]
        while not any(_leads(program.log_lines()) for program in others):
            if scene.over.wait(0.1):
                return
        took = time.monotonic() - killed_at
        scene.tell(f"the standby leads after {took:.1f} s")
        if took > TAKE_OVER_S:
            scene.wrong.append(Violation(Wrong.LATE, f"the standby led only after {took:.1f} s"))


def _leads(log_lines: Iterator[Mapping[str, Any]]) -> bool:
    return any(line.get("event") == "lease_acquired" for line in log_lines)


def _send(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def _stages(settings: dict[str, Any], **values: Any) -> None:
    for stage in NIGHT:
        settings.setdefault(stage.value, {}).update(values)


# The first are the quickest: a short campaign is made of them.
FAULTS: tuple[type[Fault], ...] = (
    DaemonKilled,
    Offloaded,
    LedgerAway,
    Deployed,
    HangUps,
    Calm,
    JvmKilled,
    SourceAway,
    StoreAway,
    PostgresStopped,
    ClockStepped,
    DiskFull,
    JvmStopped,
    LeaderKilled,
)
