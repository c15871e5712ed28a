"""What a person sees of a daemon at a glance, and of a run's log, on a terminal. Asks nobody."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

from rich.console import Console
from rich.text import Text

from icekeeper.cli.output.console import COLOURS
from icekeeper.status import run_schemas, schemas

_STATES = {"ok": "bold green", "warning": "bold yellow", "error": "bold red"}
_LEVELS = {"debug": "dim", "warning": "yellow", "error": "bold red", "critical": "bold red"}


def show_status(console: Console, status: schemas.Status) -> None:
    """Is everything all right? The answer first, then what is wrong and what to do, then the rest."""
    role = "" if status.leading else ", stands by"
    mode = "" if status.mode == "maintain" else f", mode: {status.mode}"
    line = Text(status.state, _STATES.get(status.state, ""))
    line.append(f"  icekeeper {status.version} on {status.host}{role}{mode}", "")
    console.print(line, soft_wrap=True)
    for trouble in status.troubles:
        console.print(Text(f"  {trouble.text}", _STATES.get(trouble.severity, "")), soft_wrap=True)
        console.print(Text(f"    {trouble.advice}", "dim"), soft_wrap=True)
    if status.run is not None:
        _show_run(console, status.run)
    show_nights(console, status.last_run, status.next_slot, status.now)
    parts = "  ".join(f"{name} {said}" for name, said in status.parts.items())
    _say(console, "parts", parts)
    if status.spool_records:
        _say(console, "spool", f"{_number(status.spool_records, 'record')} on the way to PostgreSQL")


def show_nights(
    console: Console,
    last: run_schemas.RunHead | run_schemas.LastNight | None,
    next_slot: datetime | None,
    now: datetime,
) -> None:
    """The last night and the next one."""
    if last is None:
        _say(console, "last night", "none is known")
    else:
        told = Text(last.outcome or "under way", COLOURS.get(last.outcome or "", ""))
        took = "" if last.duration_s is None else f" in {_lasting(last.duration_s)}"
        told.append(f"{took}, slot {_minute(last.slot)}, run {str(last.run_id)[:8]}", "")
        _say(console, "last night", told)
    if next_slot is None:
        _say(console, "next night", "the schedule has none")
    else:
        _say(console, "next night", f"{_minute(next_slot)}, in {_lasting((next_slot - now).total_seconds())}")


def _show_run(console: Console, run: run_schemas.RunUnderWay) -> None:
    left = "" if run.left_s is None else f", about {_lasting(run.left_s)} left"
    told = f"{str(run.run_id)[:8]}, slot {_minute(run.slot)}, {run.trigger}, since {_lasting(run.elapsed_s)}{left}"
    _say(console, "run", told)
    for stage in run.stages:
        failed = f", {stage.failed} failed" if stage.failed else ""
        _say(console, "", f"{stage.stage:<8} {stage.ended} of {stage.of}{failed}")
    if (hand := run.in_hand) is not None:
        note = f": {hand.note}" if hand.note else ""
        _say(console, "", f"in hand: {hand.stage} {hand.table}{note}")


def show_lines(console: Console, lines: Iterable[run_schemas.LogLine]) -> None:
    """Log lines, one each."""
    for line in lines:
        told = Text(f"{line.timestamp[:19]} ", "dim")
        told.append(f"{line.level:<8}", _LEVELS.get(line.level, ""))
        told.append(line.event, "bold")
        told.append("".join(f" {key}={value}" for key, value in line.fields.items()), "")
        console.print(told, soft_wrap=True)


def _say(console: Console, what: str, told: str | Text) -> None:
    console.print(Text(f"  {what:<11}", "bold") + told, soft_wrap=True)


def _minute(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M} UTC"


def _lasting(seconds: float) -> str:
    """`12 s`, `3 min`, `5 h 20 min`, `2 d 3 h`."""
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    minutes = timedelta(seconds=seconds) // timedelta(minutes=1)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"


def _number(value: int, what: str) -> str:
    return f"1 {what}" if value == 1 else f"{value} {what}s"
