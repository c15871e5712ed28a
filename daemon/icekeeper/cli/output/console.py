"""Output on a terminal: progress while a run goes on, its report, plans; the style of tables. It decides nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import AuditStatus, Decision, Stage, TaskOutcome
from icekeeper.core.events import Event, RunEnded, RunStarted, TaskEnded, TaskProgressed, TaskStarted
from icekeeper.core.formats import counted, iso_minute, minute, number, size
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport, StageResult
from icekeeper.core.tables.plan import Plan
from icekeeper.core.tables.state import TableHealth

COLOURS: dict[str, str] = {
    TaskOutcome.DONE: "green",
    TaskOutcome.SKIPPED: "dim",
    TaskOutcome.HELD: "yellow",
    TaskOutcome.FAILED: "bold red",
    AuditStatus.OK: "green",
    AuditStatus.WARNING: "yellow",
    AuditStatus.MISSING_DATA: "bold red",
    AuditStatus.ERROR: "bold red",
    Decision.ACT: "green",
    Decision.SKIP: "dim",
    Decision.HOLD: "yellow",
    "success": "bold green",
    "partial": "bold yellow",
    "failed": "bold red",
    "interrupted": "yellow",
    "cancelled": "yellow",
    "missed": "bold yellow",
}

_PIPED_WIDTH = 160


def stderr() -> Console:
    """Where progress goes: stdout belongs to results."""
    return Console(stderr=True, highlight=False)


def stdout() -> Console:
    """Where results go. Piped into a file or another program, nothing is cut to a terminal's width."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH)


class ProgressBar:
    """Follows a run on a terminal: a bar over its tasks, and a line for each that ended. Silent elsewhere."""

    def __init__(self, console: Console, first: str = "starting Spark") -> None:
        """`first` is shown until the run begins."""
        self._console = console
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[stage]:<8}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
        )
        self._bar = self._progress.add_task(first, stage="", total=None)

    def __enter__(self) -> ProgressBar:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def observe(self, event: Event) -> None:
        """Takes an event of a run."""
        if not self._console.is_terminal:
            return
        if isinstance(event, RunStarted):
            opening = event.opening
            self._console.print(f"run {opening.run_id}  slot {iso_minute(opening.slot)}  {opening.trigger}")
        elif isinstance(event, TaskStarted):
            self._progress.update(self._bar, description=event.table, stage=event.stage.value, total=event.of)
        elif isinstance(event, TaskProgressed):
            self._progress.update(self._bar, description=f"{event.table}: {event.note}")
        elif isinstance(event, TaskEnded):
            self._progress.advance(self._bar)
            self._console.print(_task_line(event.result), no_wrap=True, overflow="ellipsis")
        elif isinstance(event, RunEnded):
            self._progress.stop()


def _task_line(result: StageResult) -> Text:
    line = Text("  ")
    line.append(f"{result.outcome.value:<8}", COLOURS[result.outcome])
    line.append(f"{result.stage.value:<8}{result.table:<28}{result.duration_s:>6.1f} s  ")
    if result.reason is not None:
        line.append(f"{result.reason}: ", "bold red" if result.error else "bold")
    line.append(result.error or result.note, "red" if result.error else "")
    return line


def show_report(console: Console, report: RunReport) -> None:
    """A run that ended: its tables before and after, its audit, what went wrong and what to do about it."""
    console.print()
    if not console.is_terminal:  # there each task had its line when it ended
        for task in report.tasks:
            console.print(_task_line(task), soft_wrap=True)
        console.print()
    if healths := _before_and_after(report.tasks):
        console.print(_health_table(healths))
    if report.audits:
        if own := [audit for audit in report.audits if audit.worse is None]:
            console.print(_audit_table(own))
        _show_older_days(console, [audit for audit in report.audits if audit.worse is not None])
        for audit in own:
            # Why an audit could not count is in the error of its task.
            if audit.status in (AuditStatus.WARNING, AuditStatus.MISSING_DATA):
                console.print(Text(f"  {audit.iceberg_table}: {audit.notes}", COLOURS[audit.status]), soft_wrap=True)
            elif audit.reason is Reason.SOURCE_EMPTY and audit.iceberg_row_count:
                text = f"  {audit.iceberg_table}: {audit.notes} ({audit.reason})"
                console.print(Text(text, COLOURS[AuditStatus.WARNING]), soft_wrap=True)
    if report.older_days is not None:
        console.print(f"  {report.older_days}", style="yellow" if report.older_days.not_audited else "dim")
    _show_what_to_do(console, report.tasks)
    colour = COLOURS.get(report.outcome.value, "")
    console.print(f"[{colour}]{report.outcome}[/] in {report.duration_s:.1f} s, run {report.run_id}")


