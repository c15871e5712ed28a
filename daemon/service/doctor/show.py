"""What a person and a script see of the doctor. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from daemon.service.doctor.finding import Finding, Level, counted, sound

_MARKS = {Level.OK: ("OK", "green"), Level.WARNING: ("WARN", "yellow"), Level.ERROR: ("FAIL", "bold red")}
_INDENT = " " * 6


def findings_document(findings: Sequence[Finding]) -> dict[str, Any]:
    """The findings as `--json` shows them."""
    checks = [
        {"part": each.part.value, "level": each.level.value, "text": each.text, "advice": each.advice}
        for each in findings
    ]
    return {"ok": sound(findings), "checks": checks}


def show_findings(console: Console, findings: Sequence[Finding]) -> None:
    """A line each, what to do about it below, and at the end how many of which there are."""
    for finding in findings:
        mark, colour = _MARKS[finding.level]
        line = Text().append(f"{mark:<6}", colour)
        line.append(f"{finding.part.value:<12}", "bold")
        line.append(finding.text)
        console.print(line, soft_wrap=True)
        for advice in finding.advice.splitlines():
            console.print(Text(f"{_INDENT}{advice}", "cyan"), soft_wrap=True)
    numbers = {level: sum(each.level is level for each in findings) for level in Level}
    console.print()
    console.print(
        f"{numbers[Level.OK]} fine, {counted(numbers[Level.WARNING], 'warning')}, "
        f"{counted(numbers[Level.ERROR], 'error')}",
        style=_MARKS[Level.ERROR if numbers[Level.ERROR] else Level.WARNING if numbers[Level.WARNING] else Level.OK][1],
    )
