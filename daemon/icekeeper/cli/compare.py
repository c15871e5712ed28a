"""The command `compare`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

import click

from icekeeper.cli.shared import FAILED, Invocation, common, exit_with

if TYPE_CHECKING:
    from icekeeper.core.audit.records import AuditResult
    from icekeeper.core.calendar import Window


@click.command(short_help="Explains how the workflow server's audits differ from icekeeper's.")
@click.option("--days", type=click.IntRange(1, 3650), default=7, show_default=True, help="Windows of the last N days.")
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table; may be given several times.")
@common
def compare(invocation: Invocation, days: int, tables: tuple[str, ...]) -> None:
    """Puts each audit row of the workflow server's flow beside icekeeper's, and explains each difference.

    Windows that icekeeper has not counted are counted now; nothing is written. Exits 0 where every difference is
    explained, 1 where one is not.
    """
    from icekeeper.adapters.host import wall_clock
    from icekeeper.cli.output import console
    from icekeeper.cli.output.compare import comparisons_document, show_comparisons
    from icekeeper.control.client import DaemonClient
    from icekeeper.core.enums import RunOutcome, Stage, Trigger
    from icekeeper.execution import logging as logs
    from icekeeper.execution.comparison import compare_audits
    from icekeeper.execution.execute import make_order
    from icekeeper.execution.standalone import run_standalone, session
    from icekeeper.scheduling.orders import RunRequest

    settings = invocation.settings()
    now = wall_clock()
    policies = make_order(settings, now, Trigger.MANUAL, tables=tables).tables
    logs.configure(settings.logs.level, settings.logs.format, None, console_level="error")

    async def work() -> int:
        daemon = await DaemonClient.find(settings.state_dir)
        async with session(settings) as services:

            async def recount(window: Window, names: tuple[str, ...]) -> Sequence[AuditResult]:
                request = RunRequest(window.end, (Stage.AUDIT,), names, window=window, record=False)
                order = request.order(settings)
                if daemon is not None:
                    done = await daemon.run(request, lambda event: None, order.stop)
                else:
                    done = await run_standalone(services, order, lambda event: None, record=False)
                if done.report.outcome in (RunOutcome.CANCELLED, RunOutcome.INTERRUPTED):
                    raise asyncio.CancelledError
                return done.report.audits

            with console.stderr().status("counting the flow's windows"):
                found = await compare_audits(services, policies, now - timedelta(days=days), recount)
        document = comparisons_document(found, days)
        invocation.answer(document, lambda: show_comparisons(console.stdout(), found, days))
        return 0 if found.explained else FAILED

    exit_with(work)
