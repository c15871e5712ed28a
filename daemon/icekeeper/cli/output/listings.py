"""Output of what ledger and spool have: runs, findings, acknowledgements, holds, waiting records. It reads nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from icekeeper.adapters.ledger.findings import Ack
from icekeeper.adapters.ledger.move import MovedTable
from icekeeper.adapters.postgres.pool import Target
from icekeeper.adapters.spool.outbox import QuarantinedRecord, Waiting
from icekeeper.cli.output.console import COLOURS, add_numbers, new_table, number_or_blank
from icekeeper.core.audit.records import OpenWindow
from icekeeper.core.calendar import Window
from icekeeper.core.enums import AuditStatus, TaskOutcome
from icekeeper.core.formats import counted, iso_minute, listed, minute, minute_utc, number, second
from icekeeper.core.tables.holds import OperatorHold, given_together

# How much of an engine's log is shown.
_ENGINE_LINES = 10
_ENGINE_WIDTH = 200


def show_runs(console: Console, runs: Iterable[Mapping[str, Any]]) -> None:
    """The newest runs, a line each; with whose they are where that is not always the same."""
    runs = tuple(runs)
    several = len({run["installation"] for run in runs}) > 1
    if not runs:
        console.print("no runs yet")
        return
    table = new_table(None, "run", "slot", "trigger", "outcome", "started")
    add_numbers(table, "seconds")
    if several:
        table.add_column("installation")
    for run in runs:
        outcome = run["outcome"] or "under way"
        duration = run["duration_s"]
        table.add_row(
            str(run["run_id"])[:8],
            iso_minute(run["slot"]),
            run["trigger"],
            Text(outcome, COLOURS.get(outcome, "cyan")),
            second(run["started_at"]),
            "" if duration is None else f"{duration:.1f}",
            *([run["installation"] or ""] if several else []),
        )
    console.print(table)


def show_move(console: Console, home: Path, target: Target, moved: Iterable[MovedTable], dry_run: bool) -> None:
    """How many rows an embedded ledger has, and how many a server had not, by table."""
    table = new_table(None, "table")
    add_numbers(table, "rows", "to move" if dry_run else "moved", "there before")
    for each in moved:
        table.add_row(each.table, number(each.rows), number(each.moved), number(each.rows - each.moved))
    console.print(table)
    if dry_run:
        console.print(f"nothing was moved from {home} to {target}", soft_wrap=True)
    else:
        console.print(f"{target} has all rows of {home}, which can be removed", soft_wrap=True)


def show_run(console: Console, run: Mapping[str, Any]) -> None:
    """One run of the ledger with its tasks and audits."""
    by = f" by {run['actor']}" if run.get("actor") else ""
    console.print(
        f"run {run['run_id']}  slot {iso_minute(run['slot'])}  {run['trigger']}{by}  {run['outcome'] or 'under way'}",
        markup=False,
    )
    tasks = new_table("tasks", "stage", "table", "outcome", "reason")
    add_numbers(tasks, "attempts", "seconds")
    tasks.add_column("note", overflow="fold")
    for task in run["tasks"]:
        outcome = Text(task["outcome"], COLOURS[TaskOutcome(task["outcome"])])
        note = Text(task["error"] or task["note"] or "")
        seconds = f"{task['duration_s']:.1f}"
        tasks.add_row(task["stage"], task["table"], outcome, task["reason"] or "", str(task["attempts"]), seconds, note)
    if run["tasks"]:
        console.print(tasks)
    for task in run["tasks"]:
        _show_engine_log(console, task)
    audits = new_table("audits", "table", "day", "status", "proof")
    add_numbers(audits, "clickhouse", "iceberg", "delta")
    audits.add_column("notes", overflow="fold")
    for audit in run["audits"]:
        status = Text(audit["status"], COLOURS[AuditStatus(audit["status"])])
        counts = (number_or_blank(audit[key]) for key in ("ch_row_count", "iceberg_row_count", "delta"))
        notes = Text(audit["notes"] or "")
        if by := audit.get("certified"):
            notes.append(f"\ncertified by {by}", "green")
        if ack := audit.get("ack"):
            notes.append(f"\nacknowledged {minute(ack.at)} by {ack.by}: {ack.note}", "green")
        if audit["worse"]:
            notes.append("\nworse than before", "red")
        # Of a longer window the day that it begins on.
        audits.add_row(
            audit["iceberg_table"], str(audit["window_start"])[:10], status, audit["proof"] or "", *counts, notes
        )
    if run["audits"]:
        console.print(audits)
    for line in run["logs"]:
        console.print(Text(_log_line(line)), soft_wrap=True)


def _show_engine_log(console: Console, task: Mapping[str, Any]) -> None:
    """The end of Spark's log of a task that failed; the JSON has all of it that is stored."""
    lines = (task["engine_log"] or "").splitlines()
    if not lines:
        return
    console.print(Text(f"what Spark said during {task['stage']} of {task['table']}:", "dim"))
    for line in lines[-_ENGINE_LINES:]:
        console.print(Text(f"    {line[:_ENGINE_WIDTH]}", "dim"), soft_wrap=True)


