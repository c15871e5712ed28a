"""What a reason must leave behind wherever people look: task, run, ledger, metric, log and terminal."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from icekeeper.cli.output import console
from icekeeper.cli.runs import EXIT_CODES
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport, StageResult
from icekeeper.execution.execute import Executed
from icekeeper.execution.log_files import run_log_path
from icekeeper.status.metrics import Metrics
from tests.conftest import COINBASE, Night
from tests.integration.lab import Lab

DONE, SKIPPED, HELD, FAILED = TaskOutcome.DONE, TaskOutcome.SKIPPED, TaskOutcome.HELD, TaskOutcome.FAILED
# What an operator's script sees of a run of one task that ended so.
EXIT_CODE = {DONE: 0, SKIPPED: 0, HELD: 0, FAILED: 1}
COUNTS = ("ch_row_count", "iceberg_row_count", "delta", "delta_pct")

Arrange = Callable[[Lab], AsyncIterator[Night]]


@dataclass(frozen=True)
class Scenario:
    """A night of one stage on one table, and how its task has to end. `says` stands in its error or its note.

    `status` is an audit's, `counted` whether its row keeps the counts.
    """

    name: str
    reason: Reason
    stage: Stage
    outcome: TaskOutcome
    says: str
    arrange: Callable[[Lab], AbstractAsyncContextManager[Night]]
    table: str = COINBASE
    attempts: int = 1
    status: AuditStatus = AuditStatus.ERROR
    counted: bool = False
    run_outcome: RunOutcome | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.reason}-{self.name}"


def collected_in(scenarios: list[Scenario]) -> Callable[..., Callable[[Arrange], Arrange]]:
    """A decorator that makes a scenario of a function which arranges it and yields the night to run."""

    def scenario(
        reason: Reason, stage: Stage, outcome: TaskOutcome, says: str, **more: Any
    ) -> Callable[[Arrange], Arrange]:
        def collect(arrange: Arrange) -> Arrange:
            name = arrange.__name__
            scenarios.append(Scenario(name, reason, stage, outcome, says, asynccontextmanager(arrange), **more))
            return arrange

        return collect

    return scenario


async def play(lab: Lab, scenario: Scenario) -> None:
    """Runs a scenario's night, puts everything right again, and looks for the reason in all places."""
    try:
        async with scenario.arrange(lab) as night:
            done = await night.execute(scenario.stage, tables=(scenario.table,), **scenario.options)
            await lab.calm()
            await prove(lab, night, done, scenario)
    finally:
        await lab.calm()


async def prove(lab: Lab, night: Night, done: Executed, expected: Scenario) -> None:
    """Asserts every trace of the run, which is in the ledger."""
    report = done.report
    assert done.not_recorded is None
    assert done.not_shipped is None
    task = next(task for task in report.tasks if (task.stage, task.table) == (expected.stage, expected.table))
    message = task.error or task.note
    assert (task.outcome, task.reason, task.attempts) == (expected.outcome, expected.reason, expected.attempts), message
    assert expected.says in message
    if task.outcome is FAILED and task.attempts and task.reason is not Reason.CANCELLED:
        assert any(name in message.lower() for name in (task.table, "clickhouse", "postgresql", "java")), message
    if expected.run_outcome is None:
        assert EXIT_CODES[report.outcome] == EXIT_CODE[expected.outcome]
    else:
        assert report.outcome is expected.run_outcome

    texts = [
        message,
        _in_the_ledger(night, report, task, expected),
        *_in_the_log(night, report, task),
        await _in_the_ledgers_log(night, report, task),
        _on_the_terminal(report, task),
        task.engine_log or "",
    ]
    if task.reason is Reason.ENGINE_OUT_OF_MEMORY:
        assert "OutOfMemoryError" in (task.engine_log or ""), "what the JVM said when it died"
    _in_the_metrics(night, task)
    for secret in lab.secrets():
        for text in texts:
            assert secret not in text


def _in_the_ledger(night: Night, report: RunReport, task: StageResult, expected: Scenario) -> str:
    (run,) = night.ledger("SELECT outcome FROM maintenance_runs WHERE run_id = $1", str(report.run_id))
    assert run == (report.outcome,)
    key = (str(report.run_id), task.stage.value, task.table)
    (row,) = night.ledger(
        "SELECT outcome, reason, attempts, error, note FROM maintenance_tasks "
        "WHERE run_id = $1 AND stage = $2 AND iceberg_table = $3",
        *key,
    )
    assert row == (task.outcome, task.reason, task.attempts, task.error, task.note)
    assert (row[3] is not None) == (task.outcome is FAILED)
    audits = night.ledger(
        f"SELECT status, reason, notes, {', '.join(COUNTS)} FROM maintenance_audit_log WHERE run_id = $1", key[0]
    )
    # A cancelled audit is still owed, so that it has no row.
    if task.stage is not Stage.AUDIT or task.reason is Reason.CANCELLED:
        assert audits == []
        return str(row)
    ((status, reason, notes, *counts),) = audits
    assert (status, reason) == (expected.status, task.reason)
    assert expected.says in notes
    # Never a zero that looks like a count.
    assert [count is not None for count in counts[:3]] == [expected.counted] * 3
    return f"{row} {audits}"


def _in_the_log(night: Night, report: RunReport, task: StageResult) -> tuple[str, ...]:
    text = run_log_path(night.settings.state_dir, report.run_id).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    _is_the_line_of(_line_of(lines, task), task)
    (summary,) = [line for line in lines if line["event"] == "run_ended"]
    assert summary["outcome"] == report.outcome
    return (text,)


async def _in_the_ledgers_log(night: Night, report: RunReport, task: StageResult) -> str:
    run = await night.services.history.run(report.run_id, lines=True)
    assert run is not None
    _is_the_line_of(_line_of(run["logs"], task), task)
    return str(run)


def _line_of(lines: list[Mapping[str, Any]], task: StageResult) -> Mapping[str, Any]:
    (line,) = [
        line
        for line in lines
        if line["event"] == "task_done" and (line["stage"], line["table"]) == (task.stage, task.table)
    ]
    return line


def _is_the_line_of(line: Mapping[str, Any], task: StageResult) -> None:
    assert (line["outcome"], line["reason"], line["error"]) == (task.outcome, task.reason, task.error)
    assert line["level"] == ("error" if task.outcome is FAILED else "info")


def _in_the_metrics(night: Night, task: StageResult) -> None:
    metrics = Metrics()
    series = f'icekeeper_tasks_total{{outcome="{task.outcome}",reason="{task.reason}",stage="{task.stage}"}}'
    before = metrics.exposition().decode()
    if task.outcome is not DONE:  # what only explains a verdict comes when it comes
        assert f"{series} 0.0" in before.splitlines(), "a rate() over a series that is not there yet misses its first 1"
    for event in night.events:
        metrics.observe(event)
    assert f"{series} 1.0" in metrics.exposition().decode().splitlines()


def _on_the_terminal(report: RunReport, task: StageResult) -> str:
    assert task.reason is not None
    shown = ""
    for terminal in (False, True):
        screen = io.StringIO()
        console.show_report(Console(file=screen, width=160, force_terminal=terminal, color_system=None), report)
        text = screen.getvalue()
        advised = task.outcome in (FAILED, HELD)
        assert (task.reason.advice in _unwrapped(text)) == advised
        if advised:
            assert _unwrapped(task.error or task.note) in _unwrapped(text)
        shown += text
    return shown


def _unwrapped(text: str) -> str:
    return " ".join(text.split())
