"""The command line: arguments to calls, results to output, errors to exit codes. No rule of the night lives here."""

from __future__ import annotations

import asyncio
import functools
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import click
import yaml

from daemon import __version__
from daemon.core.errors import ConfigError, IcekeeperError
from daemon.core.model import Stage, Trigger
from daemon.settings import Settings, find_config, load, schema, shown

FAILED, USAGE, CANNOT_START = 1, 2, 4


@dataclass(frozen=True, slots=True)
class Invocation:
    """What every command takes."""

    config: Path | None
    as_json: bool

    def settings(self) -> Settings:
        return load(find_config(self.config))


def common(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--config` and `--json`, handed to the command as an Invocation."""

    @click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")
    @click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; logs go to stderr.")
    @functools.wraps(command)
    def wrapped(config: Path | None, as_json: bool, **arguments: Any) -> Any:
        return command(Invocation(config, as_json), **arguments)

    return wrapped


def choices(command: Callable[..., Any]) -> Callable[..., Any]:
    """`--slot` and `--table`, as every command has them that works on tables."""
    command = click.option(
        "--table", "tables", multiple=True, metavar="NAME", help="Only this table; may be given several times."
    )(command)
    return click.option(
        "--slot", metavar="WHEN", help="The slot to answer for: a day (2026-02-18) or an instant; default: now's."
    )(command)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="icekeeper")
def cli() -> None:
    """Compacts, expires and audits the Iceberg cold tier of a lakehouse, every night."""


# --- runs


@cli.command()
@click.option("--stage", "stages", multiple=True, type=click.Choice([s.value for s in Stage]), help="Only this stage.")
@click.option("--dry-run", is_flag=True, help="Show what would be done; change and count nothing.")
@choices
@common
def run(
    invocation: Invocation, slot: str | None, stages: tuple[str, ...], tables: tuple[str, ...], dry_run: bool
) -> None:
    """Runs one night, here and now: compact, expire, audit."""
    chosen = tuple(Stage(name) for name in stages) or tuple(Stage)
    if dry_run:
        _plan(invocation, slot, chosen, tables)
    else:
        _run(invocation, slot, chosen, tables)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@choices
@common
def compact(invocation: Invocation, slot: str | None, tables: tuple[str, ...], dry_run: bool) -> None:
    """Packs small files into large ones."""
    (_plan if dry_run else _run)(invocation, slot, (Stage.COMPACT,), tables)


@cli.command()
@click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")
@choices
@common
def expire(invocation: Invocation, slot: str | None, tables: tuple[str, ...], dry_run: bool) -> None:
    """Drops old snapshots."""
    (_plan if dry_run else _run)(invocation, slot, (Stage.EXPIRE,), tables)


@cli.command()
@click.option(
    "--window-hours", "--audit-window-hours", type=click.IntRange(min=1), metavar="H",
    help="Count the H hours before the slot's whole hour, not the UTC day before it.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Count and print, and write no row.")
@choices
@common
def audit(
    invocation: Invocation, slot: str | None, tables: tuple[str, ...], window_hours: int | None, dry_run: bool
) -> None:
    """Compares ClickHouse's and Iceberg's row counts."""
    _run(invocation, slot, (Stage.AUDIT,), tables, window_hours=window_hours, record=not dry_run)


@cli.command()
@click.option("--stage", "stages", multiple=True, type=click.Choice([s.value for s in Stage]), help="Only this stage.")
@choices
@common
def plan(invocation: Invocation, slot: str | None, stages: tuple[str, ...], tables: tuple[str, ...]) -> None:
    """Shows what a run would do and why; changes and counts nothing."""
    _plan(invocation, slot, tuple(Stage(name) for name in stages) or tuple(Stage), tables)


def _run(
    invocation: Invocation,
    slot: str | None,
    stages: tuple[Stage, ...],
    tables: tuple[str, ...],
    *,
    window_hours: int | None = None,
    record: bool = True,
) -> None:
    from daemon.service import console, logs
    from daemon.service.reports import report_document
    from daemon.service.runs import EXIT_CODES, execute, make_order
    from daemon.service.session import require_ledger, session

    settings = invocation.settings()
    order = make_order(
        settings, _slot(settings, slot), Trigger.MANUAL, stages=stages, tables=tables, window_hours=window_hours
    )
    screen = console.stderr()
    # Where a bar shows how it goes, only what is wrong needs a line of its own.
    quiet: logs.Level | None = "warning" if screen.is_terminal else None
    logs.configure(
        settings.logs.level, settings.logs.format, settings.state_dir if record else None, console_level=quiet
    )

    async def work() -> int:
        async with session(settings) as services:
            if record:
                await require_ledger(services)
            with console.ProgressBar(screen) as bar:
                done = await execute(services, order, bar.observe, record=record)
        if invocation.as_json:
            _print_json(report_document(done.report))
        else:
            console.show_report(console.stdout(), done.report)
        if done.ledger_error is not None:
            _complain(done.ledger_error)
            return CANNOT_START
        return EXIT_CODES[done.report.outcome]

    _exit(work)


def _plan(invocation: Invocation, slot: str | None, stages: tuple[Stage, ...], tables: tuple[str, ...]) -> None:
    from daemon.service import console, logs
    from daemon.service.plans import make_plans
    from daemon.service.reports import plan_document
    from daemon.service.runs import make_order
    from daemon.service.session import session

    settings = invocation.settings()
    order = make_order(
        settings.model_copy(update={"mode": "maintain"}),
        _slot(settings, slot),
        Trigger.MANUAL,
        stages=stages,
        tables=tables,
    )
    logs.configure(settings.logs.level, settings.logs.format, None, console_level="warning")

    async def work() -> int:
        async with session(settings) as services:
            plans, errors = await make_plans(order, services.parts)
        if invocation.as_json:
            _print_json(plan_document(order.slot, plans, errors))
        else:
            console.show_plans(console.stdout(), order.slot, plans, errors)
        return FAILED if errors else 0

    _exit(work)


# --- the ledger


@cli.command()
@click.argument("run_id", required=False)
@click.option("--limit", type=click.IntRange(min=1, max=1000), default=20, show_default=True, help="How many runs.")
@common
def history(invocation: Invocation, run_id: str | None, limit: int) -> None:
    """Shows the newest runs, or one run with its tasks, audits and logs. The first characters of an id will do."""
    from daemon.service import console
    from daemon.service.reports import plain
    from daemon.service.session import session

    async def work() -> int:
        async with session(invocation.settings()) as services:
            if run_id is None:
                runs = await services.ledger.runs(limit)
                if invocation.as_json:
                    _print_json(plain(runs))
                else:
                    console.show_runs(console.stdout(), runs)
                return 0
            found = await services.ledger.find_runs(run_id)
            if len(found) != 1:
                what = "no run has" if not found else f"{len(found)} runs have"
                raise click.UsageError(f"{what} an id that begins with {run_id}")
            one = await services.ledger.run(found[0]["run_id"])
            assert one is not None  # found a moment ago, and the ledger forgets nothing
            if invocation.as_json:
                _print_json(plain(one))
            else:
                console.show_run(console.stdout(), one)
            return 0

    _exit(work)


@cli.command()
@common
def migrate(invocation: Invocation) -> None:
    """Creates or updates the tables in PostgreSQL; an audit log that is there is adopted."""
    from daemon.adapters.sql.migrations import migrate as migrate_ledger

    settings = invocation.settings()
    password = settings.postgres.password

    async def work() -> int:
        applied = await migrate_ledger(settings.postgres.dsn, password.get_secret_value() if password else None)
        if invocation.as_json:
            _print_json({"applied": applied})
        elif applied:
            click.echo("\n".join(f"applied {name}" for name in applied))
        else:
            click.echo("nothing to do: the tables are up to date")
        return 0

    _exit(work)


# --- configuration


@cli.group()
def config() -> None:
    """Checks and shows the configuration."""


@config.command("check")
@common
def config_check(invocation: Invocation) -> None:
    """Says whether the configuration is good, and everything that is wrong with it."""
    settings = invocation.settings()
    tables = len(settings.policies())
    if invocation.as_json:
        _print_json({"ok": True, "tables": tables, "settings_hash": settings.digest()})
    else:
        click.echo(
            f"{find_config(invocation.config)} is good: {tables} tables, next night by {settings.schedule.cron!r}"
        )


@config.command("show")
@common
def config_show(invocation: Invocation) -> None:
    """Shows the configuration in force, defaults filled in and secrets hidden."""
    document = shown(invocation.settings())
    if invocation.as_json:
        _print_json(document)
    else:
        click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)


@config.command("schema")
def config_schema() -> None:
    """Prints the JSON Schema of the configuration, for editors."""
    _print_json(schema())


# --- the daemon and the demo


@cli.command()
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")
def serve(config: Path | None) -> None:
    """Runs the daemon: a night at every slot of the schedule, until SIGTERM."""
    from daemon.service import logs
    from daemon.service.supervisor import Supervisor

    path = find_config(config)
    logs.configure("info", "auto", None)
    asyncio.run(Supervisor(path).run())


@cli.command()
@click.option("--keep", is_flag=True, help="Leave the lakehouse running at the end, and say how to look at it.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where its files go; default: a new temporary directory.",
)
def demo(keep: bool, root: Path | None) -> None:
    """Runs a whole night on a lakehouse of embedded parts, made and removed here."""
    try:
        from daemon.demo import run_demo
    except ImportError as exc:
        raise click.ClickException(f"the demo needs the extra: pip install 'icekeeper[sandbox]' ({exc})") from exc
    sys.exit(run_demo(keep=keep, root=root))


# --- shared


def _slot(settings: Settings, text: str | None) -> datetime:
    """The slot meant on the command line; UsageError where it is none or in the future."""
    from daemon.service.scheduler import calendar_of

    now = datetime.now(UTC)
    if text is None:
        # An operator's run answers for the present: its window is yesterday's.
        return now.replace(second=0, microsecond=0)
    try:
        day = date.fromisoformat(text)
    except ValueError:
        slot = _instant(text)
    else:
        planned = calendar_of(settings.schedule).slot_on(day)
        # A day that the schedule leaves out can be asked for all the same.
        slot = planned or datetime(day.year, day.month, day.day, 2, tzinfo=UTC)
    if slot > now:
        raise click.BadParameter(f"{slot:%Y-%m-%dT%H:%M:%SZ} lies in the future", param_hint="--slot")
    return slot


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as exc:
        allowed = "a day like 2026-02-18 or an instant like 2026-02-18T02:00:00Z"
        raise click.BadParameter(f"{text!r} is not {allowed}", param_hint="--slot") from exc
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).astimezone(UTC)


def _exit(work: Callable[[], Awaitable[int]]) -> None:
    """Runs a command to its exit code; SIGINT cancels it as an operator, SIGTERM interrupts it."""
    from daemon.night import BY_OPERATOR

    async def guarded() -> int:
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None  # asyncio.run made one
        loop.add_signal_handler(signal.SIGINT, task.cancel, BY_OPERATOR)
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            return await work()
        except asyncio.CancelledError:
            return 130  # before a run could begin

    sys.exit(asyncio.run(guarded()))


def _print_json(document: Any) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))


def _complain(error: IcekeeperError) -> None:
    click.echo(f"icekeeper: {error}", err=True)
    if not isinstance(error, ConfigError) and error.reason.advice:
        click.echo(f"    {error.reason}: {error.reason.advice}", err=True)


def main() -> None:
    """The command `icekeeper`."""
    try:
        cli()
    except ConfigError as exc:
        _complain(exc)
        sys.exit(USAGE)
    except IcekeeperError as exc:
        _complain(exc)
        sys.exit(CANNOT_START)
