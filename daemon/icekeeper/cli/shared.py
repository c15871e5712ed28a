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
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from icekeeper.core.errors import ConfigError, IcekeeperError, TransientError
from icekeeper.core.reasons import Reason
from icekeeper.settings import Settings, find_config, load

if TYPE_CHECKING:
    from icekeeper.night.run import StopRequest

T = TypeVar("T")
FAILED, USAGE, PARTIAL, CANNOT_START, CANCELLED = 1, 2, 3, 4, 130


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
