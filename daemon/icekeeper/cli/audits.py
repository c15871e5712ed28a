"""The commands that compare rows, and audits: audit, compare."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from icekeeper.cli.runs import EXIT_CODES, choices, ended_runs, log_beside_progress, run_each, run_slot
from icekeeper.cli.shared import CANCELLED, FAILED, Invocation, common, exit_with, slots_after, the_one_run
from icekeeper.core.enums import Stage

if TYPE_CHECKING:
    from icekeeper.core.audit.records import AuditResult
    from icekeeper.core.calendar import Window

_DAY = click.DateTime(["%Y-%m-%d"])


@click.command(short_help="Compares ClickHouse's and Iceberg's rows of a day, or of several.")
@click.option(
    "--window-hours", "--audit-window-hours", type=click.IntRange(1, 8760), metavar="H",
    help="Count the H hours before the slot's whole hour, not the UTC day before it.",
)  # fmt: skip
@click.option("--from", "first", type=_DAY, metavar="DAY", help="Audit each UTC day from this one (2026-02-10) on.")
@click.option("--to", "last", type=_DAY, metavar="DAY", help="The last day of them; default: yesterday.")
@click.option("--again", metavar="RUN", help="Count again what a run counted, at its snapshots; write no row.")
@click.option("--dry-run", is_flag=True, help="Count and print, and write no row.")
@choices
@common
def audit(
    invocation: Invocation,
    slot: str | None,
    tables: tuple[str, ...],
    window_hours: int | None,
    first: datetime | None,
    last: datetime | None,
    again: str | None,
    dry_run: bool,
) -> None:
    """Compares ClickHouse's and Iceberg's rows; with --from, of several days, a run for each.

    With --again it exits 0 where each snapshot still holds the rows that were counted, else 1.
    """
    if again is not None:
        if any(option is not None for option in (slot, window_hours, first, last)):
            raise click.UsageError("--again has the run's own slot and window: it takes --table only")
        _count_again(invocation, again, tables)
        return
    if first is None and last is None:
        run_slot(invocation, slot, (Stage.AUDIT,), tables, window_hours=window_hours, record=not dry_run)
        return
    if slot is not None or window_hours is not None:
        raise click.UsageError("--from and --to name whole days: they take neither --slot nor --window-hours")
    slots = slots_after(first, last)
    # The hours are chosen, so that no older days are audited besides.
    run_each(
        invocation,
        invocation.settings(),
        slots,
        (Stage.AUDIT,),
        tables,
        window_hours=24,
        record=not dry_run,
        several=True,
    )


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


def _count_again(invocation: Invocation, run_id: str, tables: tuple[str, ...]) -> None:
    """Counts again what a run counted: the same window at the same snapshots; records nothing."""
    from icekeeper.cli.output import console, recounts
    from icekeeper.core.audit.recount import Past
    from icekeeper.core.audit.recount import recounts as compare
    from icekeeper.core.plain import to_plain
    from icekeeper.execution.standalone import session
    from icekeeper.night.order import StopRequest
    from icekeeper.scheduling.orders import RunRequest

    settings, stop = invocation.settings(), StopRequest()
    log_beside_progress(settings, record=False)

    async def work() -> int:
        async with session(settings) as services:
            full_id = the_one_run(await services.history.find_runs(run_id), run_id)
            audits = await services.ledger.audits_of(full_id)
            then = [audit for audit in audits if not tables or audit.iceberg_table in tables]
            if not then:
                raise click.UsageError(f"the run {full_id} has no audit{' of these tables' if tables else ''}")
            enabled = {policy.name for policy in settings.policies() if policy.audit is not None}
            pinned: dict[Window, dict[str, int]] = {}
            for one in then:
                if one.snapshot_id is not None and one.iceberg_table in enabled:
                    pinned.setdefault(one.window, {})[one.iceberg_table] = one.snapshot_id
            requests = [
                RunRequest(then[0].slot, (Stage.AUDIT,), tuple(at), window=window, record=False, snapshots=at)
                for window, at in pinned.items()
            ]
            now = [done.report async for done in ended_runs(services, requests, stop)]
        found = compare(then, [audit for report in now for audit in report.audits])
        invocation.answer(to_plain(found), lambda: recounts.show_recounts(console.stdout(), found))
        if any(EXIT_CODES[report.outcome] == CANCELLED for report in now):
            return CANCELLED
        return 0 if all(one.past in (Past.SAME, Past.SOURCE_CHANGED) for one in found) else FAILED

    exit_with(work, stop)
