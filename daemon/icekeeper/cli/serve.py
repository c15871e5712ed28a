"""The command `serve`: the daemon."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import click

from icekeeper.cli.shared import CANNOT_START, USAGE, complain
from icekeeper.core.errors import ConfigError, IcekeeperError
from icekeeper.settings import find_config


@click.command(short_help="Runs the daemon: a night at every slot.")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="The configuration file.")
def serve(config: Path | None) -> None:
    """Runs the daemon: a night at every slot of the schedule, until SIGTERM."""
    from icekeeper.execution import logging as logs
    from icekeeper.service.ending import end_within
    from icekeeper.service.supervisor import STOP_S, Supervisor

    path = find_config(config)
    logs.configure("info", "auto", None)

    async def until_stopped() -> int:
        code = CANNOT_START
        try:
            await Supervisor(path).run()
            code = 0
        except IcekeeperError as exc:
            # Before a thread that hangs, which may be why the start failed, ends the process.
            complain(exc)
            code = USAGE if isinstance(exc, ConfigError) else CANNOT_START
        finally:
            end_within(STOP_S["threads"], code)
        return code

    sys.exit(asyncio.run(until_stopped()))
