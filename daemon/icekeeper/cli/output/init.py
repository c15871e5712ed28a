"""The output of `init`: what the file names, what it leaves out, and what to do next. It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from icekeeper.cli.output.console import new_table
from icekeeper.core.formats import counted
from icekeeper.settings.first_file import FirstFile

_ABOUT = {
    "config check": "says whether the file is good",
    "migrate": "makes the ledger's tables",
    "doctor": "checks every system, and advises",
    "plan": "shows what a night would do; changes nothing",
    "serve": "the daemon: a night at every slot",
}


def first_file_document(path: Path, file: FirstFile, warned: Sequence[str], following: Sequence[str]) -> dict[str, Any]:
    """What was written, as `--json` shows it."""
    tables = [
        {"name": each.name, "timestamp": each.timestamp, "source": each.source, "note": each.note}
        for each in file.tables
    ]
    return {
        "config": str(path),
        "tables": tables,
        "left_out": dict(file.left_out),
        "warnings": list(warned),
        "next": list(following),
    }


def show_first_file(
    console: Console, path: Path, file: FirstFile, warned: Sequence[str], following: Sequence[str]
) -> None:
    """The tables, what was left out, warnings, and the next commands."""
    table = new_table(None, "table", "timestamp", "source")
    table.add_column("note", overflow="fold")
    for each in file.tables:
        table.add_row(each.name, each.timestamp or "", each.source or "", Text(each.note, "dim"))
    console.print(table)
    for name, why in sorted(file.left_out.items()):
        console.print(Text(f"left out {name}: {why}", "yellow"), soft_wrap=True)
    for warning in warned:
        console.print(Text(f"warning: {warning}", "yellow"), soft_wrap=True)
    audited = sum(each.source is not None for each in file.tables)
    console.print(
        Text(f"{path} is written: {counted(len(file.tables), 'table')}, {audited} of them audited", "green"),
        soft_wrap=True,
    )
    console.print("\nNext:")
    for command in following:
        about = next(text for step, text in _ABOUT.items() if f" {step}" in command)
        console.print(Text().append(f"  {command}", "bold").append(f"   # {about}", "dim"), soft_wrap=True)
