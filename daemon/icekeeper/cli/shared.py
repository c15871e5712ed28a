"""Common to all commands: their options, reading a slot, running to an exit code, output of JSON and errors."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from icekeeper.core.errors import ConfigError, IcekeeperError, TransientError
from icekeeper.core.formats import iso_second
from icekeeper.core.reasons import Reason
from icekeeper.settings import Settings, find_config, load

if TYPE_CHECKING:
    from icekeeper.night.order import StopRequest

T = TypeVar("T")
FAILED, USAGE, PARTIAL, CANNOT_START, CANCELLED = 1, 2, 3, 4, 130
# No table has rows of before; and it keeps clear of what datetime can't express.
_FIRST_YEAR = 1970
_ONE_DAY = timedelta(days=1)
_LONGEST_RANGE = timedelta(days=366)


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


def exit_with(work: Callable[[], Awaitable[int]], stop: StopRequest | None = None) -> None:
    """Runs a command to its exit code; SIGINT cancels it as an operator, which `stop` notes, SIGTERM interrupts it."""

    import structlog

    if not structlog.is_configured():  # stdout is the answer's
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

    async def guarded() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # asyncio.run made one

        def cancel(by_operator: bool) -> None:
            recorded = "" if stop is None else ": the task in hand is cancelled, and what it did is recorded"
            click.echo(f"stopping{recorded}", err=True)
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


def slots_after(first: datetime | None, last: datetime | None) -> tuple[datetime, ...]:
    """The midnights that end the UTC days from the first to the last; UsageError where a day is not over."""
    midnight = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if first is None:
        raise click.UsageError("--to needs --from")
    begin = first.replace(tzinfo=UTC)
    end = midnight - _ONE_DAY if last is None else last.replace(tzinfo=UTC)
    if begin > end:
        raise click.UsageError(f"--from {begin:%Y-%m-%d} lies behind --to {end:%Y-%m-%d}")
    if end >= midnight:
        raise click.UsageError(f"--to {end:%Y-%m-%d}: that day is not over")
    if end - begin > _LONGEST_RANGE:
        raise click.UsageError(f"--from {begin:%Y-%m-%d} to {end:%Y-%m-%d} is more than a year: audit it in parts")
    if begin.year < _FIRST_YEAR:
        raise click.UsageError(f"--from {begin:%Y-%m-%d} lies before {_FIRST_YEAR}")
    return tuple(begin + (number + 1) * _ONE_DAY for number in range((end - begin).days + 1))


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
