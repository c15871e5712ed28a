"""What repairs of findings would do, on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.console import Console
from rich.text import Text

from icekeeper.cli.output.console import add_numbers, new_table
from icekeeper.core.audit.repair import FindingRepair
from icekeeper.core.formats import counted, number, span
from icekeeper.core.tables.plan import Plan


def show_repairs(
    console: Console, made: Iterable[tuple[Iterable[Plan], Mapping[str, str]]], asked: int | None = None
) -> None:
    """A row for each finding: what would be brought back and how, or why it would not.

    `asked`: of how many findings the offload was asked to bring the rows; None: it was not.
    """
    table = new_table("repairs", "finding", "table", "time")
    add_numbers(table, "missing", "to read")
    table.add_column("what and why", overflow="fold")
    held: list[str] = []
    failed: list[str] = []
    for plans, errors in made:
        for plan in plans:
            for repair in plan.repairs:
                read = "" if repair.rows_to_read is None else number(repair.rows_to_read)
                when = span(repair.start, repair.end)
                table.add_row(repair.finding_id, plan.table, when, number(repair.rows), read, _text(repair))
            if plan.reason is not None and plan.decision == "hold":
                held.append(f"{plan.table}: held ({plan.reason}): {plan.note}")
        failed += [f"{name}: {error}" for name, error in errors.items()]
    if not table.rows and not failed:
        console.print("no finding of missing rows is left to repair", soft_wrap=True)
        return
    console.print(table)
    for text, style in [*((text, "yellow") for text in held), *((text, "red") for text in failed)]:
        console.print(text, style=style, soft_wrap=True, markup=False)
    if asked is not None:
        console.print(f"the offload is asked for {counted(asked, 'finding')}: audit their days when it is done")
        return
    console.print("nothing was changed: --yes brings the rows back, and audits their days again", soft_wrap=True)


def _text(repair: FindingRepair) -> Text:
    if repair.refusal is not None:
        note = repair.note if repair.note == repair.refusal.advice else f"{repair.note}. {repair.refusal.advice}"
        return Text(f"{repair.refusal}: {note}", "yellow")
    parts = [f"adds rows whose {', '.join(repair.key)} Iceberg lacks", f"fills {', '.join(repair.columns)}"]
    if repair.left_null:
        parts.append(f"leaves {', '.join(repair.left_null)} NULL, which ClickHouse does not have")
    if repair.final:
        parts.append("reads with FINAL")
    return Text("; ".join(parts), "green")
