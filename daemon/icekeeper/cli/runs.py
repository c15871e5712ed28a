"""The commands that work on tables: run, compact, expire, audit, plan."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import click

from icekeeper.cli.shared import CANCELLED, CANNOT_START, FAILED, PARTIAL, Invocation, common, complain, exit_with
from icekeeper.core.enums import RunOutcome, Stage
from icekeeper.core.formats import iso_second
from icekeeper.settings import Settings

# No table has rows of before; and it keeps clear of what datetime can't express.
_FIRST_YEAR = 1970

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
    names = click.Choice([stage.value for stage in Stage])
    return click.option(
        "--stage", "stages", multiple=True, type=names, help="Only this stage; may be given several times."
    )(command)


def _choices(command: Callable[..., Any]) -> Callable[..., Any]:
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
@_choices
@common
def run(
    invocation: Invocation, slot: str | None, stages: tuple[str, ...], tables: tuple[str, ...], dry_run: bool
) -> None:
    """Runs one night, here and now: compact, expire, audit."""
    chosen = _stages(stages)
    if dry_run:
        _plan(invocation, slot, chosen, tables)
    else:
        _run(invocation, slot, chosen, tables)


def _changing(stage: Stage, about: str) -> click.Command:
    """The command of a stage that changes tables."""

    @click.command(stage.value, help=about)
    @click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
    @_choices
    @common
    def command(invocation: Invocation, slot: str | None, tables: tuple[str, ...], dry_run: bool) -> None:
        (_plan if dry_run else _run)(invocation, slot, (stage,), tables)

    return command


compact = _changing(Stage.COMPACT, "Packs small files into large ones.")
expire = _changing(Stage.EXPIRE, "Drops old snapshots.")


@click.command()
@click.option(
    "--window-hours", "--audit-window-hours", type=click.IntRange(1, 8760), metavar="H",
    help="Count the H hours before the slot's whole hour, not the UTC day before it.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Count and print, and write no row.")
@_choices
@common
def audit(
    invocation: Invocation, slot: str | None, tables: tuple[str, ...], window_hours: int | None, dry_run: bool
) -> None:
    """Compares ClickHouse's and Iceberg's row counts."""
    _run(invocation, slot, (Stage.AUDIT,), tables, window_hours=window_hours, record=not dry_run)


@click.command()
@_chosen_stages
@_choices
@common
def plan(invocation: Invocation, slot: str | None, stages: tuple[str, ...], tables: tuple[str, ...]) -> None:
    """Shows what a run would do and why; changes and counts nothing."""
    _plan(invocation, slot, _stages(stages), tables)


def _stages(names: tuple[str, ...]) -> tuple[Stage, ...]:
    return tuple(dict.fromkeys(map(Stage, names))) or tuple(Stage)


def _parse_slot(settings: Settings, text: str | None) -> datetime:
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


def _run(
    invocation: Invocation,
    slot: str | None,
    stages: tuple[Stage, ...],
    tables: tuple[str, ...],
    *,
    window_hours: int | None = None,
    record: bool = True,
) -> None:
    from icekeeper.cli.output import console
    from icekeeper.cli.preconditions import require_start
    from icekeeper.control.client import DaemonClient
    from icekeeper.core.plain import report_document
    from icekeeper.execution import logging as logs
    from icekeeper.execution.execute import Executed
    from icekeeper.execution.standalone import run_standalone, session
    from icekeeper.scheduling import pause
    from icekeeper.scheduling.orders import RunRequest

    settings = invocation.settings()
    request = RunRequest(_parse_slot(settings, slot), stages, tables, window_hours, record)
    order = request.order(settings)
    if (paused := pause.notice(settings.state_dir)) is not None:
        click.echo(paused, err=True)
    screen = console.stderr()
    # Where a bar shows the progress, only warnings need a line of their own.
    quiet: logs.Level | None = "warning" if screen.is_terminal else None
    logs.configure(
        settings.logs.level, settings.logs.format, settings.state_dir if record else None, console_level=quiet
    )

    async def run_in_this_process() -> Executed:
        async with session(settings) as services:
            if record:
                await require_start(services)
            with console.ProgressBar(screen) as bar:
                return await run_standalone(services, order, bar.observe, record=record)

    async def work() -> int:
        daemon = await DaemonClient.find(settings.state_dir)
        if daemon is None:
            done = await run_in_this_process()
        else:
            with console.ProgressBar(screen, "the daemon begins") as bar:
                done = await daemon.run(request, bar.observe, order.stop)
        invocation.answer(report_document(done.report), lambda: console.show_report(console.stdout(), done.report))
        if done.not_recorded is not None:
            complain(done.not_recorded)
            return CANNOT_START
        if done.not_shipped is not None:
            complain(done.not_shipped)
            click.echo(f"    the run is kept in {settings.state_dir} until PostgreSQL takes it", err=True)
        return EXIT_CODES[done.report.outcome]

    exit_with(work, order.stop)


def _plan(invocation: Invocation, slot: str | None, stages: tuple[Stage, ...], tables: tuple[str, ...]) -> None:
    from icekeeper.cli.output import console
    from icekeeper.control.client import DaemonClient
    from icekeeper.core.plain import plan_document
    from icekeeper.execution import logging as logs
    from icekeeper.execution.plans import make_plans
    from icekeeper.execution.standalone import session
    from icekeeper.scheduling.orders import RunRequest

    settings = invocation.settings()
    request = RunRequest(_parse_slot(settings, slot), stages, tables)
    order = request.order(settings)
    logs.configure(settings.logs.level, settings.logs.format, None, console_level="warning")

    async def work() -> int:
        daemon = await DaemonClient.find(settings.state_dir)
        if daemon is not None:
            plans, errors = await daemon.plan(request)
        else:
            async with session(settings) as services:
                plans, errors = await make_plans(order, services.ports)
        document, screen = plan_document(order.slot, plans, errors), console.stdout()
        one_writer = any(policy.single_writer for policy in order.tables)
        show = partial(console.show_plans, screen, order.slot, plans, errors, single_writer=one_writer)
        invocation.answer(document, show)
        return FAILED if errors else 0

    exit_with(work)
