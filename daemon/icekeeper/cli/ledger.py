"""The commands about the ledger: history, spool, migrate, ledger."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import aclosing
from functools import partial
from pathlib import Path

import click

from icekeeper.cli.shared import Invocation, common, exit_with, the_one_run
from icekeeper.core.errors import PermanentError
from icekeeper.core.plain import to_plain
from icekeeper.settings import Settings


@click.command(short_help="Shows the newest runs, or one with all it did.")
@click.argument("run_id", required=False)
@click.option("--limit", type=click.IntRange(min=1, max=1000), default=20, show_default=True, help="How many runs.")
@click.option("--installation", metavar="NAME|all", help="Of another installation in the ledger, or of all.")
@common
def history(invocation: Invocation, run_id: str | None, limit: int, installation: str | None) -> None:
    """Shows the newest runs, or one run with its tasks, audits and logs. The first characters of an id will do."""
    from icekeeper.adapters.ledger.history import RunFilter
    from icekeeper.adapters.ledger.rows import marked_run
    from icekeeper.cli.output import console, listings
    from icekeeper.execution.standalone import session

    async def work() -> int:
        async with session(invocation.settings()) as services:
            if run_id is None:
                runs = await services.history.runs(limit, RunFilter(installation=installation))
                invocation.answer(to_plain(runs), lambda: listings.show_runs(console.stdout(), runs))
                return 0
            full_id = the_one_run(await services.history.find_runs(run_id, installation), run_id)
            row = await services.history.run(full_id, lines=True)
            assert row is not None  # found a moment ago, and the ledger forgets nothing
            acks = await services.findings.acks_of_run(full_id)
            certified = await services.certificates.of_run(full_id)
            one = marked_run(row, acks, certified)
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
    """Creates or updates the tables in PostgreSQL; an audit log that is there is adopted. An embedded ledger needs no
    `migrate`: its tables are brought up to date whenever it starts."""
    from icekeeper.adapters.ledger.sql.migrations import migrate as migrate_ledger
    from icekeeper.execution.standalone import session
    from icekeeper.execution.wiring import embedded_server

    settings = invocation.settings()
    if role is not None:
        exit_with(partial(_grants, invocation, settings, role))
        return

    async def work() -> int:
        if settings.postgres is None:
            async with aclosing(embedded_server(settings.state_dir)) as server:
                await server.ensure()
                applied = server.applied
        else:
            applied = await migrate_ledger(settings.postgres.dsn, settings.postgres.secret())
        async with session(settings) as services:
            await services.installation.settled()
        lines = [f"applied {name}" for name in applied] or ["nothing to do: the tables are up to date"]
        invocation.answer({"applied": applied}, lambda: click.echo("\n".join(lines)))
        return 0

    exit_with(work)


async def _grants(invocation: Invocation, settings: Settings, role: str) -> int:
    from icekeeper.adapters.ledger.sql.grants import grants
    from icekeeper.execution.standalone import session

    if settings.postgres is None:
        raise click.UsageError("the embedded ledger has one role, which owns its tables: there is nothing to grant")
    if not role.strip():
        raise click.BadParameter("it is the name of a role in PostgreSQL", param_hint="--grants")
    async with session(settings) as services:
        statements = await grants(services.postgres, role)
    invocation.answer(statements, lambda: click.echo("\n".join(f"{statement};" for statement in statements)))
    return 0


@click.group(short_help="Names this installation in the ledger; opens or moves the embedded one.")
def ledger() -> None:
    """About the ledger: whose its rows are, and the one that icekeeper keeps in state_dir without `postgres`."""


@ledger.command(
    "exec",
    context_settings={"allow_interspersed_args": False},
    short_help="Runs psql, pg_dump or another program on it.",
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")
@click.argument("command", nargs=-1, required=True)
def ledger_exec(config: Path | None, command: tuple[str, ...]) -> None:
    """Runs a program of PostgreSQL on the embedded ledger: `exec psql`, `exec pg_dump -Fc -f ledger.dump`."""
    from icekeeper.adapters.postgres.embedded.server import environment
    from icekeeper.execution.wiring import embedded_server

    settings = Invocation(config, as_json=False).settings()
    if settings.postgres is not None:
        raise click.UsageError("postgres.dsn names a server: use the programs that came with it")

    async def work() -> int:
        # Without a connection of our own: a dump that is loaded drops the database.
        async with aclosing(embedded_server(settings.state_dir)) as server:
            await server.ensure()
            # A Ctrl-C is for the program, which gets it, too.
            asyncio.get_running_loop().add_signal_handler(signal.SIGINT, lambda: None)
            process = await asyncio.create_subprocess_exec(*command, env=environment(settings.state_dir, os.environ))
            return await process.wait()

    exit_with(work)


@ledger.command("move", short_help="Brings its history to the PostgreSQL server of the settings.")
@click.option("--dry-run", is_flag=True, help="Change nothing; show what would be moved.")
@click.option("--as", "name", metavar="NAME", help="Its installation's name there, where another one has the same.")
@common
def ledger_move(invocation: Invocation, dry_run: bool, name: str | None) -> None:
    """Brings the history of the embedded ledger to the server that `postgres` names by now, and its tables up to date.

    All or nothing; what the server has already is left as it is, so that it can be repeated. Where the settings name
    the installation, write the NAME of --as there first.
    """
    from icekeeper.adapters.ledger.move import move
    from icekeeper.adapters.ledger.sql.migrations import migrate as migrate_ledger
    from icekeeper.adapters.ledger.sql.migrations import pending
    from icekeeper.adapters.postgres.embedded.server import DIRECTORY
    from icekeeper.cli.output import console, listings
    from icekeeper.execution.wiring import embedded_ledger, installation_of, ledger_of

    if name is not None:
        _require_valid(name, "--as")
    settings = invocation.settings()
    server, home = settings.postgres, settings.state_dir / DIRECTORY
    if server is None:
        raise click.UsageError("the settings name no server to move it to: give postgres.dsn")
    if not home.is_dir():
        raise click.UsageError(f"{settings.state_dir} has no embedded ledger")

    async def work() -> int:
        source, target = embedded_ledger(settings.state_dir), ledger_of(settings)
        try:
            await source.ping()
            ours = installation_of(settings, source)
            if name is not None:
                ours.require_name(name)
            renamed = None if name is None else (await ours.id_by_any_name(), name)
            if not dry_run:
                await migrate_ledger(server.dsn, server.secret())
            elif waiting := await pending(server.dsn, server.secret()):
                raise PermanentError(f"{target.target} lacks tables ({', '.join(waiting)}): run `icekeeper migrate`")
            moved = await move(source, target, dry_run=dry_run, renamed=renamed)
        finally:
            await source.close()
            await target.close()
        document = {"from": str(home), "to": str(target.target), "dry_run": dry_run, "tables": to_plain(moved)}
        invocation.answer(document, lambda: listings.show_move(console.stdout(), home, target.target, moved, dry_run))
        return 0

    exit_with(work)


@ledger.command(short_help="Gives this installation another name in the ledger.")
@click.argument("name")
@common
def rename(invocation: Invocation, name: str) -> None:
    """Gives this installation another name in the ledger: its rows stay its own.

    Where the settings name it, write the new name there first.
    """
    from icekeeper.execution.standalone import session

    _require_valid(name, "NAME")

    async def work() -> int:
        async with session(invocation.settings()) as services:
            before = await services.installation.rename(name)
        text = f"the installation {before} is {name} from now on"
        invocation.answer({"installation": name, "before": before}, lambda: click.echo(text))
        return 0

    exit_with(work)


def _require_valid(name: str, parameter: str) -> None:
    """click.BadParameter where no installation may be called so."""
    from pydantic import TypeAdapter, ValidationError

    from icekeeper.settings.values.units import InstallationName

    try:
        TypeAdapter(InstallationName).validate_python(name)
    except ValidationError as exc:
        raise click.BadParameter(exc.errors()[0]["msg"], param_hint=parameter) from exc
