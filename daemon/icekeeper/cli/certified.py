"""The command `certified`: whether days of tables are certified, and why not."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import partial
from uuid import UUID

import click

from icekeeper.cli.shared import FAILED, Invocation, common, exit_with
from icekeeper.core.audit.certificates import CertifiedBy
from icekeeper.settings import Settings

_BY = click.Choice([by.value for by in CertifiedBy])


@click.command(short_help="Says which days are certified, or whether one is.")
@click.argument("table", required=False)
@click.argument("day", required=False, type=click.DateTime(["%Y-%m-%d"]))
@click.option("--by", type=_BY, default="counts", show_default=True, help="keys: a certificate by counts won't do.")
@click.option(
    "--run",
    "run_id",
    type=click.UUID,
    metavar="RUN_ID",
    help="With DAY: its newest audit has to be that run's, and to certify the day by itself.",
)
@click.option("--days", type=click.IntRange(1, 400), default=30, show_default=True, help="How many days are listed.")
@common
def certified(
    invocation: Invocation, table: str | None, day: datetime | None, by: str, run_id: UUID | None, days: int
) -> None:
    """Says whether DAY (a UTC day, like 2026-02-17) of TABLE is certified: by what and since when, or why not.

    Exits 0 where it is, 1 where it is not. Without DAY it lists the last days, of TABLE or of all tables, and exits 0.
    """
    settings = invocation.settings()
    known = [one.name for one in settings.tables]
    if table is not None and table not in known:
        raise click.BadParameter(f"{table} is not configured; there are {', '.join(known)}", param_hint="TABLE")
    if table is not None and day is not None:
        exit_with(partial(_one, invocation, settings, table, day.date(), CertifiedBy(by), run_id))
        return
    if run_id is not None:
        raise click.UsageError("--run is about one day: icekeeper certified TABLE DAY --run RUN_ID")
    last = datetime.now(UTC).date()
    tables = known if table is None else [table]
    exit_with(partial(_list, invocation, settings, tables, last - timedelta(days=days), last, CertifiedBy(by)))


async def _one(
    invocation: Invocation, settings: Settings, table: str, day: date, by: CertifiedBy, run_id: UUID | None
) -> int:
    from icekeeper.cli.output.certificates import in_words
    from icekeeper.execution.standalone import session
    from icekeeper.status.audit_schemas import CertifiedDay

    async with session(settings) as services:
        found = (await services.certificates.day(table, day)).required(by, run_id)
    invocation.answer(CertifiedDay.model_validate(found).model_dump(mode="json"), lambda: click.echo(in_words(found)))
    return 0 if found.certified else FAILED


async def _list(
    invocation: Invocation, settings: Settings, tables: list[str], first: date, last: date, by: CertifiedBy
) -> int:
    from icekeeper.cli.output import certificates, console
    from icekeeper.core.audit.evidence import with_skipped
    from icekeeper.execution.standalone import session
    from icekeeper.status.audit_schemas import CertifiedDay

    async with session(settings) as services:
        days = await services.certificates.days(tables, first, last)
    # Today is audited tomorrow.
    found = tuple(day.required(by) for day in with_skipped(days, last - timedelta(days=1)))
    documents = [CertifiedDay.model_validate(day).model_dump(mode="json") for day in found]
    invocation.answer({"items": documents}, lambda: certificates.show_days(console.stdout(), found))
    return 0
