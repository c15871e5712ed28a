"""The command `doctor`."""

from __future__ import annotations

import click

from icekeeper.cli.shared import FAILED, Invocation, common, exit_with


@click.command(short_help="Checks every system that a night needs, and advises.")
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table; may be given several times.")
@common
def doctor(invocation: Invocation, tables: tuple[str, ...]) -> None:
    """Checks every outside system and shows what works, what doesn't, and what to do. Leaves nothing behind."""
    from icekeeper.adapters.host import wall_clock
    from icekeeper.cli.output import console
    from icekeeper.cli.output.doctor import checks_document, show_checks
    from icekeeper.core.enums import Trigger
    from icekeeper.doctor import examine, no_errors
    from icekeeper.execution import logging as logs
    from icekeeper.execution.execute import make_order
    from icekeeper.execution.standalone import session

    settings = invocation.settings()
    policies = make_order(settings, wall_clock(), Trigger.MANUAL, tables=tables).tables
    # The errors of a system are in its checks.
    logs.configure(settings.logs.level, settings.logs.format, None, console_level="error")

    async def work() -> int:
        screen = console.stderr()
        async with session(settings) as services:
            with screen.status("checking every system; Spark takes some seconds to start"):
                checks = await examine(services, policies)
        invocation.answer(checks_document(checks), lambda: show_checks(console.stdout(), checks))
        return 0 if no_errors(checks) else FAILED

    exit_with(work)
