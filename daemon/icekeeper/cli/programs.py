"""The commands that stay: serve, and the demo."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from icekeeper.settings import find_config


@click.command(short_help="Runs the daemon: a night at every slot.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")
def serve(config: Path | None) -> None:
    """Runs the daemon: a night at every slot of the schedule, until SIGTERM."""
    from icekeeper.execution import logging as logs
    from icekeeper.service.supervisor import Supervisor

    path = find_config(config)
    logs.configure("info", "auto", None)
    asyncio.run(Supervisor(path).run())


@click.command(short_help="Runs a night on a lakehouse of embedded parts.")
@click.option("--keep", is_flag=True, help="Leave the lakehouse running at the end, and say how to look at it.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where its files go; default: a new temporary directory.",
)
def demo(keep: bool, root: Path | None) -> None:
    """Runs a whole night on a lakehouse of embedded parts, made and removed here."""
    try:
        from icekeeper.demo import run_demo
    except ImportError as exc:
        raise click.ClickException(f"the demo needs the extra: pip install 'icekeeper[sandbox]' ({exc})") from exc
    sys.exit(run_demo(keep=keep, root=root))
