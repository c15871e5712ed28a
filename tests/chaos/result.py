"""What came of a run, as a line of a JSONL file that campaigns write and the report reads."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from tests.chaos.judge import Violation, Wrong


@dataclass(frozen=True)
class Result:
    """One run. `closed_s`: from the slot's instant until it was closed; None where it never was.

    `struck`: all its faults came to happen before the night was over.
    """

    seed: int
    name: str
    plan: str
    struck: bool
    outcome: str | None
    closed_s: float | None
    starts: int
    duration_s: float
    happened: tuple[str, ...]
    violations: tuple[Violation, ...]

    @property
    def recovered(self) -> bool:
        return not self.violations

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Result:
        document: dict[str, Any] = json.loads(line)
        wrong = tuple(Violation(**{**each, "wrong": Wrong(each["wrong"])}) for each in document["violations"])
        return cls(**{**document, "happened": tuple(document["happened"]), "violations": wrong})


def read(paths: Iterable[Path]) -> list[Result]:
    """The results of several campaigns; of a seed that was run again the last counts."""
    lines = (line for path in paths for line in path.read_text().splitlines())
    return list({(result.name, result.seed): result for result in map(Result.from_json, lines)}.values())


# What has a column of its own; the rest is counted together.
_COLUMNS = (Wrong.ROWS_LOST, Wrong.ROWS_DOUBLED, Wrong.FILES_LOST, Wrong.AUDITS_LOST, Wrong.AUDITS_DOUBLED)
HEADER = ("fault", "runs", "recovered", "stuck", *map(str, _COLUMNS), "other", "closed after (median)")


def rows(results: Iterable[Result]) -> list[tuple[str, ...]]:
    """A row per fault, in the order in which they first came, and one for all."""
    by_name: dict[str, list[Result]] = {}
    everything: list[Result] = []
    for result in results:
        by_name.setdefault(result.name, []).append(result)
        everything.append(result)
    return [_row(name, some) for name, some in (*by_name.items(), ("all", everything)) if some]


def _row(name: str, results: list[Result]) -> tuple[str, ...]:
    counts = dict.fromkeys(Wrong, 0)
    for result in results:
        for violation in result.violations:
            counts[violation.wrong] += violation.count
    closed = [result.closed_s for result in results if result.closed_s is not None]
    others = sum(counts[wrong] for wrong in Wrong if wrong not in (*_COLUMNS, Wrong.STUCK))
    numbers = (len(results), sum(result.recovered for result in results), counts[Wrong.STUCK])
    after = f"{median(closed):.0f} s" if closed else "-"
    return (name, *map(str, (*numbers, *(counts[wrong] for wrong in _COLUMNS), others)), after)


def table(results: Iterable[Result]) -> Table:
    """The same for a terminal."""
    shown = Table(title="What came of it")
    for number, column in enumerate(HEADER):
        shown.add_column(column, justify="right" if number else "left")
    for row in rows(results):
        shown.add_row(*row)
    return shown
