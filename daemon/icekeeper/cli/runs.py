"""The commands that run a night or a stage of it, or plan that: run, compact, expire, plan. Audits: audits.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from icekeeper.cli.shared import (
    CANCELLED,
    CANNOT_START,
    FAILED,
    PARTIAL,
    Invocation,
    common,
    complain,
    exit_with,
    parse_slot,
    print_json,
)
from icekeeper.core.enums import NIGHT, RunOutcome, Stage
from icekeeper.settings import Settings

if TYPE_CHECKING:
    from icekeeper.core.tables.plan import Plan
    from icekeeper.execution.execute import Executed
    from icekeeper.execution.wiring import Services
    from icekeeper.night.order import StopRequest
    from icekeeper.scheduling.orders import RunRequest

EXIT_CODES = {
    RunOutcome.SUCCESS: 0,
    RunOutcome.FAILED: FAILED,
    RunOutcome.PARTIAL: PARTIAL,
    RunOutcome.CANCELLED: CANCELLED,
    RunOutcome.INTERRUPTED: CANCELLED,
    RunOutcome.MISSED: FAILED,
}


def _chosen_stages(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--stage`, where a command works on several."""
    names = click.Choice([stage.value for stage in NIGHT])
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


@click.command()
@_chosen_stages
@click.option("--dry-run", is_flag=True, help="Show what would be done; change and count nothing.")
@choices
@common
def run(
    invocation: Invocation, slot: str | None, stages: tuple[str, ...], tables: tuple[str, ...], dry_run: bool
) -> None:
    """Runs one night, here and now: compact, expire, audit."""
    chosen = _stages(stages)
    if dry_run:
        _plan(invocation, slot, chosen, tables)
    else:
        run_slot(invocation, slot, chosen, tables)


def _changing(stage: Stage, about: str) -> click.Command:
    """The command of a stage that changes tables."""

    @click.command(stage.value, help=about)
    @click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
    @choices
    @common
    def command(invocation: Invocation, slot: str | None, tables: tuple[str, ...], dry_run: bool) -> None:
        (_plan if dry_run else run_slot)(invocation, slot, (stage,), tables)

    return command


compact = _changing(Stage.COMPACT, "Packs small files into large ones.")
expire = _changing(Stage.EXPIRE, "Drops old snapshots.")


@click.command()
@_chosen_stages
@choices
@common
def plan(invocation: Invocation, slot: str | None, stages: tuple[str, ...], tables: tuple[str, ...]) -> None:
    """Shows what a run would do and why; changes and counts nothing."""
    _plan(invocation, slot, _stages(stages), tables)


def _stages(names: tuple[str, ...]) -> tuple[Stage, ...]:
    return tuple(dict.fromkeys(map(Stage, names))) or NIGHT


def run_slot(
    invocation: Invocation,
    slot: str | None,
    stages: tuple[Stage, ...],
    tables: tuple[str, ...],
    *,
    window_hours: int | None = None,
    record: bool = True,
) -> None:
    settings = invocation.settings()
    slots = (parse_slot(settings, slot),)
    run_each(invocation, settings, slots, stages, tables, window_hours=window_hours, record=record)


def run_each(
    invocation: Invocation,
    settings: Settings,
    slots: Sequence[datetime],
    stages: tuple[Stage, ...],
    tables: tuple[str, ...],
    *,
    window_hours: int | None = None,
    record: bool = True,
    several: bool = False,
) -> None:
    """A run for each slot. `several`: `--json` gives a list of reports."""
    from icekeeper.adapters.users import operator_name
    from icekeeper.execution.standalone import session
    from icekeeper.night.order import StopRequest
    from icekeeper.scheduling import pause
    from icekeeper.scheduling.orders import RunRequest

    stop = StopRequest()
    requests = [RunRequest(slot, stages, tables, window_hours, record, actor=operator_name()) for slot in slots]
    for request in requests:
        request.order(settings)  # what is wrong with one of them is an error before the first begins
    if (paused := pause.notice(settings.state_dir)) is not None:
        click.echo(paused, err=True)
    log_beside_progress(settings, record=record)

    async def work() -> int:
        async with session(settings) as services:
            return await show_runs(invocation, services, requests, stop, several=several)

    exit_with(work, stop)


