"""The command `repair`: shows how missing rows would come back to Iceberg, and has them brought back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import click

from icekeeper.cli.runs import log_beside_progress, planned, show_runs
from icekeeper.cli.shared import FAILED, PARTIAL, Invocation, common, exit_with, parse_slot
from icekeeper.core.audit.records import Finding, FindingKind
from icekeeper.core.audit.repair import ONLY_OURS, Refusal, Way
from icekeeper.core.calendar import window_of
from icekeeper.core.enums import Stage
from icekeeper.core.errors import PermanentError
from icekeeper.core.reasons import Reason
from icekeeper.settings import Settings

if TYPE_CHECKING:
    from icekeeper.adapters.ledger.findings import AuditFindings
    from icekeeper.core.audit.repair import FindingRepair
    from icekeeper.core.audit.source import Source
    from icekeeper.core.tables.plan import Plan
    from icekeeper.execution.wiring import Services
    from icekeeper.night.order import StopRequest


@click.command(short_help="Brings rows that Iceberg lacks back from ClickHouse.")
@click.option("--finding", "ids", multiple=True, metavar="ID", help="Only this finding; may be given several times.")
@click.option("--slot", metavar="WHEN", help="Only what the audit of this slot's day found: 2026-02-18, or an instant.")
@click.option("--table", "tables", multiple=True, metavar="NAME", help="Only this table; may be given several times.")
@click.option(
    "--by", type=click.Choice([way.value for way in Way]), default=Way.ICEKEEPER.value, show_default=True,
    help="Who brings the rows back; the offload is asked to, in its table offload_repair_requests.",
)  # fmt: skip
@click.option(
    "--withdraw", "withdrawn", multiple=True, metavar="ID",
    help="Take back what the offload was asked for and has not answered; may be given several times.",
)  # fmt: skip
@click.option("--yes", is_flag=True, help="Do it. Without it nothing is changed.")
@common
def repair(
    invocation: Invocation,
    ids: tuple[str, ...],
    slot: str | None,
    tables: tuple[str, ...],
    by: str,
    withdrawn: tuple[str, ...],
    yes: bool,
) -> None:
    """Shows how the rows that audits found missing would be brought back from ClickHouse; with --yes it does so.

    By their keys (audit.key) only rows that Iceberg lacks are added, in one commit for each finding, and their day is
    audited again. Without --finding: all missing rows but those of acknowledged days.
    """
    from icekeeper.night.order import StopRequest

    settings, stop = invocation.settings(), StopRequest()
    if slot is not None:
        parse_slot(settings, slot)
    log_beside_progress(settings, record=yes)
    if withdrawn:
        if ids or slot or tables or not yes:
            raise click.UsageError("--withdraw takes --yes, and neither --finding nor --slot nor --table")
        exit_with(partial(_withdraw, invocation, settings, withdrawn))
    exit_with(partial(_work, invocation, settings, ids, slot, tables, Way(by), yes, stop), stop)


async def _work(
    invocation: Invocation,
    settings: Settings,
    ids: tuple[str, ...],
    slot: str | None,
    tables: tuple[str, ...],
    way: Way,
    yes: bool,
    stop: StopRequest,
) -> int:
    from icekeeper.adapters.users import operator_name
    from icekeeper.cli.output import console, repairs
    from icekeeper.core.plain import plan_document
    from icekeeper.execution.standalone import session
    from icekeeper.scheduling.orders import RunRequest
    from icekeeper.scheduling.repairs.selection import repair_requests

    # Names that are not configured are an error before anything is asked.
    request = RunRequest(datetime.now(UTC), (Stage.REPAIR,), tables, actor=operator_name())
    order = request.order(settings)
    names = [policy.name for policy in order.tables]
    async with session(settings) as services:
        chosen = await _chosen(services, names, ids, slot)
        requests = repair_requests(chosen, request)
        if yes and requests and way is Way.ICEKEEPER:
            requests = [replace(each, stages=(Stage.REPAIR, Stage.AUDIT)) for each in requests]
            code = await show_runs(invocation, services, requests, stop, several=True)
            return FAILED if code in (0, PARTIAL) and await _left(services, chosen) else code
        made = [(each, *await planned(services, each)) for each in requests]
        plans = [plan for _, plans, _ in made for plan in plans]
        answers = await ask_offload(services, plans, observe=order.policy.observe) if yes else None
    documents = [plan_document(each.slot, plans, errors) for each, plans, errors in made]
    asked = None
    if answers is not None:
        asked = sum(refusal is None for refusal in answers.values())
        for document in documents:
            named = [repair["finding_id"] for plan in document["plans"] for repair in plan["repairs"]]
            document["offload"] = {each: answers[each] or "asked" for each in named}
    invocation.answer(documents, lambda: repairs.show_repairs(console.stdout(), [each[1:] for each in made], asked))
    return FAILED if any(errors for _, _, errors in made) or (answers and not asked) else 0


async def _withdraw(invocation: Invocation, settings: Settings, ids: Sequence[str]) -> int:
    from icekeeper.execution.standalone import session

    async with session(settings) as services:
        answers = {each: await services.repairs.withdraw(each) for each in ids}
    texts = {True: "withdrawn", False: "the offload has answered it, or was not asked"}
    invocation.answer(answers, lambda: click.echo("\n".join(f"{each}: {texts[answers[each]]}" for each in ids)))
    return 0 if all(answers.values()) else FAILED


async def _left(services: Services, chosen: Sequence[AuditFindings]) -> int:
    """How many of the findings are not repaired, each of which it names."""
    left = 0
    for audit in chosen:
        for finding in audit.findings:
            if await services.repairs.refusal(audit.table, finding) is not Refusal.REPAIRED:
                click.echo(f"icekeeper: finding {finding.id} of {audit.table} is not repaired", err=True)
                left += 1
    return left


async def ask_offload(services: Services, plans: Sequence[Plan], *, observe: bool) -> dict[str, str | None]:
    """Claims findings for the offload and asks it for their rows; by their ids why it is not asked (None: it is).

    What it was asked for already is asked again: a request may have been lost after its claim.
    """
    sources = {policy.name: policy.source for policy in services.settings.policies()}
    answers: dict[str, str | None] = {}
    for plan in plans:
        source = sources.get(plan.table)
        for repair in plan.repairs:
            refusal: str | None = repair.refusal
            if observe:
                refusal = Reason.OBSERVING
            elif source is not None and repair.refusal in (None, Refusal.CLAIMED, *ONLY_OURS):
                refusal = await _asked(services, plan.table, source, repair)
            answers[repair.finding_id] = refusal
            if refusal is not None:
                click.echo(f"icekeeper: the offload is not asked for finding {repair.finding_id}: {refusal}", err=True)
    return answers


async def _asked(services: Services, table: str, source: Source, repair: FindingRepair) -> Refusal | None:
    finding = Finding(FindingKind.MISSING, repair.start, repair.end, repair.rows, id=repair.finding_id)
    refusal = await services.repairs.claim(table, finding, None, Way.OFFLOAD)
    if refusal is not None:
        return refusal
    try:
        await services.repair_requests.request(table, source, repair)
    except PermanentError:
        # An earlier request may be there; after any other error this one may be.
        if repair.refusal is not Refusal.CLAIMED:
            await services.repairs.release(finding.id, None)
        raise
    return None


async def _chosen(
    services: Services, tables: Sequence[str], ids: tuple[str, ...], slot: str | None
) -> list[AuditFindings]:
    """The audits with findings to repair, each with these alone. UsageError for an id that none of them has."""
    from icekeeper.scheduling.repairs.selection import repairable

    try:
        found = await repairable(services.findings, tables, datetime.now(UTC), ids)
    except ValueError as exc:
        text = f"no newest audit of a window has a finding with the id {exc}"
        raise click.UsageError(f"{text}: `icekeeper repair` lists those that lack rows") from exc
    if slot is None:
        return found
    window = window_of(parse_slot(services.settings, slot))
    return [audit for audit in found if audit.window == window]
