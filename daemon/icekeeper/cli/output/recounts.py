"""The output of `audit --again` on a terminal. It decides nothing."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from icekeeper.cli.output.console import new_table, number_or_blank
from icekeeper.core.audit.recount import Past, Recount
from icekeeper.core.formats import minute

_COLOURS = {Past.SAME: "green", Past.CHANGED: "red", Past.SOURCE_CHANGED: "yellow", Past.UNKNOWN: "red"}
_WORDS = {
    Past.SAME: "as it was",
    Past.CHANGED: "the snapshot holds other rows than it did",
    Past.SOURCE_CHANGED: "Iceberg is as it was, ClickHouse has changed",
    Past.UNKNOWN: "not known",
}


def show_recounts(console: Console, found: Iterable[Recount]) -> None:
    """A line each: the counts of then and of now, and what that means."""
    table = new_table(None, "table", "window (UTC)")
    for heading in ("clickhouse then", "now", "iceberg then", "now"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("the past is", overflow="fold")
    for one in found:
        counts = (number_or_blank(count) for count in (*one.clickhouse, *one.iceberg))
        words = f"{_WORDS[one.past]}{f' ({one.reason})' if one.reason else ''}{f': {one.note}' if one.note else ''}"
        window = f"{minute(one.window.start)}, {one.window.hours} h"
        table.add_row(one.iceberg_table, window, *counts, Text(words, _COLOURS[one.past]))
    console.print(table)
