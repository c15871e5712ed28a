"""The command about messages: whom a daemon tells, and whether they can be reached."""

from __future__ import annotations

import click

from icekeeper.cli.shared import FAILED, Invocation, common, exit_with, print_json


@click.command(short_help="Shows who is told of nights; --test sends each a message.")
@click.option("--test", is_flag=True, help="Send a message that says that it is a test to each receiver.")
@common
def notify(invocation: Invocation, test: bool) -> None:
    """Shows the receivers of the block `notify`, without their URLs.

    With --test each is sent a message, whatever it is told otherwise; exit code 1 where one did not take it.
    """
    from icekeeper.core.plain import plain
    from icekeeper.scheduling.notifier import addresses, try_all

    settings = invocation.settings()
    if test and not settings.notify:
        raise click.UsageError("nobody is told: the configuration has no receiver in notify")

    async def work() -> int:
        tried = await try_all(settings)
        if invocation.as_json:
            print_json(plain({"receivers": tried}))
        else:
            for one in tried:
                click.echo(f"{one.receiver} ({one.service}): {one.error or 'taken'}")
        return FAILED if any(one.error is not None for one in tried) else 0

    if test:
        exit_with(work)
        return
    found = [{"receiver": one.name, "on": sorted(one.on)} for one in addresses(settings).values()]
    if invocation.as_json:
        print_json({"receivers": plain(found)})
        return
    for one in found:
        click.echo(f"{one['receiver']}: {', '.join(one['on'])}")
    if not found:
        click.echo("nobody is told: the configuration has no receiver in notify")
