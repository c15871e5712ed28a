"""The command line: arguments to calls, results to output, errors to exit codes. No rules of the night."""

from __future__ import annotations

import errno
import sys
import traceback

import click

from icekeeper import __version__
from icekeeper.cli.ack import ack
from icekeeper.cli.audits import audit, compare
from icekeeper.cli.certified import certified
from icekeeper.cli.daemon import cancel, logs, reload_configuration, status
from icekeeper.cli.demo import demo
from icekeeper.cli.doctor import doctor
from icekeeper.cli.hold import hold, release
from icekeeper.cli.ledger import history, ledger, migrate, spool
from icekeeper.cli.notify import notify
from icekeeper.cli.pause import pause_nights, unpause
from icekeeper.cli.repair import repair
from icekeeper.cli.runs import compact, expire, plan, run
from icekeeper.cli.serve import serve
from icekeeper.cli.setup.configuration import config
from icekeeper.cli.setup.init import init
from icekeeper.cli.shared import CANCELLED, CANNOT_START, USAGE, complain
from icekeeper.core.errors import ConfigError, IcekeeperError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="icekeeper")
def cli() -> None:
    """Compacts, expires and audits the Iceberg cold tier of a lakehouse, every night."""


_TABLES = (run, compact, expire, audit, repair, plan)
_RECORDS = (history, certified, compare, spool, pause_nights, unpause, hold, release, ack)
_DAEMON = (status, reload_configuration, cancel, logs)
_HOUSE = (init, doctor, notify, migrate, ledger, config, serve, demo)
for command in (*_TABLES, *_DAEMON, *_RECORDS, *_HOUSE):
    cli.add_command(command)


def main() -> None:
    """The command `icekeeper`."""
    try:
        # Click itself would show how a command is used before it says what is wrong.
        sys.exit(cli(prog_name="icekeeper", standalone_mode=False))
    except click.UsageError as exc:
        _complain_of_usage(exc)
        sys.exit(USAGE)
    except click.ClickException as exc:
        click.echo(f"icekeeper: {exc.format_message()}", err=True)
        sys.exit(CANNOT_START)
    except click.Abort:
        sys.exit(CANCELLED)
    except ConfigError as exc:
        complain(exc)
        sys.exit(USAGE)
    except IcekeeperError as exc:
        complain(exc)
        sys.exit(CANNOT_START)
    except BrokenPipeError:  # the reader of our output is gone, as `head` is
        sys.stderr.close()
        sys.exit(CANNOT_START)
    except OSError as exc:
        click.echo(f"icekeeper: {exc.filename or 'a system call'}: {exc.strerror or exc}. {_what_to_do(exc)}", err=True)
        sys.exit(CANNOT_START)
    except Exception as exc:  # exit code 1 would say that the audit found something
        click.echo(f"icekeeper: an unexpected error, please report it: {type(exc).__name__}: {exc}", err=True)
        traceback.print_exc()
        sys.exit(CANNOT_START)


def _complain_of_usage(error: click.UsageError) -> None:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):  # its message is the help
        error.show()
        return
    command = error.ctx.command_path if error.ctx is not None else "icekeeper"
    click.echo(f"icekeeper: {error.format_message()}", err=True)
    click.echo(f"    `{command} --help` says what there is", err=True)


def _what_to_do(error: OSError) -> str:
    """For files and directories: errors of other systems have been translated."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "Free space in its file system"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Let this user write there, or set state_dir to where it may"
    return "See what is there; state_dir has to be a directory"
