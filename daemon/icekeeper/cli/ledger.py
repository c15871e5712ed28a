"""The commands about the ledger: history, migrate."""

from __future__ import annotations

from functools import partial

import click

from icekeeper.cli.shared import Invocation, common, exit_with, the_one_run
from icekeeper.core.plain import to_plain
from icekeeper.settings import Settings


@click.command(short_help="Shows the newest runs, or one with all it did.")
@click.argument("run_id", required=False)
@click.option("--limit", type=click.IntRange(min=1, max=1000), default=20, show_default=True, help="How many runs.")
@common
def history(invocation: Invocation, run_id: str | None, limit: int) -> None:
    """Shows the newest runs, or one run with its tasks, audits and logs. The first characters of an id will do."""
    from icekeeper.cli.output import console, listings
    from icekeeper.execution.standalone import session

    async def work() -> int:
        async with session(invocation.settings()) as services:
            if run_id is None:
                runs = await services.history.runs(limit)
                invocation.answer(to_plain(runs), lambda: listings.show_runs(console.stdout(), runs))
                return 0
            full_id = the_one_run(await services.history.find_runs(run_id), run_id)
            row = await services.history.run(full_id, lines=True)
            assert row is not None  # found a moment ago, and the ledger forgets nothing
            acks = await services.findings.acks_of_run(full_id)
            one = {**row, "audits": [{**audit, "ack": acks.get(audit["iceberg_table"])} for audit in row["audits"]]}
            invocation.answer(to_plain(one), lambda: listings.show_run(console.stdout(), one))
            return 0

    exit_with(work)


@click.command(short_help="Shows what PostgreSQL does not have yet.")
@click.option("--retry", is_flag=True, help="Try the records again that PostgreSQL refused.")
@common
def spool(invocation: Invocation, retry: bool) -> None:
    """Shows which records of this host wait for PostgreSQL, and which it refused and why."""
    from icekeeper.adapters.spool.spool import Spool
    from icekeeper.cli.output import console, listings

    state_dir = invocation.settings().state_dir
    if not (state_dir / "spool.db").exists():
        raise click.UsageError(f"{state_dir} has no spool: nothing was ever run there")

    async def work() -> int:
        opened = await Spool.open(state_dir)
        try:
            retried = await opened.outbox.retry_quarantined() if retry else 0
            waiting, refused = await opened.outbox.waiting(), await opened.outbox.quarantined()
        finally:
            await opened.close()
        damaged = [str(path) for path in opened.corrupt_files()]
        numbers = {"records": waiting.records, "set_aside": waiting.quarantined, "oldest": waiting.oldest}
        invocation.answer(
            to_plain({"waiting": numbers, "refused": refused, "retried": retried, "damaged": damaged}),
            lambda: listings.show_spool(console.stdout(), waiting, refused, retried, damaged),
        )
        return 0

    exit_with(work)


@click.command(short_help="Creates or updates the tables in PostgreSQL.")
@click.option(
    "--grants",
    "role",
    metavar="ROLE",
    help="Change nothing; print the GRANTs that let ROLE keep the ledger, for the tables' owner to run.",
)
@common
def migrate(invocation: Invocation, role: str | None) -> None:
    """Creates or updates the tables in PostgreSQL; an audit log that is there is adopted."""
    from icekeeper.adapters.ledger.sql.migrations import migrate as migrate_ledger

    settings = invocation.settings()
    if role is not None:
        exit_with(partial(_grants, invocation, settings, role))
        return

    async def work() -> int:
        applied = await migrate_ledger(settings.postgres.dsn, settings.postgres.secret())
        lines = [f"applied {name}" for name in applied] or ["nothing to do: the tables are up to date"]
        invocation.answer({"applied": applied}, lambda: click.echo("\n".join(lines)))
        return 0

    exit_with(work)


async def _grants(invocation: Invocation, settings: Settings, role: str) -> int:
    from icekeeper.adapters.ledger.sql.grants import grants
    from icekeeper.execution.standalone import session

    if not role.strip():
        raise click.BadParameter("it is the name of a role in PostgreSQL", param_hint="--grants")
    async with session(settings) as services:
        statements = await grants(services.postgres, role)
    invocation.answer(statements, lambda: click.echo("\n".join(f"{statement};" for statement in statements)))
    return 0
