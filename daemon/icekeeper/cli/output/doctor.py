"""The output of `doctor`, on a terminal and as JSON. It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from icekeeper.core.formats import counted
from icekeeper.doctor.check import Check, Level, no_errors

_MARKS = {Level.OK: ("OK", "green"), Level.WARNING: ("WARN", "yellow"), Level.ERROR: ("FAIL", "bold red")}
_INDENT = " " * 6


def checks_document(checks: Sequence[Check]) -> dict[str, Any]:
    """The checks as `--json` shows them."""
    documents = [
        {"part": each.subject.value, "level": each.level.value, "text": each.text, "advice": each.advice}
        for each in checks
    ]
    return {"ok": no_errors(checks), "checks": documents}


def show_checks(console: Console, checks: Sequence[Check]) -> None:
    """A line each, what to do about it below, and at the end how many of which there are."""
    for check in checks:
        mark, colour = _MARKS[check.level]
        line = Text().append(f"{mark:<6}", colour)
        line.append(f"{check.subject.value:<12}", "bold")
        line.append(check.text)
        console.print(line, soft_wrap=True)
        for advice in check.advice.splitlines():
            console.print(Text(f"{_INDENT}{advice}", "cyan"), soft_wrap=True)
    numbers = {level: sum(each.level is level for each in checks) for level in Level}
    console.print()
    console.print(
        f"{numbers[Level.OK]} fine, {counted(numbers[Level.WARNING], 'warning')}, "
        f"{counted(numbers[Level.ERROR], 'error')}",
        style=_MARKS[Level.ERROR if numbers[Level.ERROR] else Level.WARNING if numbers[Level.WARNING] else Level.OK][1],
    )
