"""The commands that work on tables: run, compact, expire, audit, plan."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Any

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
    print_json,
)
from icekeeper.core.enums import RunOutcome, Stage
from icekeeper.core.formats import iso_second
from icekeeper.settings import Settings

# No table has rows of before; and it keeps clear of what datetime can't express.
_FIRST_YEAR = 1970
_ONE_DAY = timedelta(days=1)
_LONGEST_RANGE = timedelta(days=366)
_DAY = click.DateTime(["%Y-%m-%d"])

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


@click.command(short_help="Compares ClickHouse's and Iceberg's rows of a day, or of several.")
@click.option(
    "--window-hours", "--audit-window-hours", type=click.IntRange(1, 8760), metavar="H",
    help="Count the H hours before the slot's whole hour, not the UTC day before it.",
)  # fmt: skip
@click.option("--from", "first", type=_DAY, metavar="DAY", help="Audit each UTC day from this one (2026-02-10) on.")
@click.option("--to", "last", type=_DAY, metavar="DAY", help="The last day of them; default: yesterday.")
@click.option("--dry-run", is_flag=True, help="Count and print, and write no row.")
@_choices
@common
def audit(
    invocation: Invocation,
    slot: str | None,
    tables: tuple[str, ...],
    window_hours: int | None,
    first: datetime | None,
    last: datetime | None,
    dry_run: bool,
) -> None:
    """Compares ClickHouse's and Iceberg's rows; with --from, of several days, a run for each."""
    if first is None and last is None:
        _run(invocation, slot, (Stage.AUDIT,), tables, window_hours=window_hours, record=not dry_run)
        return
    if slot is not None or window_hours is not None:
        raise click.UsageError("--from and --to name whole days: they take neither --slot nor --window-hours")
    slots = _slots_after(first, last)
    _run_each(invocation, invocation.settings(), slots, (Stage.AUDIT,), tables, record=not dry_run, several=True)


@click.command()
@_chosen_stages
@_choices
@common
def plan(invocation: Invocation, slot: str | None, stages: tuple[str, ...], tables: tuple[str, ...]) -> None:
    """Shows what a run would do and why; changes and counts nothing."""
    _plan(invocation, slot, _stages(stages), tables)


def _stages(names: tuple[str, ...]) -> tuple[Stage, ...]:
    return tuple(dict.fromkeys(map(Stage, names))) or tuple(Stage)


def _slots_after(first: datetime | None, last: datetime | None) -> tuple[datetime, ...]:
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
    settings = invocation.settings()
    slots = (_parse_slot(settings, slot),)
    _run_each(invocation, settings, slots, stages, tables, window_hours=window_hours, record=record)


def _run_each(
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
    """A run for each slot, until one is stopped or can't be recorded. `several`: `--json` gives a list of reports."""
    from icekeeper.cli.output import console
    from icekeeper.cli.preconditions import require_start
    from icekeeper.control.client import DaemonClient
    from icekeeper.core.plain import report_document
    from icekeeper.execution import logging as logs
    from icekeeper.execution.execute import Executed
    from icekeeper.execution.standalone import run_standalone, session
    from icekeeper.night.run import StopRequest
    from icekeeper.scheduling import pause
    from icekeeper.scheduling.orders import RunRequest

    stop = StopRequest()
    requests = [RunRequest(slot, stages, tables, window_hours, record) for slot in slots]
    orders = [replace(request.order(settings), stop=stop) for request in requests]
    if (paused := pause.notice(settings.state_dir)) is not None:
        click.echo(paused, err=True)
    screen = console.stderr()
    # Where a bar shows the progress, only warnings need a line of their own.
    quiet: logs.Level | None = "warning" if screen.is_terminal else None
    logs.configure(
        settings.logs.level, settings.logs.format, settings.state_dir if record else None, console_level=quiet
    )

    async def run_all() -> AsyncGenerator[Executed, None]:
        daemon = await DaemonClient.find(settings.state_dir)
        if daemon is not None:
            for request in requests:
                with console.ProgressBar(screen, "the daemon begins") as bar:
                    done = await daemon.run(request, bar.observe, stop)
                yield done
            return
        async with session(settings) as services:
            if record:
                await require_start(services)
            for order in orders:
                with console.ProgressBar(screen) as bar:
                    done = await run_standalone(services, order, bar.observe, record=record)
                yield done

    async def work() -> int:
        ended: list[Executed] = []
        try:
            async with aclosing(run_all()) as runs:
                async for done in runs:
                    ended.append(done)
                    if not invocation.as_json:
                        console.show_report(console.stdout(), done.report)
                    if done.not_shipped is not None:
                        complain(done.not_shipped)
                        click.echo(f"    the run is kept in {settings.state_dir} until PostgreSQL takes it", err=True)
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

    exit_with(work, stop)


def _plan(invocation: Invocation, slot: str | None, stages: tuple[Stage, ...], tables: tuple[str, ...]) -> None:
    from icekeeper.cli.output import console
    from icekeeper.control.client import DaemonClient
    from icekeeper.core.plain import plan_document
    from icekeeper.core.tables.restraints import commits_wait
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
        note = commits_wait(order.tables, order.policy)
        invocation.answer(document, partial(console.show_plans, screen, order.slot, plans, errors, note))
        return FAILED if errors else 0

    exit_with(work)