def _log_line(line: Mapping[str, Any]) -> str:
    known = ("timestamp", "level", "event", "run_id", "slot")
    rest = " ".join(f"{key}={value}" for key, value in line.items() if key not in known and value is not None)
    return f"{line.get('timestamp', '')} {line.get('level', ''):<7} {line.get('event', '')} {rest}"


def show_findings(console: Console, findings: Sequence[OpenWindow], acks: Iterable[Ack], limit: int) -> None:
    """The newest `limit` open findings, and what was acknowledged."""
    if not findings:
        console.print("nothing is open: every audited day is proven or acknowledged")
    else:
        console.print(_findings_table(sorted(findings, key=lambda finding: finding.window.start)[-limit:]))
        if len(findings) > limit:
            console.print(f"and {len(findings) - limit} older ones: --limit shows more")
    if acks := tuple(acks):
        console.print()
        console.print(_acks_table(acks))


def _findings_table(findings: Iterable[OpenWindow]) -> Table:
    table = new_table("open", "table", "day", "status")
    add_numbers(table, "rows missing")
    table.add_column("found", no_wrap=True)
    for finding in findings:
        status = Text(finding.status.value, COLOURS[finding.status])
        table.add_row(finding.table, audited(finding.window), status, missing_rows(finding), minute(finding.since))
    return table


def _acks_table(acks: Iterable[Ack]) -> Table:
    table = new_table("acknowledged", "table", "day", "status")
    add_numbers(table, "rows missing")
    table.add_column("when", no_wrap=True)
    table.add_column("who", overflow="fold")
    table.add_column("note", overflow="fold")
    for ack in acks:
        who = Text(f"{ack.by} on {ack.host}")
        rows = _rows(ack.status, ack.rows_missing, ack.bad_file_rows)
        table.add_row(ack.table, audited(ack.window), ack.status.value, rows, minute(ack.at), who, Text(ack.note))
    return table


def show_holds(console: Console, in_force: Sequence[OperatorHold], past: Sequence[OperatorHold]) -> None:
    """What is on hold, and what was lately."""
    if not in_force:
        console.print("nothing is on hold")
    else:
        console.print(_holds_table("on hold", in_force))
    if past:
        console.print()
        console.print(_holds_table("was on hold", past))


def _holds_table(title: str, holds: Iterable[OperatorHold]) -> Table:
    table = new_table(title, "table", "stages")
    for heading in ("since", "until"):
        table.add_column(heading, no_wrap=True)
    for heading in ("who", "note", "released"):
        table.add_column(heading, overflow="fold")
    for hold, stages in given_together(holds).items():
        until = "" if hold.until is None else minute(hold.until)
        who, note = Text(f"{hold.by} on {hold.host}"), Text(hold.note)
        ended = "" if hold.released_at is None else f"{minute(hold.released_at)} by {hold.released_by}"
        table.add_row(hold.table, listed(stages), minute(hold.at), until, who, note, Text(ended))
    return table


def show_spool(
    console: Console, waiting: Waiting, refused: Sequence[QuarantinedRecord], retried: int, damaged: Sequence[str]
) -> None:
    """What waits for PostgreSQL, what it refused, and what became of a damaged spool."""
    left = waiting.records - waiting.quarantined
    since = f", the first since {minute_utc(waiting.oldest)}" if waiting.oldest is not None else ""
    if retried:
        console.print(f"{counted(retried, 'refused record')} will be tried again")
    console.print(f"{counted(left, 'record waits', 'records wait')} for PostgreSQL{since}" if left else "nothing waits")
    for one in refused:
        console.print(f"refused: {one.kind} {one.id}, since {minute(one.since)}: {one.error}", markup=False)
    if refused:
        console.print("    mend what it names, then `icekeeper spool --retry`; the daemon, or the next run, takes them")
    for path in damaged:
        console.print(f"damaged, and kept: {path}. What could be read of it was taken over", markup=False)


def audited(window: Window) -> str:
    """The day that was audited, or the window where it was not a whole day."""
    if window.hours == 24 and not window.start.hour:
        return f"{window.start:%Y-%m-%d}"
    return f"{minute(window.start)}, {window.hours} h"


def missing_rows(finding: OpenWindow) -> str:
    """The number of missing rows, or of those in bad files; nothing where they could not be counted."""
    return _rows(finding.status, None if finding.delta is None else max(-finding.delta, 0), finding.bad_file_rows)


def _rows(status: AuditStatus, missing: int | None, in_bad_files: int | None) -> str:
    if in_bad_files is not None:
        return f"{number(in_bad_files)} in bad files"
    return "" if status is AuditStatus.ERROR else number_or_blank(missing)
