"""The commands `hold` and `release`: what is to be left alone for now, and no longer."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import partial

import click

from icekeeper.adapters.users import operator_name
from icekeeper.cli.shared import Invocation, common, exit_with
from icekeeper.core.enums import NIGHT, Stage
from icekeeper.core.formats import listed
from icekeeper.core.plain import to_plain
from icekeeper.core.tables.holds import OperatorHold, given_together
from icekeeper.scheduling.pause import parse_until
from icekeeper.settings import Settings

_STAGES = click.Choice([stage.value for stage in NIGHT])


@click.command(short_help="Has a table, or stages of it, left alone; lists what is.")
@click.argument("table", required=False)
@click.option("--stage", "stages", multiple=True, type=_STAGES, help="Only this stage; may be given several times.")
@click.option(
    "--until",
    metavar="T",
    help="Its end: 8h or 2d from now, 06:00 (today, UTC), a day, or an instant; default: until `release`.",
)
@click.option("--note", metavar="TEXT", help="Why; it is kept.")
@click.option("--by", metavar="NAME", help="Who holds it; default: the user who is logged in.")
@click.option("--list", "listing", is_flag=True, help="Show what is on hold, and what was; so without TABLE.")
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many are shown.")
@common
def hold(
    invocation: Invocation,
    table: str | None,
    stages: tuple[str, ...],
    until: str | None,
    note: str | None,
    by: str | None,
    listing: bool,
    limit: int,
) -> None:
    """Puts TABLE on hold: it is neither compacted, nor expired, nor audited, whoever orders the run.

    A task under way goes on; a compaction ends with the slice in hand. Several holds add up: one that ends leaves the
    others. Repairs are no stage of a night, and go on.
    """
    settings, now = invocation.settings(), datetime.now(UTC).replace(microsecond=0)
    if listing or table is None:
        if note is not None or until is not None or stages:
            raise click.UsageError("to put a table on hold: icekeeper hold TABLE --note TEXT")
        exit_with(partial(_list, invocation, settings, table, limit))
        return
    _require_known(settings, table)
    if note is None or not note.strip():
        raise click.UsageError(f"it needs a note that says why: icekeeper hold {table} --note TEXT")
    try:
        end = None if until is None else parse_until(until, now)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--until") from exc
    who = (by or "").strip() or operator_name()
    exit_with(partial(_hold, invocation, settings, table, tuple(map(Stage, stages)), end, note.strip(), who))


@click.command(short_help="Ends the holds of a table.")
@click.argument("table")
@click.option("--stage", "stages", multiple=True, type=_STAGES, help="Only this stage; may be given several times.")
@click.option("--by", metavar="NAME", help="Who releases it; default: the user who is logged in.")
@common
def release(invocation: Invocation, table: str, stages: tuple[str, ...], by: str | None) -> None:
    """Ends all holds of TABLE, or of its stages that are named: the next run works on it again."""
    settings = invocation.settings()
    who = (by or "").strip() or operator_name()
    exit_with(partial(_release, invocation, settings, table, tuple(map(Stage, stages)), who))


def _require_known(settings: Settings, table: str) -> None:
    known = [one.name for one in settings.tables]
    if table not in known:
        raise click.BadParameter(f"{table} is not configured; there are {', '.join(known)}", param_hint="TABLE")


async def _hold(
    invocation: Invocation,
    settings: Settings,
    table: str,
    stages: tuple[Stage, ...],
    until: datetime | None,
    note: str,
    by: str,
) -> int:
    from icekeeper.control.client import DaemonClient
    from icekeeper.execution import holding
    from icekeeper.execution.standalone import session

    daemon = await DaemonClient.find(settings.state_dir)
    if daemon is not None:
        held = await daemon.hold(table, stages, until, note, by)
    else:
        async with session(settings) as services:
            held = await holding.hold(services, table, stages, until, note, by)
    invocation.answer({"held": to_plain(held)}, lambda: _show("", held))
    return 0


async def _release(invocation: Invocation, settings: Settings, table: str, stages: tuple[Stage, ...], by: str) -> int:
    from icekeeper.control.client import DaemonClient
    from icekeeper.execution import holding
    from icekeeper.execution.standalone import session

    daemon = await DaemonClient.find(settings.state_dir)
    if daemon is not None:
        released = await daemon.release(table, stages, by)
    else:
        async with session(settings) as services:
            released = await holding.release(services, table, stages, by)
    if not released:
        what = f"{' and '.join(stages)} of {table}" if stages else table
        click.echo(f"{what} was not on hold", err=True)
    invocation.answer({"released": to_plain(released)}, lambda: _show("released: ", released))
    return 0


def _show(before: str, holds: Sequence[OperatorHold]) -> None:
    for one, stages in given_together(holds).items():
        click.echo(f"{before}{one.table}: {listed(stages)} {one}")


async def _list(invocation: Invocation, settings: Settings, table: str | None, limit: int) -> int:
    from icekeeper.cli.output import console, listings
    from icekeeper.execution.standalone import session

    async with session(settings) as services:
        now = services.ports.clock()
        newest = await services.holds.newest(None if table is None else [table], limit)
        in_force = [one for one in await services.holds.in_force() if table in (None, one.table)]
    past = [one for one in newest if not one.holds(now)]
    document = {"in_force": to_plain(in_force), "past": to_plain(past)}
    invocation.answer(document, lambda: listings.show_holds(console.stdout(), in_force, past))
    return 0
