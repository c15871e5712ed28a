"""What a person sees on a terminal: progress while a run goes on, tables when it is over. Decides nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from daemon.core.events import Event, RunEnded, RunStarted, TaskEnded, TaskProgressed, TaskStarted
from daemon.core.model import (
    AuditResult,
    AuditStatus,
    Decision,
    Plan,
    RunReport,
    StageResult,
    TableHealth,
    TaskOutcome,
)

_COLOURS = {
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

    def __init__(self, console: Console) -> None:
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
        self._bar = self._progress.add_task("starting Spark", stage="", total=None)

    def __enter__(self) -> ProgressBar:
        if self._console.is_terminal:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def observe(self, event: Event) -> None:
        """Takes an event of a run."""
        if not self._console.is_terminal:
            return
        if isinstance(event, RunStarted):
            opening = event.opening
            self._console.print(f"run {opening.run_id}  slot {opening.slot:%Y-%m-%dT%H:%MZ}  {opening.trigger}")
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
    line.append(f"{result.outcome.value:<8}", _COLOURS[result.outcome])
    line.append(f"{result.stage.value:<8}{result.table:<28}{result.duration_s:>6.1f} s  ")
    if result.reason is not None:
        line.append(f"{result.reason}: ", "bold red" if result.error else "bold")
    line.append(result.error or result.note, "red" if result.error else "")
    return line


def show_report(console: Console, report: RunReport) -> None:
    """A run that ended: its tables before and after, its audit, what went wrong and what to do about it."""
    console.print()
    if not console.is_terminal:  # on one, each task had its line when it ended
        for task in report.tasks:
            console.print(_task_line(task), soft_wrap=True)
        console.print()
    if healths := _before_and_after(report.tasks):
        console.print(_health_table(healths))
    if report.audits:
        console.print(_audit_table(report.audits))
        for audit in report.audits:
            if audit.status is not AuditStatus.OK:
                console.print(Text(f"  {audit.iceberg_table}: {audit.notes}", _COLOURS[audit.status]), soft_wrap=True)
    for task in report.tasks:
        if task.outcome in (TaskOutcome.FAILED, TaskOutcome.HELD) and task.reason is not None:
            console.print(f"[bold]{task.stage} {task.table}[/]: {task.outcome}, {task.reason}", soft_wrap=True)
            console.print(f"    {task.error or task.note}", soft_wrap=True, markup=False)
            console.print(f"    {task.reason.advice}", style="dim", soft_wrap=True)
    colour = _COLOURS.get(report.outcome.value, "")
    console.print(f"[{colour}]{report.outcome}[/] in {report.duration_s:.1f} s, run {report.run_id}")


def _before_and_after(tasks: Iterable[StageResult]) -> dict[str, tuple[TableHealth, TableHealth]]:
    healths: dict[str, tuple[TableHealth, TableHealth]] = {}
    for task in tasks:
        if task.before is not None and task.after is not None:
            first = healths.get(task.table, (task.before, task.after))[0]
            healths[task.table] = (first, task.after)
    return healths


def _health_table(healths: Mapping[str, tuple[TableHealth, TableHealth]]) -> Table:
    table = _table("before and after", "table")
    _add_numbers(table, "files", "small files", "size", "rows", "snapshots")
    for name, (before, after) in healths.items():
        table.add_row(
            name,
            _change(before.data_files, after.data_files),
            _change(before.small_files, after.small_files),
            _change(_size(before.bytes), _size(after.bytes)),
            _change(before.records, after.records),
            _change(before.snapshots, after.snapshots),
        )
    return table


def _audit_table(audits: Iterable[AuditResult]) -> Table:
    audits = tuple(audits)
    window = f"[{audits[0].window_start:%Y-%m-%d %H:%M}, {audits[0].window_end:%Y-%m-%d %H:%M}) UTC"
    table = _table(f"audit of {window}", "table")
    _add_numbers(table, "clickhouse", "iceberg", "delta", "delta %")
    table.add_column("status", no_wrap=True, min_width=12)
    for audit in audits:
        table.add_row(
            audit.iceberg_table,
            _number(audit.ch_row_count),
            _number(audit.iceberg_row_count),
            _number(audit.delta),
            "" if audit.delta_pct is None else f"{audit.delta_pct:.2f}",
            Text(audit.status.value, _COLOURS[audit.status]),
        )
    return table


def show_plans(console: Console, slot: datetime, plans: Iterable[Plan], errors: Mapping[str, str]) -> None:
    """What each task would do and why."""
    table = _table(f"plan for slot {slot:%Y-%m-%dT%H:%MZ}", "stage", "table", "decision", "reason")
    table.add_column("what and why", overflow="fold")
    for plan in plans:
        decision = Text(plan.decision.value, _COLOURS[plan.decision])
        table.add_row(plan.stage.value, plan.table, decision, plan.reason or "", Text(plan.note))
    console.print(table)
    for name, error in errors.items():
        console.print(f"{name}: {error}", style="red", soft_wrap=True, markup=False)


def show_runs(console: Console, runs: Iterable[Mapping[str, Any]]) -> None:
    """The newest runs, a line each."""
    runs = tuple(runs)
    if not runs:
        console.print("no runs yet")
        return
    table = _table(None, "run", "slot", "trigger", "outcome", "started")
    _add_numbers(table, "seconds")
    for run in runs:
        outcome = run["outcome"] or "under way"
        duration = run["duration_s"]
        table.add_row(
            str(run["run_id"])[:8],
            f"{run['slot']:%Y-%m-%dT%H:%MZ}",
            run["trigger"],
            Text(outcome, _COLOURS.get(outcome, "cyan")),
            f"{run['started_at']:%Y-%m-%d %H:%M:%S}",
            "" if duration is None else f"{duration:.1f}",
        )
    console.print(table)


def show_run(console: Console, run: Mapping[str, Any]) -> None:
    """One run of the ledger with its tasks and audits."""
    console.print(
        f"run {run['run_id']}  slot {run['slot']:%Y-%m-%dT%H:%MZ}  {run['trigger']}  {run['outcome'] or 'under way'}"
    )
    tasks = _table("tasks", "stage", "table", "outcome", "reason")
    _add_numbers(tasks, "attempts", "seconds")
    tasks.add_column("note", overflow="fold")
    for task in run["tasks"]:
        outcome = Text(task["outcome"], _COLOURS[TaskOutcome(task["outcome"])])
        note = Text(task["error"] or task["note"] or "")
        seconds = f"{task['duration_s']:.1f}"
        tasks.add_row(task["stage"], task["table"], outcome, task["reason"] or "", str(task["attempts"]), seconds, note)
    console.print(tasks)
    audits = _table("audits", "table", "status")
    _add_numbers(audits, "clickhouse", "iceberg", "delta")
    audits.add_column("notes", overflow="fold")
    for audit in run["audits"]:
        status = Text(audit["status"], _COLOURS[AuditStatus(audit["status"])])
        counts = (_number(audit[key]) for key in ("ch_row_count", "iceberg_row_count", "delta"))
        audits.add_row(audit["iceberg_table"], status, *counts, Text(audit["notes"] or ""))
    console.print(audits)
    for line in run["logs"]:
        console.print(Text(_log_line(line)), soft_wrap=True)


def _log_line(line: Mapping[str, Any]) -> str:
    known = ("timestamp", "level", "event", "run_id", "slot")
    rest = " ".join(f"{key}={value}" for key, value in line.items() if key not in known and value is not None)
    return f"{line.get('timestamp', '')} {line.get('level', ''):<7} {line.get('event', '')} {rest}"


def _table(title: str | None, *headings: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False, pad_edge=False
    )
    for heading in headings:
        # Where the width is short, names are folded: numbers and verdicts must stay whole.
        table.add_column(heading, no_wrap=heading != "table", overflow="fold", min_width=8)
    return table


def _add_numbers(table: Table, *headings: str) -> None:
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)


def _change(before: object, after: object) -> str:
    return str(before) if before == after else f"{before} → {after}"


def _number(value: int | None) -> str:
    return "" if value is None else f"{value:,}".replace(",", " ")


def _size(size: int) -> str:
    return f"{size / 1024**2:.1f} MiB" if size >= 1024**2 else f"{size / 1024:.1f} KiB"
