"""The commands about the ledger: history, migrate."""

from __future__ import annotations

import click

from daemon.cli.shared import Invocation, common, exit_with, print_json


@click.command()
@click.argument("run_id", required=False)
@click.option("--limit", type=click.IntRange(min=1, max=1000), default=20, show_default=True, help="How many runs.")
@common
def history(invocation: Invocation, run_id: str | None, limit: int) -> None:
    """Shows the newest runs, or one run with its tasks, audits and logs. The first characters of an id will do."""
    from daemon.adapters.findings import PostgresFindings
    from daemon.service import console, listings
    from daemon.service.reports import plain
    from daemon.service.session import session

    async def work() -> int:
        async with session(invocation.settings()) as services:
            if run_id is None:
                runs = await services.ledger.runs(limit)
                if invocation.as_json:
                    print_json(plain(runs))
                else:
                    listings.show_runs(console.stdout(), runs)
                return 0
            found = await services.ledger.find_runs(run_id)
            if len(found) != 1:
                what = "no run has" if not found else f"{len(found)} runs have"
                raise click.UsageError(f"{what} an id that begins with {run_id}")
            one = await services.ledger.run(found[0]["run_id"])
            assert one is not None  # found a moment ago, and the ledger forgets nothing
            acks = await PostgresFindings(services.postgres).acks_of_run(found[0]["run_id"])
            one = {**one, "audits": [{**audit, "ack": acks.get(audit["iceberg_table"])} for audit in one["audits"]]}
            if invocation.as_json:
                print_json(plain(one))
            else:
                listings.show_run(console.stdout(), one)
            return 0

    exit_with(work)


@click.command()
@common
def migrate(invocation: Invocation) -> None:
    """Creates or updates the tables in PostgreSQL; an audit log that is there is adopted."""
    from daemon.adapters.sql.migrations import migrate as migrate_ledger

    settings = invocation.settings()

    async def work() -> int:
        applied = await migrate_ledger(settings.postgres.dsn, settings.postgres.secret())
        if invocation.as_json:
            print_json({"applied": applied})
        elif applied:
            click.echo("\n".join(f"applied {name}" for name in applied))
        else:
            click.echo("nothing to do: the tables are up to date")
        return 0

    exit_with(work)
