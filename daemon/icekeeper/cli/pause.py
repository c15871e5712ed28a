"""The commands `pause` and `unpause`."""

from __future__ import annotations

import socket
from datetime import UTC, datetime

import click

from icekeeper.adapters.users import operator_name
from icekeeper.cli.shared import Invocation, common, print_json
from icekeeper.core.plain import to_plain
from icekeeper.scheduling import pause


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
    settings, now = invocation.settings(), datetime.now(UTC).replace(microsecond=0)
    try:
        end = None if until is None else pause.parse_until(until, now)
    except ValueError as exc:
        raise click.BadParameter(str(exc), param_hint="--until") from exc
    if (obstacle := pause.obstacle(settings.state_dir)) is not None:
        raise click.UsageError(obstacle)
    before = pause.in_force(settings.state_dir, now)
    begun = pause.Pause(operator_name(), socket.gethostname(), now, end, note.strip())
    pause.write(settings.state_dir, begun)
    next_slot = settings.schedule.calendar().next_slot(now)
    outlook = pause.outlook(begun, next_slot, settings.schedule.catch_up)
    if invocation.as_json:
        print_json(to_plain({"paused": True, **to_plain(begun), "next_slot": next_slot, "outlook": outlook}))
        return
    click.echo(f"the nights are {begun}")
    if before is not None:
        click.echo(f"    before, they were {before}")
    click.echo(f"    {outlook}")


@click.command()
@common
def unpause(invocation: Invocation) -> None:
    """Lets the nights go on; a slot that waits begins within seconds."""
    settings, now = invocation.settings(), datetime.now(UTC)
    before = pause.in_force(settings.state_dir, now)
    pause.remove(settings.state_dir)
    next_slot = settings.schedule.calendar().next_slot(now)
    text = "the nights were not paused" if before is None else f"the nights go on; they were {before}"
    invocation.answer(to_plain({"paused": False, "was": before, "next_slot": next_slot}), lambda: click.echo(text))