async def show_runs(
    invocation: Invocation, services: Services, requests: Sequence[RunRequest], stop: StopRequest, *, several: bool
) -> int:
    """Has the runs done, one after the other, until one is stopped or can't be recorded, and prints their reports.

    The exit code. `several`: `--json` gives a list.
    """
    from icekeeper.cli.output import console
    from icekeeper.core.plain import report_document

    ended: list[Executed] = []
    try:
        async with aclosing(ended_runs(services, requests, stop)) as runs:
            async for done in runs:
                ended.append(done)
                if not invocation.as_json:
                    console.show_report(console.stdout(), done.report)
                if done.not_shipped is not None:
                    complain(done.not_shipped)
                    kept = services.settings.state_dir
                    click.echo(f"    the run is kept in {kept} until PostgreSQL takes it", err=True)
                if done.not_recorded is not None or EXIT_CODES[done.report.outcome] == CANCELLED:
                    break
    finally:  # also where a run could not begin: those before it have ended
        documents = [report_document(done.report) for done in ended]
        if invocation.as_json and documents:
            print_json(documents if several else documents[0])
    if done.not_recorded is not None:
        complain(done.not_recorded)
        return CANNOT_START
    codes = {EXIT_CODES[done.report.outcome] for done in ended}
    return next(code for code in (CANCELLED, FAILED, PARTIAL, 0) if code in codes)


def log_beside_progress(settings: Settings, *, record: bool) -> None:
    """Where a bar shows the progress, only warnings need a line of their own."""
    from icekeeper.cli.output import console
    from icekeeper.execution import logging as logs

    quiet: logs.Level | None = "warning" if console.stderr().is_terminal else None
    logs.configure(
        settings.logs.level, settings.logs.format, settings.state_dir if record else None, console_level=quiet
    )


async def ended_runs(
    services: Services, requests: Sequence[RunRequest], stop: StopRequest
) -> AsyncGenerator[Executed, None]:
    """Each request's run once it has ended, by the daemon on this host, or by these services where there is none."""
    from icekeeper.cli.output import console
    from icekeeper.cli.preconditions import require_start
    from icekeeper.control.client import DaemonClient
    from icekeeper.execution.standalone import run_standalone

    settings, screen = services.settings, console.stderr()
    daemon = await DaemonClient.find(settings.state_dir)
    if daemon is None and any(request.record for request in requests):
        await require_start(services)
    for request in requests:
        with console.ProgressBar(screen, *(() if daemon is None else ("the daemon begins",))) as bar:
            if daemon is not None:
                done = await daemon.run(request, bar.observe, stop)
            else:
                order = replace(request.order(settings), stop=stop)
                done = await run_standalone(services, order, bar.observe, record=request.record)
        yield done


async def planned(services: Services, request: RunRequest) -> tuple[list[Plan], dict[str, str]]:
    """The plans of a request, by the daemon on this host, or by these services where there is none."""
    from icekeeper.control.client import DaemonClient
    from icekeeper.execution.plans import make_plans

    daemon = await DaemonClient.find(services.settings.state_dir)
    if daemon is not None:
        return await daemon.plan(request)
    return await make_plans(request.order(services.settings), services.ports)


def _plan(invocation: Invocation, slot: str | None, stages: tuple[Stage, ...], tables: tuple[str, ...]) -> None:
    from icekeeper.cli.output import console
    from icekeeper.core.plain import plan_document
    from icekeeper.core.tables.restraints import commits_wait
    from icekeeper.execution import logging as logs
    from icekeeper.execution.standalone import session
    from icekeeper.scheduling.orders import RunRequest

    settings = invocation.settings()
    request = RunRequest(parse_slot(settings, slot), stages, tables)
    order = request.order(settings)
    logs.configure(settings.logs.level, settings.logs.format, None, console_level="warning")

    async def work() -> int:
        async with session(settings) as services:
            plans, errors = await planned(services, request)
        document, screen = plan_document(order.slot, plans, errors), console.stdout()
        note = commits_wait(order.tables, order.policy)
        invocation.answer(document, partial(console.show_plans, screen, order.slot, plans, errors, note))
        return FAILED if errors else 0

    exit_with(work)
