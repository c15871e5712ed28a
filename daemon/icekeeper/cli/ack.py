"""The command `ack`: lists open findings, and closes one."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from datetime import date
from functools import partial
from typing import Any

import click

from icekeeper.adapters.users import operator_name
from icekeeper.cli.shared import Invocation, common, exit_with, print_json
from icekeeper.core.audit.records import OpenWindow
from icekeeper.core.formats import listed
from icekeeper.core.plain import to_plain
from icekeeper.core.tables.state import MISMATCH_TAG
from icekeeper.settings import Settings


@click.command(short_help="Lists the days that lack rows, or closes one.")
@click.argument("table", required=False)
@click.argument("day", required=False)
@click.option("--note", metavar="TEXT", help="Why it may stay as it is; it is kept.")
@click.option("--by", metavar="NAME", help="Who says so; default: the user who is logged in.")
@click.option("--rewrite", is_flag=True, help="Accept a rewrite of TABLE that was found wrong, in place of a DAY.")
@click.option("--list", "listing", is_flag=True, help="Show what is open and what was acknowledged; so without TABLE.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many are shown.")
@common
def ack(
    invocation: Invocation,
    table: str | None,
    day: str | None,
    note: str | None,
    by: str | None,
    rewrite: bool,
    listing: bool,
    limit: int,
) -> None:
    """Acknowledges that rows of TABLE lack on DAY (the audited UTC day, like 2026-02-17): the finding is closed.

    It holds no expiry any more, and no alert. An audit that finds more rows missing opens it again.

    With --rewrite a rewrite that was found wrong (rewrite_mismatch) is accepted: the tag of the snapshot before it
    goes, and TABLE is compacted and expired again.
    """
    settings = invocation.settings()
    known = [one.name for one in settings.tables]
    if table is not None and table not in known:
        raise click.BadParameter(f"{table} is not configured; there are {', '.join(known)}", param_hint="TABLE")
    if listing or table is None:
        if rewrite:
            raise click.UsageError("to accept a rewrite: icekeeper ack TABLE --rewrite --note TEXT")
        if note is not None or day is not None:
            raise click.UsageError("to close a finding: icekeeper ack TABLE DAY --note TEXT")
        exit_with(partial(_list, invocation, settings, known if table is None else [table], limit))
        return
    if rewrite:
        if day is not None or note is None or not note.strip():
            raise click.UsageError("to accept a rewrite: icekeeper ack TABLE --rewrite --note TEXT")
        who = (by or "").strip() or operator_name()
        exit_with(partial(_accept, invocation, settings, table, note.strip(), who))
        return
    if day is None or note is None or not note.strip():
        missing = "a DAY" if day is None else "a note that says why"
        open_days = f"; its open days: icekeeper ack --list {table}" if day is None else ""
        raise click.UsageError(f"it needs {missing}: icekeeper ack TABLE DAY --note TEXT{open_days}")
    try:
        audited_day = date.fromisoformat(day)
    except ValueError as exc:
        raise click.BadParameter(f"{day!r} is not a day like 2026-02-17", param_hint="DAY") from exc
    who = (by or "").strip() or operator_name()
    exit_with(partial(_close, invocation, settings, table, audited_day, note.strip(), who))


async def _accept(invocation: Invocation, settings: Settings, table: str, note: str, by: str) -> int:
    from icekeeper.control.client import DaemonClient
    from icekeeper.execution.acceptance import accept_rewrites
    from icekeeper.execution.standalone import session

    daemon = await DaemonClient.find(settings.state_dir)
    if daemon is not None:
        tags = (await daemon.accept_rewrites(table, note, by)).tags
    else:
        async with session(settings) as services:
            tags = await accept_rewrites(services, table, note, by)
    if not tags:
        raise click.UsageError(f"no rewrite of {table} is in question: it has no tag {MISMATCH_TAG}*")
    document = {"table": table, "tags": list(tags), "by": by, "note": note}
    invocation.answer(document, lambda: click.echo(f"accepted: {table}, {listed(tags)} is removed"))
    return 0


async def _list(invocation: Invocation, settings: Settings, tables: Sequence[str], limit: int) -> int:
    from icekeeper.cli.output import console, listings
    from icekeeper.execution.standalone import session

    async with session(settings) as services:
        found = await services.findings.all_open(tables)
        acks = await services.findings.acks(tables, limit)
    document = {"open": _documents(found), "acknowledged": to_plain(acks)}
    invocation.answer(document, lambda: listings.show_findings(console.stdout(), found, acks, limit))
    return 0


async def _close(invocation: Invocation, settings: Settings, table: str, day: date, note: str, by: str) -> int:
    from icekeeper.cli.output.listings import audited, missing_rows
    from icekeeper.execution.standalone import session

    async with session(settings) as services:
        findings = services.findings
        closed = await findings.acknowledge(table, day, note, by, socket.gethostname())
        left = await findings.open_windows(table)
        before = () if closed else [one for one in await findings.acks([table], 1000) if one.day == day.isoformat()]
    days = sorted({f"{finding.window.start:%Y-%m-%d}" for finding in left}, reverse=True)
    still = listed(days, most=10)
    if not closed:
        done = f"; {before[0].by} acknowledged it: {before[0].note}" if before else ""
        there = f"the days that are open are {still}" if days else "it has no open day"
        raise click.UsageError(f"nothing is open of {table} on {day}{done}. {there[0].upper()}{there[1:]}")
    if invocation.as_json:
        print_json({"closed": _documents(closed), "open": _documents(left), "by": by, "note": note})
        return 0
    for finding in closed:
        rows = missing_rows(finding)
        rows += " rows" if rows and finding.bad_file_rows is None else ""
        click.echo(f"closed: {table}, {audited(finding.window)}, {finding.status}{f', {rows}' if rows else ''}")
    click.echo(f"    still open: {still}" if days else f"    nothing else is open of {table}")
    return 0


def _documents(findings: Iterable[OpenWindow]) -> list[dict[str, Any]]:
    return [{"table": one.table, "day": f"{one.window.start:%Y-%m-%d}", **to_plain(one)} for one in findings]
