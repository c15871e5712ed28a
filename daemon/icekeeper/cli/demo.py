"""The command `demo`. What it shows: icekeeper/demo.py."""

from __future__ import annotations

import sys
from pathlib import Path

import click


@click.command(short_help="Runs a night on an embedded lakehouse.")
@click.option("--keep", is_flag=True, help="Leave the lakehouse running at the end, and say how to look at it.")
@click.option(
    "--root",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where its files go; default: a new temporary directory.",
)
def demo(keep: bool, root: Path | None) -> None:
    """Runs a whole night on an embedded lakehouse, which is created and removed again."""
    try:
        from icekeeper.demo import run_demo
    except ImportError as exc:
        raise click.ClickException(f"the demo needs the extra: pip install 'icekeeper[sandbox]' ({exc})") from exc
    sys.exit(run_demo(keep=keep, root=root))
