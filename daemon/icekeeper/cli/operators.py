"""The operator's hand: pause, unpause, ack."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import click

from icekeeper.cli.shared import Invocation, common, exit_with, print_json
from icekeeper.core.audit.records import Finding
from icekeeper.settings import Settings


@click.command("pause", short_help="Holds the nights back on this host.")
@click.option(
    "--until",
    metavar="T",
    help="Its end: 8h or 2d from now, 06:00 (today, UTC), a day, or an instant; default: until `unpause`.",
)
@click.option("--note", default="", metavar="TEXT", help="Why.")
@common
def pause_nights(invocation: Invocation, until: str | None, note: str) -> None:
    """Holds the nights back on this host; a run under way and commands go on.

    A slot that comes due meanwhile waits for the end. It is then run if it is younger than schedule.catch_up, else
    it is recorded as missed.
    """
    from icekeeper.core.plain import plain
    from icekeeper.scheduling import pause

    settings, now = invocation.settings(), datetime.now(UTC).replace(microsecond=0)
    try:
        end = None if until is None else pause.parse_until(until, now)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--until") from exc
    if (obstacle := pause.obstacle(settings.state_dir)) is not None:
        raise click.UsageError(obstacle)
    before = pause.in_force(settings.state_dir, now)
    held = pause.Pause(the_operator(), socket.gethostname(), now, end, note.strip())
    pause.write(settings.state_dir, held)
    next_slot = settings.schedule.calendar().next_slot(now)
    outlook = pause.outlook(held, next_slot, settings.schedule.catch_up)
    if invocation.as_json:
        print_json(plain({"paused": True, **plain(held), "next_slot": next_slot, "outlook": outlook}))
        return
    click.echo(f"the nights are {held}")
    if before is not None:
        click.echo(f"    before, they were {before}")
    click.echo(f"    {outlook}")


@click.command()
@common
def unpause(invocation: Invocation) -> None:
    """Lets the nights go on; a slot that waits begins within seconds."""
    from icekeeper.core.plain import plain
    from icekeeper.scheduling import pause

    settings, now = invocation.settings(), datetime.now(UTC)
    before = pause.in_force(settings.state_dir, now)
    pause.remove(settings.state_dir)
    next_slot = settings.schedule.calendar().next_slot(now)
    if invocation.as_json:
        print_json(plain({"paused": False, "was": before, "next_slot": next_slot}))
    elif before is None:
        click.echo("the nights were not paused")
    else:
        click.echo(f"the nights go on; they were {before}")


@click.command(short_help="Lists the days that lack rows, or closes one.")
@click.argument("table", required=False)
@click.argument("day", required=False)
@click.option("--note", metavar="TEXT", help="Why it may stay as it is; it is kept.")
@click.option("--by", metavar="NAME", help="Who says so; default: the user who is logged in.")
@click.option("--list", "listing", is_flag=True, help="Show what is open and what was acknowledged; so without TABLE.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many are shown.")
@common
def ack(
    invocation: Invocation,
    table: str | None,
    day: str | None,
    note: str | None,
    by: str | None,
    listing: bool,
    limit: int,
) -> None:
    """Acknowledges that rows of TABLE lack on DAY (the audited UTC day, like 2026-02-17): the finding is closed.

    It holds no expiry any more, and no alert. An audit that finds more rows missing opens it again.
    """
    settings = invocation.settings()
    known = [one.name for one in settings.tables]
    if table is not None and table not in known:
        raise click.BadParameter(f"{table} is not configured; there are {', '.join(known)}", param_hint="TABLE")
    if listing or table is None:
        if note is not None or day is not None:
            raise click.UsageError("to close a finding: icekeeper ack TABLE DAY --note TEXT")
        exit_with(partial(_list, invocation, settings, known if table is None else [table], limit))
        return
    if day is None or note is None or not note.strip():
        missing = "a DAY" if day is None else "a note that says why"
        open_days = f"; its open days: icekeeper ack --list {table}" if day is None else ""
        raise click.UsageError(f"it needs {missing}: icekeeper ack TABLE DAY --note TEXT{open_days}")
    try:
        meant = date.fromisoformat(day)
    except ValueError as exc:
        raise click.BadParameter(f"{day!r} is not a day like 2026-02-17", param_hint="DAY") from exc
    who = (by or "").strip() or the_operator()
    exit_with(partial(_close, invocation, settings, table, meant, note.strip(), who))


async def _list(invocation: Invocation, settings: Settings, tables: Sequence[str], limit: int) -> int:
    from icekeeper.cli.output import console, listings
    from icekeeper.core.plain import plain
    from icekeeper.execution.standalone import session

    async with session(settings) as services:
        found = await services.findings.all_open(tables)
        acks = await services.findings.acks(tables, limit)
    if invocation.as_json:
        print_json({"open": _documents(found), "acknowledged": plain(acks)})
    else:
        listings.show_findings(console.stdout(), found, acks, limit)
    return 0


async def _close(invocation: Invocation, settings: Settings, table: str, day: date, note: str, by: str) -> int:
    from icekeeper.cli.output.listings import audited, missing_rows
    from icekeeper.execution.standalone import session

    async with session(settings) as services:
        findings = services.findings
        closed = await findings.acknowledge(table, day, note, by, socket.gethostname())
        left = await findings.open_findings(table)
        before = () if closed else [one for one in await findings.acks([table], 1000) if one.day == day.isoformat()]
    days = sorted({f"{finding.window.start:%Y-%m-%d}" for finding in left}, reverse=True)
    still = ", ".join(days[:10]) + (f" and {len(days) - 10} more" if len(days) > 10 else "")
    if not closed:
        done = f"; {before[0].by} acknowledged it: {before[0].note}" if before else ""
        there = f"the days that are open are {still}" if days else "it has no open day"
        raise click.UsageError(f"nothing is open of {table} on {day}{done}. {there[0].upper()}{there[1:]}")
    if invocation.as_json:
        print_json({"closed": _documents(closed), "open": _documents(left), "by": by, "note": note})
        return 0
    for finding in closed:
        rows = missing_rows(finding)
        click.echo(f"closed: {table}, {audited(finding.window)}, {finding.status}{f', {rows} rows' if rows else ''}")
    click.echo(f"    still open: {still}" if days else f"    nothing else is open of {table}")
    return 0


def _documents(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    from icekeeper.core.plain import plain

    return [{"table": one.table, "day": f"{one.window.start:%Y-%m-%d}", **plain(one)} for one in findings]


def the_operator() -> str:
    """Who gives this command: behind sudo, the one who called it."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"
