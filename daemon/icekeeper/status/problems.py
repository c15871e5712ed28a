"""What is not as it should be, in sentences: the first thing that an operator sees. Decides; looks at nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from urllib.parse import quote

from icekeeper.core.enums import RunOutcome
from icekeeper.core.reasons import Reason
from icekeeper.core.run_history import PastNight
from icekeeper.status.gauges import DaemonState, HistorySummary

# After this a slot that nobody has answered for is late.
LATE = timedelta(hours=1)

Severity = Literal["warning", "error"]


@dataclass(frozen=True, slots=True)
class Trouble:
    severity: Severity
    text: str
    advice: str
    # Where the page shows more of it.
    link: str | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the daemon knows of itself and of the last nights; `parts` are its parts, each in a word."""

    vitals: DaemonState
    known: HistorySummary
    parts: Mapping[str, str]
    running: bool
    # Whether anybody runs the nights, as far as is known: this daemon, or another one that holds the lease.
    led: bool = True


def troubles(seen: Facts, now: datetime) -> tuple[Trouble, ...]:
    """The worst first."""
    found = sorted(_all(seen, now), key=lambda trouble: trouble.severity != "error")
    return tuple(found)


def state(found: tuple[Trouble, ...]) -> str:
    """`ok`, `warning` or `error`."""
    if not found:
        return "ok"
    return "error" if any(trouble.severity == "error" for trouble in found) else "warning"


def _all(seen: Facts, now: datetime) -> Iterator[Trouble]:
    yield from _of_nights(seen, now)
    yield from _of_findings(seen.known)
    yield from _of_parts(seen.parts)
    yield from _of_spool(seen.vitals)
    if not seen.led:
        advice = "PostgreSQL keeps the lease: look who holds it, and at `lease` lines in the log."
        yield Trouble("error", "Nobody runs the nights.", advice)
    if (pause := seen.vitals.pause) is not None:
        yield Trouble("warning", f"The nights are {pause}.", "`icekeeper unpause` lets them go on.")


def _of_nights(seen: Facts, now: datetime) -> Iterator[Trouble]:
    if (last := seen.known.past.last) is not None:
        yield from _of_last(last, failure_open=seen.known.failure_open)
    oldest = min(seen.vitals.open_slots, default=now)
    # A pause is somebody's will, and said below.
    if now - oldest >= LATE and not seen.running and seen.vitals.pause is None:
        text = f"The slot {oldest:%Y-%m-%d %H:%M} UTC is due, and nobody works on it."
        yield Trouble("error", text, "The log says what it waits for: a pause, a command, or the lease.")


def _of_last(last: PastNight, *, failure_open: bool) -> Iterator[Trouble]:
    night, run = f"The night of {last.slot:%Y-%m-%d}", f"/runs/{last.run_id}"
    if last.outcome is RunOutcome.FAILED and failure_open:
        yield Trouble("error", f"{night} failed.", "Its run says which tables, and what to do about each.", run)
    elif last.outcome is RunOutcome.MISSED:
        advice = f"It was too old to be caught up: `icekeeper run --slot {last.slot:%Y-%m-%d}` does it."
        yield Trouble("error", f"{night} was missed.", advice, run)
    elif last.outcome is RunOutcome.PARTIAL:
        advice = "A compaction or expiry failed: the next night tries it again."
        yield Trouble("warning", f"{night} is partial.", advice, run)


def open_days(known: HistorySummary, table: str) -> int:
    """On how many days rows of the table lack, or could not be counted."""
    return sum(days for (name, _), days in known.open_days.items() if name == table)


def _of_findings(known: HistorySummary) -> Iterator[Trouble]:
    for table in sorted({name for name, _ in known.open_days}):
        number = open_days(known, table)
        what = "1 day lacks rows" if number == 1 else f"{number} days lack rows"
        advice = f"Repair it and audit it again, or say that it may stay so: `icekeeper ack {table}`."
        yield Trouble("error", f"{table}: {what}, or could not be counted.", advice, f"/tables/{quote(table)}")


def _of_parts(parts: Mapping[str, str]) -> Iterator[Trouble]:
    if parts.get("ledger") == "down":
        yield Trouble("warning", "PostgreSQL does not answer: records wait on disk.", Reason.LEDGER_DOWN.advice)
    if parts.get("engine") not in ("up", None):
        yield Trouble("warning", "There is no Spark session yet.", Reason.ENGINE_DOWN.advice)
    if parts.get("spool") == "down":
        yield Trouble("error", "The spool can't be read.", "The log says why; the disk of state_dir may be full.")
    if parts.get("configuration") not in ("loaded", None):
        text = "The last reload was refused: the configuration is as it was before."
        yield Trouble("error", text, "`icekeeper config check` says what is wrong with the file.")


def _of_spool(vitals: DaemonState) -> Iterator[Trouble]:
    if vitals.spool.quarantined:
        text = f"PostgreSQL refused {vitals.spool.quarantined} records."
        yield Trouble("error", text, "`icekeeper spool` says which and why; then `icekeeper spool --retry`.")
    if vitals.unrecorded_runs:
        text = f"The disk could not take the record of {vitals.unrecorded_runs} runs: a restart would lose it."
        yield Trouble("error", text, "Free space in the file system of state_dir: it is tried every minute.")
    if vitals.spool_corrupt_files:
        text = "A damaged spool was put aside."
        yield Trouble("warning", text, "Look whether the last runs are in the history, then remove spool.db.corrupt-*.")