def _show_what_to_do(console: Console, tasks: Iterable[StageResult]) -> None:
    """What failed and what was held: tasks with the same outcome and reason under one heading, each advice once."""
    alike: dict[tuple[Stage, TaskOutcome, Reason], list[StageResult]] = {}
    for task in tasks:
        if task.outcome in (TaskOutcome.FAILED, TaskOutcome.HELD) and task.reason is not None:
            alike.setdefault((task.stage, task.outcome, task.reason), []).append(task)
    advised: set[Reason] = set()
    for (stage, outcome, reason), group in alike.items():
        tables = ", ".join(task.table for task in group)
        console.print(f"[bold]{stage} {tables}[/]: {outcome}, {reason}", soft_wrap=True)
        if console.is_terminal:  # elsewhere the whole line of each task is above
            _show_notes(console, {task.table: task.error or task.note for task in group})
        if reason not in advised:
            console.print(f"    {reason.advice}", style="dim", soft_wrap=True)
        advised.add(reason)


def _show_notes(console: Console, notes: Mapping[str, str]) -> None:
    if len(set(notes.values())) == 1:
        console.print(f"    {next(iter(notes.values()))}", soft_wrap=True, markup=False)
        return
    width = max(map(len, notes))
    for table, note in notes.items():
        console.print(f"    {table:<{width}}  {note}", soft_wrap=True, markup=False)


def _before_and_after(tasks: Iterable[StageResult]) -> dict[str, tuple[TableHealth, TableHealth]]:
    healths: dict[str, tuple[TableHealth, TableHealth]] = {}
    for task in tasks:
        if task.before is not None and task.after is not None:
            first = healths.get(task.table, (task.before, task.after))[0]
            healths[task.table] = (first, task.after)
    return healths


def _health_table(healths: Mapping[str, tuple[TableHealth, TableHealth]]) -> Table:
    table = new_table("before and after", "table")
    add_numbers(table, "files", "small files", "size", "rows", "snapshots")
    for name, (before, after) in healths.items():
        table.add_row(
            name,
            _change(before.data_files, after.data_files),
            _change(before.small_files, after.small_files),
            _change(size(before.bytes), size(after.bytes)),
            _change(before.records, after.records),
            _change(before.snapshots, after.snapshots),
        )
    return table


def _audit_table(audits: Iterable[AuditResult]) -> Table:
    audits = tuple(audits)
    window = f"[{minute(audits[0].window_start)}, {minute(audits[0].window_end)}) UTC"
    table = new_table(f"audit of {window}", "table")
    add_numbers(table, "clickhouse", "iceberg", "delta", "delta %")
    table.add_column("status", no_wrap=True, min_width=12)
    table.add_column("proof", no_wrap=True)
    for audit in audits:
        table.add_row(
            audit.iceberg_table,
            number_or_blank(audit.ch_row_count),
            number_or_blank(audit.iceberg_row_count),
            number_or_blank(audit.delta),
            "" if audit.delta_pct is None else f"{audit.delta_pct:.2f}",
            Text(audit.status.value, COLOURS[audit.status]),
            audit.proof or "",
        )
    return table


def _show_older_days(console: Console, audits: Sequence[AuditResult]) -> None:
    """How many older days were audited again, and those that have become worse."""
    if not audits:
        return
    worse = [audit for audit in audits if audit.worse]
    console.print(
        f"{counted(len(audits), 'older day')} audited again, {len(worse) or 'none'} of them worse than before"
    )
    for audit in worse:
        text = f"  {audit.iceberg_table} of {audit.window_start:%Y-%m-%d}: {audit.status}: {audit.notes}"
        console.print(Text(text, COLOURS[audit.status]), soft_wrap=True)


def show_plans(
    console: Console,
    slot: datetime,
    plans: Sequence[Plan],
    errors: Mapping[str, str],
    note: str = "",
) -> None:
    """What each task would do and why; `note` is about all of them."""
    if note:
        console.print(note, style="yellow", soft_wrap=True)
    table = new_table(f"plan for slot {iso_minute(slot)}", "stage", "table", "decision", "reason")
    table.add_column("what and why", overflow="fold")
    for plan in plans:
        decision = Text(plan.decision.value, COLOURS[plan.decision])
        table.add_row(plan.stage.value, plan.table, decision, plan.reason or "", Text(plan.note))
    console.print(table)
    for plan in plans:
        if plan.warning:
            console.print(f"{plan.table}: {plan.warning}", style="bold red", soft_wrap=True, markup=False)
    for name, error in errors.items():
        console.print(f"{name}: {error}", style="red", soft_wrap=True, markup=False)


def new_table(title: str | None, *headings: str) -> Table:
    """A table in the style of all; a column that is added to it later has to say whether it may be folded."""
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    for heading in headings:
        # Where the width is short, names are folded: numbers and verdicts must stay whole.
        table.add_column(heading, no_wrap=heading != "table", overflow="fold", min_width=8)
    return table


def add_numbers(table: Table, *headings: str) -> None:
    """Columns of numbers, which are never folded."""
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)


def _change(before: object, after: object) -> str:
    return str(before) if before == after else f"{before} → {after}"


def number_or_blank(value: int | None) -> str:
    """`1 234 567`; nothing for None."""
    return "" if value is None else number(value)
