"""The command line: arguments to calls, results to output, errors to exit codes. No rule of the night lives here."""

from __future__ import annotations

import sys
import traceback

import click

from daemon import __version__
from daemon.cli.configuration import config
from daemon.cli.doctor import doctor
from daemon.cli.ledger import history, migrate
from daemon.cli.operators import ack, pause_nights, unpause
from daemon.cli.programs import demo, serve
from daemon.cli.runs import audit, compact, expire, plan, run
from daemon.cli.shared import CANNOT_START, USAGE, complain
from daemon.core.errors import ConfigError, IcekeeperError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="icekeeper")
def cli() -> None:
    """Compacts, expires and audits the Iceberg cold tier of a lakehouse, every night."""


_TABLES = (run, compact, expire, audit, plan)
_RECORDS = (history, pause_nights, unpause, ack)
_HOUSE = (doctor, migrate, config, serve, demo)
for command in (*_TABLES, *_RECORDS, *_HOUSE):
    cli.add_command(command)


def main() -> None:
    """The command `icekeeper`."""
    try:
        cli()
    except ConfigError as exc:
        complain(exc)
        sys.exit(USAGE)
    except IcekeeperError as exc:
        complain(exc)
        sys.exit(CANNOT_START)
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        sys.exit(CANNOT_START)
    except OSError as exc:
        click.echo(f"icekeeper: {exc.strerror or exc}: {exc.filename or 'a system call'}", err=True)
        sys.exit(CANNOT_START)
    except Exception as exc:  # exit code 1 would say that the audit found something
        traceback.print_exc()
        click.echo(f"icekeeper: an unexpected error, please report it: {type(exc).__name__}: {exc}", err=True)
        sys.exit(CANNOT_START)
