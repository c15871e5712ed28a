"""The doctor at home: Python, the state directory, the settings' own warnings, memory, Java. Asks nobody outside."""

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
from icekeeper.adapters.state_dir import user_name
from icekeeper.core.tables.restraints import by_disk
from icekeeper.doctor.check import Check, Level, Part, fine, guarded, skipped, sound, warning, wrong
from icekeeper.execution.wiring import Services
from icekeeper.settings import Settings
from icekeeper.settings.messages.warnings import warnings
from icekeeper.settings.values.heap import heap_mib, largest, needed

OLDEST_PYTHON = (3, 11)
_MIB = 1024**2
# What the doctor's own session was seen to use, and some more.
_LOOKING = 640 * _MIB
# Others live in the container, too: the offload, a shell.
_COMFORTABLE_SHARE = 0.80


@dataclass(frozen=True, slots=True)
class Here:
    """The checks, the Java's feature release, and why no session may be started (None: it may)."""

    checks: list[Check]
    java: int | None
    blocked: str | None


async def examine_here(services: Services, environ: Mapping[str, str]) -> Here:
    settings = services.settings
    checks = [python_check(sys.version_info[:3])]
    home = await guarded(Part.STATE_DIR, partial(asyncio.to_thread, _state_dir, settings.state_dir))
    if usable := sound(home):
        home = await guarded(Part.STATE_DIR, partial(_with_room, services, home))
        home += [*spool_check(settings.state_dir), *await guarded(Part.STATE_DIR, _localhost)]
    checks += [*home, *await _about_settings(settings)]
    if not usable:
        because = "the state directory can't be used"
        return Here([*checks, skipped(Part.JAVA, because)], None, because)
    found: list[JavaHome] = []

    async def java() -> list[Check]:
        found.append(await asyncio.to_thread(find_java, environ, settings.state_dir / "java"))
        return [fine(Part.JAVA, f"Java {found[0].major} from {found[0].origin}")]

    checks += await guarded(Part.JAVA, java)
    if not found:
        return Here(checks, None, "there is no Java for Spark")
    if (crowded := room_check(memory_free())) is not None and not services.engine.up:
        return Here([*checks, crowded], found[0].major, "the container has no room for a session")
    return Here(checks, found[0].major, None)


def python_check(version: tuple[int, ...]) -> Check:
    """Whether this Python runs icekeeper."""
    text = f"Python {'.'.join(map(str, version))}, icekeeper {__version__}"
    if version[:2] < OLDEST_PYTHON:
        oldest = ".".join(map(str, OLDEST_PYTHON))
        return wrong(Part.PYTHON, f"{text}: too old", f"Install icekeeper into an environment of Python {oldest}.")
    return fine(Part.PYTHON, text)


def _state_dir(path: Path) -> list[Check]:
    """Whether we can write there. What is written is removed again."""
    place = next(each for each in (path, *path.parents) if each.exists())
    user = user_name(os.geteuid())
    if place == path and os.geteuid() == 0 != path.stat().st_uid:
        owner = user_name(path.stat().st_uid)
        # A session's files would be root's, and the daemon could not write to them any more.
        text = f"{path} belongs to {owner}, and this is root"
        return [wrong(Part.STATE_DIR, text, f"Ask as {owner}: sudo -u {owner} icekeeper doctor")]
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".icekeeper-doctor-"):
            pass
    except OSError as exc:
        advice = f"Give it to {user}: install -d -o {user} {path}"
        return [wrong(Part.STATE_DIR, f"{user} can't write to {place}: {exc.strerror}", advice)]
    strange = [each for each in (*path.glob("*"), *path.glob("runs/*")) if not os.access(each, os.W_OK)]
    if strange:
        advice = f"Give all of it to {user}: chown -R {user} {path}"
        return [wrong(Part.STATE_DIR, f"{user} can't write to {strange[0]}", advice)]
    return [fine(Part.STATE_DIR, f"{path} can be written by {user}")]


def spool_check(state_dir: Path) -> list[Check]:
    """Whether a damaged spool waits for somebody to look at it."""
    damaged = corrupt_files(state_dir)
    if not damaged:
        return []
    advice = "Look whether the last runs are in `icekeeper history`, then remove it."
    return [warning(Part.STATE_DIR, f"a damaged spool was put aside: {damaged[0]}", advice)]


async def _localhost() -> list[Check]:
    """Whether this host knows the name that Spark's driver and its JVM find each other by."""
    try:
        await asyncio.get_running_loop().getaddrinfo("localhost", None)
    except OSError as exc:
        text = f"this host does not know the name localhost ({exc.strerror}): Spark can't start"
        return [wrong(Part.STATE_DIR, text, "Put `127.0.0.1 localhost` into /etc/hosts.")]
    return []


async def _with_room(services: Services, found: list[Check]) -> list[Check]:
    """The same with the free space, or that there is too little."""
    disks = await services.ports.surroundings.disks()
    low = by_disk(disks, services.settings.run.min_free_disk)
    if low is not None:
        return [*found, wrong(Part.STATE_DIR, low.note, low.reason.advice)]
    free = ", ".join(f"{_size(disk.free)} free in {disk.path}" for disk in disks)
    return [fine(Part.STATE_DIR, f"{found[0].text}; {free}")]


async def _about_settings(settings: Settings) -> list[Check]:
    async def look() -> list[Check]:
        # Without the limit, because the heap has a line of its own.
        said = warnings(settings, memory=None)
        if not said:
            return [fine(Part.SETTINGS, "the settings go together")]
        return [_setting_warning(text) for text in said]

    heap = heap_check(settings.spark.driver_memory, *memory_room())
    return [*await guarded(Part.SETTINGS, look), heap]


def _setting_warning(text: str) -> Check:
    return warning(Part.SETTINGS, text, "Change the configuration as it says, or leave it if that is meant.")


def heap_check(driver_memory: str, room: int, whose: str) -> Check:
    """Whether the JVM and icekeeper fit into `room` bytes of memory; `whose`: who has them."""
    comes_to = needed(heap_mib(driver_memory)) * _MIB
    text = (
        f"spark.driver_memory {driver_memory} with what comes beside it needs about {_size(comes_to)}, "
        f"{whose} has {_size(room)}"
    )
    if comes_to > room:
        fits = largest(room // _MIB)
        lower = f"Lower spark.driver_memory (at most {fits}m, less if {whose} is shared), or give" if fits else "Give"
        return wrong(
            Part.MEMORY,
            f"{text}: the kernel will kill it in the middle of a night",
            f"{lower} {whose} more memory.",
        )
    if comes_to > room * _COMFORTABLE_SHARE:
        return warning(
            Part.MEMORY,
            f"{text}: whatever else runs there has little left",
            f"Lower spark.driver_memory, or give {whose} more memory, if the offload or anything else shares it.",
        )
    return Check(Part.MEMORY, Level.OK, text)


def room_check(free: int | None) -> Check | None:
    """Whether a session may be started just to look: beside a daemon's session the kernel would end one of the two."""
    if free is None or free >= _LOOKING:
        return None
    text = f"the container has {_size(free)} of its memory left, and a session needs {_size(_LOOKING)} to look around"
    return warning(Part.MEMORY, text, "Ask again while nothing else runs there: a night, the offload, another command.")


def _size(number: int) -> str:
    return f"{number / 1024**3:.1f} GiB" if number >= 1024**3 else f"{number / _MIB:.0f} MiB"
