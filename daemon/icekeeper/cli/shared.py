"""Common to all commands: their options, reading a slot, running to an exit code, output of JSON and errors."""

from __future__ import annotations

import asyncio
import functools
import getpass
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from icekeeper.core.enums import Stage
from icekeeper.core.errors import ConfigError, IcekeeperError, TransientError
from icekeeper.core.formats import iso_second
from icekeeper.core.reasons import Reason
from icekeeper.settings import Settings, find_config, load

if TYPE_CHECKING:
    from icekeeper.night.run import StopRequest

T = TypeVar("T")
FAILED, USAGE, PARTIAL, CANNOT_START, CANCELLED = 1, 2, 3, 4, 130
# No table has rows of before; and it keeps clear of what datetime can't express.
_FIRST_YEAR = 1970


@dataclass(frozen=True, slots=True)
class Invocation:
    """The options of every command."""

    config: Path | None
    as_json: bool

    def settings(self) -> Settings:
        return load(find_config(self.config))

    def answer(self, document: Any, show: Callable[[], None]) -> None:
        """Prints the result: the document with `--json`, else as `show` writes it."""
        if self.as_json:
            print_json(document)
        else:
            show()


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--config` and `--json`, handed to the command as an Invocation."""

    @click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; logs go to stderr.")
    @functools.wraps(command)
    def wrapped(config: Path | None, as_json: bool, **arguments: Any) -> Any:
        return command(Invocation(config, as_json), **arguments)

    return wrapped


def chosen_stages(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--stage`, where a command works on several."""
    names = click.Choice([stage.value for stage in Stage])
    return click.option(
        "--stage", "stages", multiple=True, type=names, help="Only this stage; may be given several times."
    )(command)


def choices(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--slot` and `--table`, of the commands that work on tables."""
    command = click.option(
        "--table", "tables", multiple=True, metavar="NAME", help="Only this table; may be given several times."
    )(command)
    return click.option(
        "--slot",
        metavar="WHEN",
        help="The slot to answer for: a day (2026-02-18) or an instant; default: now, to the minute.",
    )(command)


def parse_slot(settings: Settings, text: str | None) -> datetime:
    """The slot that `--slot` names; UsageError where it is none or in the future."""
    now = datetime.now(UTC)
    if text is None:
        # An operator's run answers for the present: its window is yesterday's.
        return now.replace(second=0, microsecond=0)
    try:
        day = date.fromisoformat(text)
    except ValueError:
        slot = _instant(text)
    else:
        # A day that the schedule leaves out is allowed, too.
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        slot = (settings.schedule.calendar().slot_on(day) or midnight) if day.year >= _FIRST_YEAR else midnight
    if slot.year < _FIRST_YEAR:
        raise click.BadParameter(f"{text} lies before {_FIRST_YEAR}", param_hint="--slot")
    if slot > now:
        raise click.BadParameter(f"{iso_second(slot)} lies in the future", param_hint="--slot")
    return slot


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
        return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError) as exc:
        allowed = "a day like 2026-02-18 or an instant like 2026-02-18T02:00:00Z"
        raise click.BadParameter(f"{text!r} is not {allowed}", param_hint="--slot") from exc


def exit_with(work: Callable[[], Awaitable[int]], stop: StopRequest | None = None) -> None:
    """Runs a command to its exit code; SIGINT cancels it as an operator, which `stop` notes, SIGTERM interrupts it."""

    async def guarded() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # asyncio.run made one

        def cancel(by_operator: bool) -> None:
            click.echo("stopping: the task in hand is cancelled, and what it did is recorded", err=True)
            if stop is not None and by_operator:
                stop.by_operator = True
            task.cancel()

        loop.add_signal_handler(signal.SIGINT, cancel, True)
        loop.add_signal_handler(signal.SIGTERM, cancel, False)
        try:
            return await work()
        except asyncio.CancelledError:
            return CANCELLED  # before a run could begin

    sys.exit(asyncio.run(guarded()))


def print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def complain(error: IcekeeperError) -> None:
    """Writes to stderr what is wrong and, in the same line, what to do about it."""
    for line in error.problems if isinstance(error, ConfigError) else [_with_advice(error)]:
        click.echo(f"icekeeper: {line}", err=True)
    if not isinstance(error, ConfigError) and error.reason is not Reason.UNEXPECTED:
        click.echo(f"    {error.reason}: {error.reason.advice}", err=True)


def _with_advice(error: IcekeeperError) -> str:
    if not isinstance(error, TransientError):  # its text has its own advice
        return str(error)
    what_to_do = error.reason.advice.partition(": ")[2]
    return f"{error}. {what_to_do[:1].upper()}{what_to_do[1:].rstrip('.')}"


def the_one_run(found: Collection[T], run_id: str) -> T:
    """The run whose id begins so; UsageError where there is none, or several."""
    if len(found) != 1:
        what = "no run has" if not found else f"{len(found)} runs have"
        raise click.UsageError(f"{what} an id that begins with {run_id}")
    return next(iter(found))


def operator_name() -> str:
    """The user who gives this command: behind sudo, the one who called it."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"
