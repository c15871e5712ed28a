"""The commands that ask a running daemon: status, reload, cancel, logs. Where none runs they say what else is known."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import click

from icekeeper.cli.shared import CANNOT_START, FAILED, Invocation, common, exit_with, print_json
from icekeeper.settings import find_config, load, state_dir_of

if TYPE_CHECKING:
    from icekeeper.adapters.ledger.history import LogFilter
    from icekeeper.control.client import DaemonClient
    from icekeeper.execution.wiring import Services
    from icekeeper.settings import Settings
    from icekeeper.status.run_schemas import LogLine, RunHead, RunUnderWay
    from icekeeper.status.schemas import Status

_STATES = {"ok": 0, "warning": 3, "error": FAILED}
_LEVELS = ("debug", "info", "warning", "error")
# How often a command looks again while it waits.
_LOOK_S = 0.5
_LINES = 1000
# How far back the last night is looked for where no daemon says it.
_LAST_NIGHT = timedelta(days=40)


@click.command(short_help="Says whether everything is all right.")
@common
def status(invocation: Invocation) -> None:
    """Says whether everything is all right: by the daemon on this host, or without one by what the ledger knows.

    Exits 0 where it is, 3 with a warning, 1 with an error, 4 where no daemon serves here.
    """
    from icekeeper.cli.output import console
    from icekeeper.cli.output import status as glance
    from icekeeper.control.client import DaemonClient

    settings = invocation.settings()

    async def work() -> int:
        daemon = await DaemonClient.find(settings.state_dir)
        if daemon is None:
            await _without_a_daemon(invocation, settings)
            return CANNOT_START
        told = await daemon.status()
        if invocation.as_json:
            print_json(told.model_dump(mode="json"))
        else:
            glance.show_status(console.stdout(), told)
        return _STATES.get(told.state, FAILED)

    exit_with(work)


async def _without_a_daemon(invocation: Invocation, settings: Settings) -> None:
    from icekeeper.cli.output import console
    from icekeeper.cli.output import status as glance
    from icekeeper.core.errors import IcekeeperError
    from icekeeper.execution.standalone import session
    from icekeeper.scheduling import pause
    from icekeeper.status import run_schemas

    now = datetime.now(UTC)
    next_slot, held = settings.schedule.calendar().next_slot(now), pause.in_force(settings.state_dir, now)
    last: RunHead | None = None
    unknown: IcekeeperError | None = None
    async with session(settings) as services:
        try:
            tables = [policy.name for policy in settings.policies()]
            row = await services.history.last_night(now - _LAST_NIGHT, tables)
            last = run_schemas.RunHead.model_validate(row) if row is not None else None
        except IcekeeperError as exc:
            unknown = exc
    if invocation.as_json:
        night = last.model_dump(mode="json") if last is not None else None
        print_json({"daemon": False, "state_dir": str(settings.state_dir), "last_run": night})
        return
    screen = console.stdout()
    screen.print(f"no daemon serves {settings.state_dir}: no night will be run here", style="bold red", soft_wrap=True)
    if held is not None:
        screen.print(f"  the nights are {held}", soft_wrap=True, markup=False)
    if unknown is not None:
        screen.print(f"  the ledger does not say how the last night was: {unknown}", soft_wrap=True, markup=False)
    else:
        glance.show_nights(screen, last, next_slot, now)


@click.command("reload", short_help="Has the daemon read its configuration again.")
@common
def reload_configuration(invocation: Invocation) -> None:
    """Has the daemon on this host read its configuration and its secrets again, and says what that changed.

    Exits 2 where the file is bad: the daemon keeps what it has. A run under way keeps its settings.
    """
    from icekeeper.control.client import DaemonClient

    path = find_config(invocation.config)
    state_dir, unreadable = state_dir_of(path)

    async def work() -> int:
        daemon = await DaemonClient.find(state_dir)
        if daemon is None:
            load(path, secrets=False)  # what is wrong with the file may be why
            raise click.ClickException(f"no daemon serves {state_dir}: a changed state_dir needs a restart")
        done = await daemon.reload()
        if unreadable is not None:  # the daemon has another file
            raise unreadable
        if invocation.as_json:
            print_json(done.model_dump(mode="json"))
        else:
            click.echo("\n".join(done.changes) or "nothing has changed")
        return 0

    exit_with(work)


@click.command(short_help="Cancels the run under way in the daemon.")
@click.argument("run_id", required=False)
@click.option("--no-wait", is_flag=True, help="Do not wait for its end.")
@common
def cancel(invocation: Invocation, run_id: str | None, no_wait: bool) -> None:
    """Cancels the run under way in the daemon on this host and waits for its end; what it did is recorded.

    The first characters of RUN_ID will do; without it, it is the one under way.
    """
    from icekeeper.control.client import DaemonClient

    settings = invocation.settings()

    async def work() -> int:
        daemon = await DaemonClient.find(settings.state_dir)
        if daemon is None:
            raise click.ClickException(f"no daemon serves {settings.state_dir}: Ctrl-C cancels a command's own run")
        run = _meant((await daemon.status()).run, run_id)
        await daemon.cancel(run.run_id)
        click.echo(f"run {run.run_id} was asked to end", err=True)
        outcome: str | None = None
        if not no_wait:
            await _end(daemon, run.run_id)
            outcome = (await daemon.known_run(run.run_id)).outcome
        if invocation.as_json:
            print_json({"run_id": str(run.run_id), "outcome": outcome})
        elif not no_wait:
            click.echo(f"run {run.run_id} has ended: {outcome or 'the daemon does not say how'}")
        return 0

    exit_with(work)


def _meant(run: RunUnderWay | None, run_id: str | None) -> RunUnderWay:
    if run is None:
        raise click.UsageError("no run is under way")
    if run_id is not None and not _digits(str(run.run_id)).startswith(_digits(run_id)):
        raise click.UsageError(f"no run whose id begins with {run_id} is under way; {run.run_id} is")
    return run


def _digits(run_id: str) -> str:
    return run_id.replace("-", "").lower()


def _is_under_way(told: Status, run_id: UUID) -> bool:
    return told.run is not None and told.run.run_id == run_id


async def _end(daemon: DaemonClient, run_id: UUID) -> None:
    while True:
        if not _is_under_way(await daemon.status(), run_id):
            return
        await asyncio.sleep(_LOOK_S)


@click.command(short_help="Shows the log of a run, also while it goes on.")
@click.argument("run_id", required=False)
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@click.option("--level", type=click.Choice(_LEVELS), help="Only lines at least as important.")
@click.option("--text", metavar="T", help="Only lines that hold this, in any case.")
@common
def logs(invocation: Invocation, run_id: str | None, follow: bool, level: str | None, text: str | None) -> None:
    """Shows the log of a run: the one under way, else the last. The first characters of RUN_ID will do.

    With --json each line is a JSON document.
    """
    from icekeeper.adapters.ledger.history import LogFilter, levels_from
    from icekeeper.cli.output import console
    from icekeeper.cli.output import status as glance
    from icekeeper.control.client import DaemonClient
    from icekeeper.execution.standalone import session

    if text is not None and "\0" in text:
        raise click.BadParameter("no line holds that", param_hint="--text")
    settings = invocation.settings()
    wanted = LogFilter(None if level is None else levels_from(level), text or None)

    async def work() -> int:
        daemon = await DaemonClient.find(settings.state_dir)
        screen = console.stdout()
        async with session(settings) as services:
            chosen = await _chosen(services, daemon, run_id)
            async for line in _lines(services, chosen, wanted, daemon if follow else None):
                if invocation.as_json:
                    click.echo(line.model_dump_json())
                else:
                    glance.show_lines(screen, [line])
        return 0

    exit_with(work)


async def _chosen(services: Services, daemon: DaemonClient | None, run_id: str | None) -> UUID:
    """The run that is meant: of this host's files and the ledger."""
    from icekeeper.core.errors import IcekeeperError

    under_way = (await daemon.status()).run if daemon is not None else None
    if under_way is not None and (run_id is None or _digits(str(under_way.run_id)).startswith(_digits(run_id))):
        return under_way.run_id
    here = {path.stem: path.stat().st_mtime for path in (services.settings.state_dir / "runs").glob("*.jsonl")}
    if run_id is not None:
        found = {name for name in here if _digits(name).startswith(_digits(run_id))}
        if len(found) != 1:
            found |= {str(run["run_id"]) for run in await services.ledger.find_runs(run_id)}
        if len(found) != 1:
            what = "no run has" if not found else f"{len(found)} runs have"
            raise click.UsageError(f"{what} an id that begins with {run_id}")
        return UUID(found.pop())
    try:
        newest = await services.ledger.runs(1)
    except IcekeeperError:
        if not here:
            raise
        newest = ()
    if newest:
        return UUID(str(newest[0]["run_id"]))
    if not here:
        raise click.UsageError("there is no run yet")
    return UUID(max(here, key=lambda name: here[name]))


async def _lines(
    services: Services, run_id: UUID, wanted: LogFilter, following: DaemonClient | None
) -> AsyncIterator[LogLine]:
    """Lines as they come; `following` is the daemon that says whether more will."""
    from icekeeper.status import log_pages as run_logs

    after = 0
    while True:
        # Asked before the lines are read: what a run says at its end is there when it is no longer under way.
        goes_on = following is not None and _is_under_way(await following.status(), run_id)
        page = await run_logs.page(services.settings.state_dir, services.history, run_id, wanted, after, _LINES)
        for line in page.items:
            yield line
            after = line.line_no
        if page.next is None:
            if not goes_on:
                return
            await asyncio.sleep(_LOOK_S)
