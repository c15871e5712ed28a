"""The command `init`: writes a first configuration. What it asks: answers.py; what it reads: reading.py."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from icekeeper.cli.shared import Invocation, common, exit_with
from icekeeper.core.errors import ConfigError, IcekeeperError
from icekeeper.settings import find_config, load
from icekeeper.settings.messages.notes import notes
from icekeeper.settings.messages.warnings import warnings

if TYPE_CHECKING:
    from icekeeper.settings.first_file import FirstFile

_FOR_ROOT = Path("/etc/icekeeper/icekeeper.yaml")
_HERE = Path("config/icekeeper.yaml")
_SECRETS = "secrets"


@click.command(short_help="Writes a first configuration, from a few answers and the catalog's tables.")
@click.option(
    "--type",
    "kind",
    metavar="KIND",
    help="The catalog: rest (also Polaris, Nessie, Lakekeeper), jdbc, hadoop, hive or glue.",
)
@click.option("--name", metavar="NAME", help="The catalog's name; in a JDBC catalog it is part of every table's key.")
@click.option("--uri", metavar="URI", help="Where the catalog is.")
@click.option("--warehouse", metavar="PLACE", help="Where its tables lie, or the warehouse's name on a REST catalog.")
@click.option(
    "--property",
    "properties",
    multiple=True,
    metavar="NAME=VALUE",
    help="A property of the catalog; a secret as NAME_file=PATH. May be given several times.",
)
@click.option(
    "--include", multiple=True, metavar="GLOB", help="Only tables like this one, e.g. 'shop.*'; several times."
)
@click.option("--exclude", multiple=True, metavar="GLOB", help="No tables like this one; several times.")
@click.option("--clickhouse", metavar="URL", help="The ClickHouse whose tables of the same names are audited against.")
@click.option("--clickhouse-database", metavar="NAME", help="Its database; default: default.")
@click.option("--clickhouse-user", metavar="NAME", help="Its user; default: default.")
@click.option("--clickhouse-password-file", type=click.Path(path_type=Path), metavar="PATH", help="Its password.")
@click.option("--postgres", metavar="DSN", help="The PostgreSQL database of the ledger.")
@click.option("--postgres-password-file", type=click.Path(path_type=Path), metavar="PATH", help="Its password.")
@click.option(
    "--state-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where icekeeper keeps its own files."
)
@click.option("--force", is_flag=True, help="Replace a configuration that is there.")
@common
def init(
    invocation: Invocation,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    state_dir: Path | None,
    force: bool,
    **options: Any,
) -> None:
    """Writes a first configuration: asks on a terminal for what no option gives, lists the tables of the catalog, and
    names them in a commented file. Changes nothing in the catalog; no secret goes into the file."""
    from icekeeper.adapters.state_dir import make_state_dir
    from icekeeper.cli.output import console
    from icekeeper.cli.output.init import first_file_document, show_first_file
    from icekeeper.cli.setup.answers import (
        Given,
        catalog_block,
        clickhouse_block,
        default_state_dir,
        options_of,
        postgres_block,
    )
    from icekeeper.cli.setup.questions import Questions
    from icekeeper.cli.setup.reading import propose, read_catalog, start
    from icekeeper.execution import logging as logs
    from icekeeper.execution.standalone import session
    from icekeeper.settings.first_file import FirstFile

    path = _destination(invocation.config)
    if path.exists() and not force:
        raise click.UsageError(f"{path} is there already: give --force to replace it, or --config another one")
    _try_place(path)
    terminal = sys.stdin.isatty() and sys.stderr.isatty()
    screen = console.stderr()
    if terminal:
        screen.print("A few questions; then the catalog is asked for its tables. Nothing in it is changed.\n")
    questions, given = Questions(terminal=terminal, secrets=path.parent / _SECRETS), Given(**options)
    file = FirstFile(
        catalog=catalog_block(questions, given),
        clickhouse=clickhouse_block(questions, given),
        postgres=postgres_block(questions, given),
        state_dir=str(state_dir.expanduser().absolute()) if state_dir is not None else default_state_dir(),
    )
    today = datetime.now(UTC).date()
    # The secrets that were typed in are not written before the catalog has taken them.
    revealed = replace(
        file,
        catalog=questions.revealed(file.catalog),
        clickhouse=None if file.clickhouse is None else questions.revealed(file.clickhouse),
        postgres=None if file.postgres is None else questions.revealed(file.postgres),
    )
    settings = load(path, text=revealed.text(today))
    logs.configure(settings.logs.level, settings.logs.format, None, console_level="error")
    make_state_dir(settings.state_dir)

    async def work() -> int:
        try:
            async with session(settings) as services:
                await start(services)
                with screen.status("asking the catalog") as status:
                    listing = await read_catalog(services, include, exclude, status.update)
                    tables = await propose(services, listing.tables, status.update)
        except IcekeeperError:
            if terminal:  # nobody likes to answer twice
                again = shlex.join(options_of(file, path.parent, questions.typed))
                click.echo(f"Nothing is written. The same answers as options:\n  icekeeper init {again}\n", err=True)
            raise
        whole = replace(file, tables=tuple(tables), left_out=listing.left_out)
        text = whole.text(today)
        try:
            questions.keep()
            found = load(path, text=text)
            write(path, text, force=force)
        except OSError:
            click.echo(text)  # better than nothing
            raise
        warned = [*warnings(found, memory=None), *notes(found)]
        following = _following(path, whole)
        document = first_file_document(path, whole, warned, following)
        invocation.answer(document, lambda: show_first_file(console.stdout(), path, whole, warned, following))
        return 0

    exit_with(work)


def _destination(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """Where the other commands look for it without being told."""
    named = given or (Path(text) if (text := environ.get("ICEKEEPER_CONFIG")) else None)
    return (named or (_FOR_ROOT if os.geteuid() == 0 else _HERE)).absolute()


def write(path: Path, text: str, *, force: bool) -> None:
    """Writes the file whole or not at all, and over another one only with `force`."""
    path = path.resolve()  # a link to it stays a link
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("x", encoding="utf-8") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        if force and path.exists():
            draft.chmod(path.stat().st_mode & 0o777)
        if force:
            draft.replace(path)
        else:
            _publish(draft, path)
    except FileExistsError as exc:
        raise click.UsageError(f"{path} has been written meanwhile: give --force to replace it") from exc
    finally:
        draft.unlink(missing_ok=True)


def _publish(draft: Path, path: Path) -> None:
    """Gives the draft its name unless there is a file of that name: FileExistsError."""
    try:
        os.link(draft, path)
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):  # a file system without links
            raise
        path.touch(exist_ok=False)
        draft.replace(path)


def _try_place(path: Path) -> None:
    """OSError where the file can't be written, before anything is asked."""
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=path.parent):
        pass


def _following(path: Path, file: FirstFile) -> list[str]:
    """The commands that come next."""
    found = None
    with suppress(ConfigError):
        found = find_config(None)
    config = "" if found is not None and found.absolute() == path else f" --config {shlex.quote(str(path))}"
    steps = ["config check", *(["migrate"] if file.postgres is not None else []), "doctor", "plan", "serve"]
    return [f"icekeeper {step}{config}" for step in steps]
