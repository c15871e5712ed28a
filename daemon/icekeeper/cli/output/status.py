"""The output of `status` and `logs` on a terminal. It shows what it is given, and reads nothing."""

from __future__ import annotations

from datetime import datetime

from rich.console import Console
from rich.text import Text

from icekeeper.cli.output.console import COLOURS
from icekeeper.core.formats import counted, duration, minute_utc
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
    _show(console, "parts", "  ".join(f"{name} {state}" for name, state in status.parts.items()))
    if status.spool_records:
        _show(console, "spool", f"{counted(status.spool_records, 'record')} on the way to PostgreSQL")


def show_nights(
    console: Console,
    last: run_schemas.RunHead | run_schemas.LastNight | None,
    next_slot: datetime | None,
    now: datetime,
) -> None:
    """The last night and the next one."""
    if last is None:
        _show(console, "last night", "none is known")
    else:
        line = Text(last.outcome or "under way", COLOURS.get(last.outcome or "", ""))
        took = "" if last.duration_s is None else f" in {duration(last.duration_s)}"
        line.append(f"{took}, slot {minute_utc(last.slot)}, run {str(last.run_id)[:8]}", "")
        _show(console, "last night", line)
    if next_slot is None:
        _show(console, "next night", "the schedule has none")
    else:
        seconds = max((next_slot - now).total_seconds(), 0.0)
        _show(console, "next night", f"{minute_utc(next_slot)}, in {duration(seconds)}")


def _show_run(console: Console, run: run_schemas.RunUnderWay) -> None:
    left = "" if run.left_s is None else f", about {duration(run.left_s)} left"
    since = f"since {duration(run.elapsed_s)}{left}"
    by = f" by {run.actor}" if run.actor else ""
    _show(console, "run", f"{str(run.run_id)[:8]}, slot {minute_utc(run.slot)}, {run.trigger}{by}, {since}")
    for stage in run.stages:
        failed = f", {stage.failed} failed" if stage.failed else ""
        _show(console, "", f"{stage.stage:<8} {stage.ended} of {stage.of}{failed}")
    if (hand := run.in_hand) is not None:
        note = f": {hand.note}" if hand.note else ""
        _show(console, "", f"in hand: {hand.stage} {hand.table}{note}")


def show_line(console: Console, line: run_schemas.LogLine) -> None:
    """A log line."""
    text = Text(f"{line.timestamp[:19]} ", "dim")
    text.append(f"{line.level:<8}", _LEVELS.get(line.level, ""))
    text.append(line.event, "bold")
    text.append("".join(f" {key}={value}" for key, value in line.fields.items()), "")
    console.print(text, soft_wrap=True)


def _show(console: Console, what: str, value: str | Text) -> None:
    console.print(Text(f"  {what:<11}", "bold") + value, soft_wrap=True)
