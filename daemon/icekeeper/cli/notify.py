"""The command `notify`: the configured notification targets, and a test message to each."""

from __future__ import annotations

import click

from icekeeper.cli.shared import FAILED, Invocation, common, exit_with

_NO_TARGET = "no notifications are sent: the configuration has no target in notify"


@click.command(short_help="Shows the notification targets; --test sends each a message.")
@click.option("--test", is_flag=True, help="Send a test message to each target.")
@common
def notify(invocation: Invocation, test: bool) -> None:
    """Shows the targets of the block `notify`, without their URLs.

    With --test each gets a message, whatever its `on` says; exit code 1 if one did not accept it.
    """
    from icekeeper.scheduling.targets import configured_targets, send_test

    settings = invocation.settings()
    if test and not settings.notify:
        raise click.UsageError(_NO_TARGET)

    async def work() -> int:
        results = await send_test(settings)
        sent = [{"receiver": one.target, "service": one.service, "error": one.error} for one in results]
        lines = [f"{one.target} ({one.service}): {one.error or 'accepted'}" for one in results]
        invocation.answer({"receivers": sent}, lambda: click.echo("\n".join(lines)))
        return FAILED if any(one.error is not None for one in results) else 0

    if test:
        exit_with(work)
        return
    found = [{"receiver": one.name, "on": sorted(one.on)} for one in configured_targets(settings).values()]
    lines = [f"{one['receiver']}: {', '.join(one['on'])}" for one in found] or [_NO_TARGET]
    invocation.answer({"receivers": found}, lambda: click.echo("\n".join(lines)))
