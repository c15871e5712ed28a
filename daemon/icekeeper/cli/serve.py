"""The command `serve`: the daemon."""

from __future__ import annotations

import asyncio
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
