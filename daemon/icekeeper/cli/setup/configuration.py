"""The commands about the configuration: config check, show, schema."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import click
import yaml

from icekeeper.cli.shared import USAGE, Invocation, common, print_json
from icekeeper.core.errors import ConfigError
from icekeeper.settings import find_config, load, schema
from icekeeper.settings.export import redacted
from icekeeper.settings.messages.notes import notes
from icekeeper.settings.messages.warnings import warnings


@click.group()
def config() -> None:
    """Checks and shows the configuration."""


@config.command("check")
@click.option(
    "--no-secrets", is_flag=True, help="Don't read the secret files: for a machine where they are not, like CI's."
)
@common
def config_check(invocation: Invocation, no_secrets: bool) -> None:
    """Says whether the configuration is good, everything that is wrong with it, and what may not be meant."""
    from icekeeper.adapters.host import memory_room
    from icekeeper.adapters.postgres.embedded.server import refuse_place

    path = find_config(invocation.config)
    try:
        settings = load(path, secrets=not no_secrets)
        if settings.postgres is None and not no_secrets:  # the machine that will run it
            refuse_place(settings.state_dir)
    except ConfigError as exc:
        if not invocation.as_json:
            raise
        print_json({"ok": False, "problems": exc.problems})
        sys.exit(USAGE)
    # A machine without the secrets is not the one that will need the memory.
    warned = warnings(settings, memory=None if no_secrets else memory_room())
    tables = len(settings.policies())
    if invocation.as_json:
        # Without the secrets these are other settings than the daemon's.
        digest = None if no_secrets else settings.digest()
        print_json(
            {"ok": True, "tables": tables, "settings_hash": digest, "warnings": warned, "notes": notes(settings)}
        )
        return
    for warning in warned:
        click.echo(f"warning: {warning}", err=True)
    schedule = settings.schedule
    slot = schedule.calendar().next_slot(datetime.now(UTC))
    night = f"next night {slot:%Y-%m-%dT%H:%MZ}" if slot is not None else "no further night"
    number = "1 table" if tables == 1 else f"{tables} tables"
    click.echo(f"{path} is good: {number}, {night} ({schedule.cron} in {schedule.timezone})")
    for note in notes(settings):
        click.echo(f"note: {note}", err=True)


@config.command("show")
@common
def config_show(invocation: Invocation) -> None:
    """Shows the configuration in force, defaults filled in and secrets hidden."""
    document = redacted(invocation.settings())
    invocation.answer(
        document, lambda: click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)
    )


@config.command("schema")
def config_schema() -> None:
    """Prints the JSON Schema of the configuration, for editors."""
    print_json(schema())
