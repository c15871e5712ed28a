"""The commands about the configuration: config check, show, schema."""

from __future__ import annotations

import sys

import click
import yaml

from daemon.cli.shared import USAGE, Invocation, common, print_json
from daemon.core.errors import ConfigError
from daemon.settings import find_config, schema, shown


@click.group()
def config() -> None:
    """Checks and shows the configuration."""


@config.command("check")
@common
def config_check(invocation: Invocation) -> None:
    """Says whether the configuration is good, and everything that is wrong with it."""
    try:
        settings = invocation.settings()
    except ConfigError as exc:
        if not invocation.as_json:
            raise
        print_json({"ok": False, "problems": exc.problems})
        sys.exit(USAGE)
    tables = len(settings.policies())
    if invocation.as_json:
        print_json({"ok": True, "tables": tables, "settings_hash": settings.digest()})
    else:
        click.echo(
            f"{find_config(invocation.config)} is good: {tables} tables, next night by {settings.schedule.cron!r}"
        )


@config.command("show")
@common
def config_show(invocation: Invocation) -> None:
    """Shows the configuration in force, defaults filled in and secrets hidden."""
    document = shown(invocation.settings())
    if invocation.as_json:
        print_json(document)
    else:
        click.echo(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), nl=False)


@config.command("schema")
def config_schema() -> None:
    """Prints the JSON Schema of the configuration, for editors."""
    print_json(schema())
