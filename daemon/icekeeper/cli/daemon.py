"""The commands about the daemon on this host: status, reload, cancel, logs. status and logs work without one, too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import click

from icekeeper.cli.shared import CANNOT_START, FAILED, Invocation, common, exit_with, print_json, the_one_run
from icekeeper.core.errors import IcekeeperError
from icekeeper.scheduling import pause
from icekeeper.settings import Settings, find_config, load, state_dir_of
from icekeeper.status.run_schemas import LogLine, RunHead, RunUnderWay

if TYPE_CHECKING:
    from icekeeper.adapters.ledger.history import LogFilter
    from icekeeper.control.client import DaemonClient
    from icekeeper.execution.wiring import Services

_STATES = {"ok": 0, "warning": 3, "error": FAILED}
_LEVELS = ("debug", "info", "warning", "error")
# How often a command asks again while it waits.
_POLL_S = 0.5
_LINES = 1000
# How far back the last night is searched in the ledger where no daemon runs.
_LAST_NIGHT = timedelta(days=40)


@click.command(short_help="Says whether everything is all right.")
@common
def status(invocation: Invocation) -> None:
    """Says whether everything is all right: by the daemon on this host, or without one by what the ledger knows.

    Exits 0 where it is, 3 with a warning, 1 with an error, 4 where no daemon serves here.
    """
    from icekeeper.cli.output import console
    from icekeeper.cli.output.status import show_status
    from icekeeper.control.client import DaemonClient

    settings = invocation.settings()

    async def work() -> int:
        daemon = await DaemonClient.find(settings.state_dir)
        if daemon is None:
            await _show_status_without_daemon(invocation, settings)
            return CANNOT_START
        answer = await daemon.status()
        invocation.answer(answer.model_dump(mode="json"), lambda: show_status(console.stdout(), answer))
        return _STATES.get(answer.state, FAILED)

    exit_with(work)


async def _show_status_without_daemon(invocation: Invocation, settings: Settings) -> None:
    from icekeeper.cli.output import console
    from icekeeper.cli.output.status import show_nights
    from icekeeper.execution.standalone import session

    now = datetime.now(UTC)
    next_slot, paused = settings.schedule.calendar().next_slot(now), pause.in_force(settings.state_dir, now)
    last: RunHead | None = None
    error: IcekeeperError | None = None
    async with session(settings) as services:
        try:
            tables = [policy.name for policy in settings.policies()]
            row = await services.history.last_night(now - _LAST_NIGHT, tables)
            last = RunHead.model_validate(row) if row is not None else None
        except IcekeeperError as exc:
            error = exc
    if invocation.as_json:
        night = last.model_dump(mode="json") if last is not None else None
        print_json({"daemon": False, "state_dir": str(settings.state_dir), "last_run": night})
        return
    screen = console.stdout()
    screen.print(f"no daemon serves {settings.state_dir}: no night will be run here", style="bold red", soft_wrap=True)
    if paused is not None:
        screen.print(f"  the nights are {paused}", soft_wrap=True, markup=False)
    if error is not None:
        screen.print(f"  the ledger does not say how the last night was: {error}", soft_wrap=True, markup=False)
    else:
        show_nights(screen, last, next_slot, now)


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
            load(path, secrets=False)  # perhaps it does not run because of a mistake in the file
            raise click.ClickException(f"no daemon serves {state_dir}: a changed state_dir needs a restart")
        done = await daemon.reload()
        if unreadable is not None:  # the daemon has another file than this command
            raise unreadable
        invocation.answer(
            done.model_dump(mode="json"), lambda: click.echo("\n".join(done.changes) or "nothing has changed")
        )
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
        run = _chosen_run((await daemon.status()).run, run_id)
        await daemon.cancel(run.run_id)
        click.echo(f"run {run.run_id} was asked to end", err=True)
        outcome: str | None = None
        if not no_wait:
            while await _is_under_way(daemon, run.run_id):  # noqa: ASYNC110 - another process ends it
                await asyncio.sleep(_POLL_S)
            outcome = (await daemon.known_run(run.run_id)).outcome
        if invocation.as_json:
            print_json({"run_id": str(run.run_id), "outcome": outcome})
        elif not no_wait:
            click.echo(f"run {run.run_id} has ended: {outcome or 'the daemon does not say how'}")
        return 0

    exit_with(work)


def _chosen_run(run: RunUnderWay | None, run_id: str | None) -> RunUnderWay:
    if run is None:
        raise click.UsageError("no run is under way")
    if run_id is not None and not _begins_with(run.run_id, run_id):
        raise click.UsageError(f"no run whose id begins with {run_id} is under way; {run.run_id} is")
    return run


def _begins_with(run_id: UUID | str, text: str) -> bool:
    whole, prefix = (each.replace("-", "").lower() for each in (str(run_id), text))
    return whole.startswith(prefix)


async def _is_under_way(daemon: DaemonClient, run_id: UUID) -> bool:
    run = (await daemon.status()).run
    return run is not None and run.run_id == run_id


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
    from icekeeper.cli.output.status import show_line
    from icekeeper.control.client import DaemonClient
    from icekeeper.execution.standalone import session

    if text is not None and "\0" in text:
        raise click.BadParameter("no line holds that", param_hint="--text")
    settings = invocation.settings()
    log_filter = LogFilter(None if level is None else levels_from(level), text or None)

    async def work() -> int:
        daemon = await DaemonClient.find(settings.state_dir)
        screen = console.stdout()
        async with session(settings) as services:
            logged = await _logged_run(services, daemon, run_id)
            async for line in _lines(services, logged, log_filter, daemon if follow else None):
                if invocation.as_json:
                    click.echo(line.model_dump_json())
                else:
                    show_line(screen, line)
        return 0

    exit_with(work)


async def _logged_run(services: Services, daemon: DaemonClient | None, run_id: str | None) -> UUID:
    """The run whose id begins so; without one the run under way, else the last that this host or the ledger knows."""
    under_way = (await daemon.status()).run if daemon is not None else None
    if under_way is not None and (run_id is None or _begins_with(under_way.run_id, run_id)):
        return under_way.run_id
    files = {path.stem: path.stat().st_mtime for path in (services.settings.state_dir / "runs").glob("*.jsonl")}
    if run_id is not None:
        found = {name for name in files if _begins_with(name, run_id)}
        if len(found) != 1:
            found |= set(map(str, await services.history.find_runs(run_id)))
        return UUID(the_one_run(found, run_id))
    try:
        newest = await services.history.runs(1)
    except IcekeeperError:
        if not files:
            raise
        newest = ()
    if newest:
        return UUID(str(newest[0]["run_id"]))
    if not files:
        raise click.UsageError("there is no run yet")
    return UUID(max(files, key=lambda name: files[name]))


async def _lines(
    services: Services, run_id: UUID, log_filter: LogFilter, following: DaemonClient | None
) -> AsyncIterator[LogLine]:
    """Lines as they are written; `following` is the daemon to ask whether the run goes on, None to stop at the last."""
    from icekeeper.status import log_pages

    after = 0
    while True:
        # Before the lines are read: the last ones are written before the run counts as ended.
        goes_on = following is not None and await _is_under_way(following, run_id)
        page = await log_pages.page(services.settings.state_dir, services.history, run_id, log_filter, after, _LINES)
        for line in page.items:
            yield line
            after = line.line_no
        if page.next is None:
            if not goes_on:
                return
            await asyncio.sleep(_POLL_S)
