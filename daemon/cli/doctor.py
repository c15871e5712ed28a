"""The command `doctor`."""

from __future__ import annotations

import click

from daemon.cli.shared import FAILED, Invocation, common, exit_with, print_json


@click.command()
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table; may be given several times.")
@common
def doctor(invocation: Invocation, tables: tuple[str, ...]) -> None:
    """Asks every outside part and says what works, what doesn't, and what to do. Changes nothing."""
    from daemon.core.model import Trigger
    from daemon.service import console, logs
    from daemon.service.doctor import examine, findings_document, show_findings, sound
    from daemon.service.parts import wall_clock
    from daemon.service.runs import make_order
    from daemon.service.session import session

    settings = invocation.settings()
    policies = make_order(settings, wall_clock(), Trigger.MANUAL, tables=tables).tables
    # What a part has to say is in its findings.
    logs.configure(settings.logs.level, settings.logs.format, None, console_level="error")

    async def work() -> int:
        screen = console.stderr()
        async with session(settings) as services:
            with screen.status("asking every part; Spark takes some seconds to start"):
                findings = await examine(services, policies)
        if invocation.as_json:
            print_json(findings_document(findings))
        else:
            show_findings(console.stdout(), findings)
        return 0 if sound(findings) else FAILED

    exit_with(work)
