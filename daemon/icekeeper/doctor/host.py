"""Checks of this host: Python, the state directory, the settings' own warnings, memory, Java. No other system."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from icekeeper import __version__
from icekeeper.adapters.host import memory_free, memory_room
from icekeeper.adapters.spark.java import JavaHome, find_java
from icekeeper.adapters.spool.opening import corrupt_files
from icekeeper.adapters.users import user_name
from icekeeper.core.formats import size
from icekeeper.core.tables.restraints import by_disk
from icekeeper.doctor.check import Check, Subject, guarded, no_errors
from icekeeper.execution.wiring import Services
from icekeeper.settings import Settings
from icekeeper.settings.messages.warnings import warnings
from icekeeper.settings.values.heap import heap_mib, largest, needed

OLDEST_PYTHON = (3, 11)
_MIB = 1024**2
# What the doctor's own session was measured to use, and some more.
_SESSION_MEMORY = 640 * _MIB
# The offload or a shell may run in the same container.
_COMFORTABLE_SHARE = 0.80


@dataclass(frozen=True, slots=True)
class HostChecks:
    """The checks, Java's feature release, and why no session may be started (None: it may)."""

    checks: list[Check]
    java: int | None
    blocked: str | None


async def examine_host(services: Services, environ: Mapping[str, str]) -> HostChecks:
    settings = services.settings
    checks = [python_check(sys.version_info[:3])]
    directory = await guarded(Subject.STATE_DIR, partial(asyncio.to_thread, _state_dir, settings.state_dir))
    if usable := no_errors(directory):
        directory = await guarded(Subject.STATE_DIR, partial(_with_free_space, services, directory))
        directory += [*spool_check(settings.state_dir), *await guarded(Subject.STATE_DIR, _localhost)]
    checks += [*directory, *await guarded(Subject.SETTINGS, partial(_settings_checks, settings))]
    checks.append(heap_check(settings.spark.driver_memory, *memory_room()))
    if not usable:
        because = "the state directory can't be used"
        return HostChecks([*checks, Subject.JAVA.skipped(because)], None, because)
    found: list[JavaHome] = []

    async def java() -> list[Check]:
        found.append(await asyncio.to_thread(find_java, environ, settings.state_dir / "java"))
        return [Subject.JAVA.passed(f"Java {found[0].major} from {found[0].origin}")]

    checks += await guarded(Subject.JAVA, java)
    if not found:
        return HostChecks(checks, None, "there is no Java for Spark")
    if (crowded := room_check(memory_free())) is not None and not services.engine.up:
        return HostChecks([*checks, crowded], found[0].major, "the container has no room for a session")
    return HostChecks(checks, found[0].major, None)


def python_check(version: tuple[int, ...]) -> Check:
    """Whether this Python runs icekeeper."""
    text = f"Python {'.'.join(map(str, version))}, icekeeper {__version__}"
    if version[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return Subject.PYTHON.failure(f"{text}: too old", f"Install icekeeper into an environment of Python {oldest}.")
    return Subject.PYTHON.passed(text)


def _state_dir(path: Path) -> list[Check]:
    """Whether we can write there, tried with a file that is removed again."""
    place = next(each for each in (path, *path.parents) if each.exists())
    user = user_name(os.geteuid())
    if place == path and os.geteuid() == 0 != path.stat().st_uid:
        owner = user_name(path.stat().st_uid)
        # The files of a session would belong to root, and the daemon could not write to them any more.
        text = f"{path} belongs to {owner}, and this is root"
        return [Subject.STATE_DIR.failure(text, f"Run it as {owner}: sudo -u {owner} icekeeper doctor")]
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".icekeeper-doctor-"):
            pass
    except OSError as exc:
        advice = f"Give it to {user}: install -d -o {user} {path}"
        return [Subject.STATE_DIR.failure(f"{user} can't write to {place}: {exc.strerror}", advice)]
    unwritable = [each for each in (*path.glob("*"), *path.glob("runs/*")) if not os.access(each, os.W_OK)]
    if unwritable:
        advice = f"Give all of it to {user}: chown -R {user} {path}"
        return [Subject.STATE_DIR.failure(f"{user} can't write to {unwritable[0]}", advice)]
    return [Subject.STATE_DIR.passed(f"{path} can be written by {user}")]


def spool_check(state_dir: Path) -> list[Check]:
    """Whether a damaged spool was put aside and not dealt with yet."""
    damaged = corrupt_files(state_dir)
    if not damaged:
        return []
    advice = "Check that the last runs are in `icekeeper history`, then remove it."
    return [Subject.STATE_DIR.warning(f"a damaged spool was put aside: {damaged[0]}", advice)]


async def _localhost() -> list[Check]:
    """Whether this host resolves the name by which Spark's driver and its JVM find each other."""
    try:
        await asyncio.get_running_loop().getaddrinfo("localhost", None)
    except OSError as exc:
        text = f"this host does not know the name localhost ({exc.strerror}): Spark can't start"
        return [Subject.STATE_DIR.failure(text, "Put `127.0.0.1 localhost` into /etc/hosts.")]
    return []


async def _with_free_space(services: Services, checks: list[Check]) -> list[Check]:
    """The check of the state directory with the free space, or an error where that is too little."""
    disks = await services.ports.surroundings.disks()
    low = by_disk(disks, services.settings.run.min_free_disk)
    if low is not None:
        return [*checks, Subject.STATE_DIR.failure(low.note, low.reason.advice)]
    free = ", ".join(f"{size(disk.free)} free in {disk.path}" for disk in disks)
    return [Subject.STATE_DIR.passed(f"{checks[0].text}; {free}")]


async def _settings_checks(settings: Settings) -> list[Check]:
    advice = "Change the configuration as it says, or leave it if that is meant."
    # Without the memory, because that has a line of its own.
    found = [Subject.SETTINGS.warning(text, advice) for text in warnings(settings, memory=None)]
    return found or [Subject.SETTINGS.passed("the settings go together")]


def heap_check(driver_memory: str, room: int, whose: str) -> Check:
    """Whether the JVM and icekeeper fit into `room` bytes of memory; `whose`: the machine's or the container's."""
    comes_to = needed(heap_mib(driver_memory)) * _MIB
    text = (
        f"spark.driver_memory {driver_memory} with what comes beside it needs about {size(comes_to)}, "
        f"{whose} has {size(room)}"
    )
    if comes_to > room:
        fits = largest(room // _MIB)
        lower = f"Lower spark.driver_memory (at most {fits}m, less if {whose} is shared), or give" if fits else "Give"
        text += ": the kernel will kill it in the middle of a night"
        return Subject.MEMORY.failure(text, f"{lower} {whose} more memory.")
    if comes_to > room * _COMFORTABLE_SHARE:
        advice = f"Lower spark.driver_memory, or give {whose} more memory, if the offload or anything else shares it."
        return Subject.MEMORY.warning(f"{text}: whatever else runs there has little left", advice)
    return Subject.MEMORY.passed(text)


def room_check(free: int | None) -> Check | None:
    """A warning where there is too little memory for the doctor's session: the kernel might kill the daemon's."""
    if free is None or free >= _SESSION_MEMORY:
        return None
    text = f"the container has {size(free)} of its memory left, and the doctor's session needs {size(_SESSION_MEMORY)}"
    advice = "Try again while nothing else runs there: a night, the offload, another command."
    return Subject.MEMORY.warning(text, advice)
