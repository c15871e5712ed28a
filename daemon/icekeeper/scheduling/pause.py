"""A pause of the nights: its file, and what it means for a slot. Holding slots back: worker.py.

A file, so that it works while PostgreSQL is down and outlives a restart. One that can't be read counts as a pause:
an operator wanted the nights to wait, and `unpause` removes it.
"""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from icekeeper.adapters.state_dir import make_state_dir
from icekeeper.adapters.users import user_name
from icekeeper.core.formats import iso_minute, iso_second
from icekeeper.core.plain import to_plain
from icekeeper.core.resuming import too_old
from icekeeper.settings.values.units import format_duration, parse_duration

# How soon a waiting slot begins after the end of a pause. Not polled while no slot waits.
POLL_S = 5.0

_FORMS = "8h or 2d from now, 06:00 (today, UTC), a day like 2026-03-01, or an instant like 2026-03-01T06:00Z"


@dataclass(frozen=True, slots=True)
class Pause:
    """Who paused the nights, when and why. `until` None: until it is ended by hand.

    `since` falls back to the time of the file. `problem`: why it can't be read; then the rest is unknown.
    """

    by: str
    host: str
    since: datetime | None
    until: datetime | None
    note: str
    problem: str | None = None

    def holds(self, now: datetime) -> bool:
        """Whether it lasts at this instant."""
        return self.until is None or now < self.until

    def __str__(self) -> str:
        if self.problem is not None:
            return f"paused, for {self.problem}: `icekeeper unpause` removes it"
        until = f"until {_shown(self.until)}" if self.until else "without end"
        since = f" at {_shown(self.since)}" if self.since else ""
        note = f": {self.note}" if self.note else ""
        return f"paused {until} by {self.by} on {self.host}{since}{note}"


def _shown(instant: datetime) -> str:
    return iso_second(instant) if instant.second else iso_minute(instant)


# --- the file


def _path(state_dir: Path) -> Path:
    return state_dir / "pause.json"


def read(state_dir: Path) -> Pause | None:
    """The pause in the file, also one that is over by now; None where there is no file. Raises nothing."""
    path = _path(state_dir)
    try:
        pause = _parsed(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, OverflowError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        pause = Pause("unknown", "unknown", None, None, "", problem=f"{path} can't be read ({why})")
    return pause if pause.since is not None else replace(pause, since=_written(path))


def _written(path: Path) -> datetime | None:
    try:
        return datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OSError, ValueError, OverflowError):
        return None


def in_force(state_dir: Path, now: datetime) -> Pause | None:
    """The pause that holds the nights now."""
    pause = read(state_dir)
    return pause if pause is not None and pause.holds(now) else None


def obstacle(state_dir: Path) -> str | None:
    """Why a pause can't be written there, in a sentence; None where it can.

    A missing directory is not made: it would belong to the operator, and the daemon could not write to it.
    """
    if not state_dir.is_dir():
        make = f"`install -d -m 0700 -o USER {state_dir}`"
        return f"state_dir {state_dir} is missing: start the daemon, which makes it, or {make} for the daemon's USER"
    if not os.access(state_dir, os.W_OK | os.X_OK):
        owner = user_name(state_dir.stat().st_uid)
        return f"state_dir {state_dir} is not ours to write: pause as its owner (user {owner})"
    return None


def write(state_dir: Path, pause: Pause) -> None:
    """Puts the pause in force, in place of any other, wholly or not at all. OSError where it can't be written."""
    make_state_dir(state_dir)
    path = _path(state_dir)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    document = to_plain(pause)
    del document["problem"]
    try:
        with new.open("w", encoding="utf-8") as file:
            # So that the daemon can read it, whichever user wrote it.
            os.fchmod(file.fileno(), 0o644)
            file.write(json.dumps(document, indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def remove(state_dir: Path) -> None:
    """Ends the pause, whatever its file holds."""
    with suppress(FileNotFoundError):
        _path(state_dir).unlink()


def _parsed(text: str) -> Pause:
    """ValueError where that is no pause. Only `until` must be right: the rest is for people."""
    document = json.loads(text)
    if not isinstance(document, dict):
        raise ValueError("it holds no object")  # noqa: TRY004 - of a file, that is a wrong value
    since = None
    with suppress(ValueError, TypeError, OverflowError):
        since = _instant(document["since"]) if document.get("since") else None
    return Pause(
        by=str(document.get("by", "unknown")),
        host=str(document.get("host", "unknown")),
        since=since,
        until=None if document.get("until") is None else _instant(document["until"]),
        note=str(document.get("note", "")),
    )


# --- what it means


def parse_until(text: str, now: datetime) -> datetime:
    """The end of a pause as people write it. ValueError, which names the allowed forms, where it is none or is past."""
    text = text.strip()
    until = _until(text, now)
    if until > now:
        return until
    if re.fullmatch(r"\d{1,2}:\d\dZ?", text):
        raise ValueError(f"{text} UTC has passed today; tomorrow's is {_shown(until + timedelta(days=1))}")
    raise ValueError(f"{_shown(until)} lies in the past")


def _until(text: str, now: datetime) -> datetime:
    if re.fullmatch(r"(\d+[smhd])+", text):
        return now + parse_duration(text)
    try:
        if clock := re.fullmatch(r"(\d{1,2}):(\d\d)Z?", text):
            return now.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0)
        try:
            day = date.fromisoformat(text)
        except ValueError:
            return _instant(text)
        return datetime(day.year, day.month, day.day, tzinfo=UTC)
    except (ValueError, OverflowError) as exc:
        raise ValueError(f"{text!r} is not {_FORMS}") from exc


def _instant(text: object) -> datetime:
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no instant")  # noqa: TRY004 - of a file, that is a wrong value
    instant = datetime.fromisoformat(text)
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)


def poll_after_s(pause: Pause, now: datetime) -> float:
    """After how many seconds the worker checks whether the pause is over."""
    left_s = POLL_S if pause.until is None else (pause.until - now).total_seconds()
    return min(POLL_S, max(left_s, 0.0))


def outlook(pause: Pause, slot: datetime | None, catch_up: timedelta) -> str:
    """What becomes of the next slot under a pause, in a sentence."""
    if slot is None:
        return "the schedule has no further slot"
    named = f"the next slot, {_shown(slot)},"
    limit = f"schedule.catch_up ({format_duration(catch_up)})"
    if not pause.holds(slot):
        return f"{named} comes after its end and runs as ever"
    if pause.until is None:
        return f"{named} waits: it runs if the pause ends before {_shown(slot + catch_up)}, else it is missed ({limit})"
    if too_old(slot, pause.until, catch_up):
        return f"{named} will be missed: the pause ends later than {limit} allows"
    return f"{named} waits and runs at its end"


def notice(state_dir: Path, now: datetime | None = None) -> str | None:
    """A line for an operator who runs something by hand while the nights are paused; None where they are not."""
    pause = in_force(state_dir, now or datetime.now(UTC))
    return None if pause is None else f"the nights are {pause}. This run is not held by that"
