"""The output of `compare`, on a terminal and as JSON. It decides nothing."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from icekeeper.cli.output.console import COLOURS, new_table, number_or_blank
from icekeeper.core.audit.compare import Cause, Comparison, Comparisons, FlowAudit
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.formats import counted, listed, minute
from icekeeper.core.plain import to_plain


def comparisons_document(found: Comparisons, days: int) -> dict[str, Any]:
    """The comparisons as `--json` shows them."""
    documents = [{**to_plain(each), "explained": each.explained} for each in found.comparisons]
    return {
        "days": days,
        "explained": found.explained,
        "comparisons": documents,
        "not_audited": list(found.not_audited),
    }


def show_comparisons(console: Console, found: Comparisons, days: int) -> None:
    """A line each; for those that are not explained the queries to run by hand; how many of which there are."""
    if found.not_audited:
        tables = listed(found.not_audited, 10)
        console.print(f"audited by another job and not by icekeeper: {tables}", style="yellow", soft_wrap=True)
    comparisons = found.comparisons
    if not comparisons:
        console.print(f"no other job has audited these tables in the last {counted(days, 'day')}")
        return
    table = new_table(None, "table", "window (UTC)", "flow", "icekeeper", "night")
    for heading in ("clickhouse", "iceberg"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("why", overflow="fold")
    for each in comparisons:
        flow, same = each.flow, each.same
        table.add_row(
            flow.iceberg_table,
            f"{minute(flow.window.start)}, {flow.window.hours} h",
            _status(flow),
            _status(same),
            _status(each.night),
            _both(flow.ch_row_count, same, None if same is None else same.ch_row_count),
            _both(flow.iceberg_row_count, same, None if same is None else same.iceberg_row_count),
            _why(each),
        )
    console.print(table)
    console.print(
        "counts that differ are written flow / icekeeper; night: icekeeper's own audit of that night", style="dim"
    )
    for each in comparisons:
        if not each.explained:
            _show_queries(console, each)
    console.print()
    left = sum(not each.explained for each in comparisons)
    agree = sum(each.explanations[0].cause is Cause.AGREE for each in comparisons)
    text = (
        f"{counted(len(comparisons), 'audit')}: {agree} agree, {len(comparisons) - agree - left} explained, {left} not"
    )
    console.print(text, style="bold red" if left else "green")


def _status(audit: FlowAudit | AuditResult | None) -> Text:
    return Text("") if audit is None else Text(str(audit.status), COLOURS.get(str(audit.status), ""))


def _both(theirs: int | None, same: AuditResult | None, ours: int | None) -> str:
    if same is None or theirs == ours:
        return number_or_blank(theirs)
    return f"{number_or_blank(theirs)} / {number_or_blank(ours)}"


def _why(comparison: Comparison) -> Text:
    why = Text()
    for each in comparison.explanations:
        why.append("\n" if why else "")
        why.append(each.cause.value, "bold red" if each.cause is Cause.UNEXPLAINED else "cyan")
        why.append(f": {each.text}" if each.text else "")
    return why


def _show_queries(console: Console, comparison: Comparison) -> None:
    if (same := comparison.same) is None:
        return
    console.print(f"{same.iceberg_table}, {comparison.flow.window}: to count by hand", style="bold")
    for query in (same.ch_query, same.iceberg_query):
        if query is not None:
            console.print(Text(f"    {query}"), soft_wrap=True)
