"""`python -m tests.chaos.report --answers docs/chaos/answers.json docs/chaos/*.jsonl`: the page docs/reliability.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import click

from tests.chaos.faults import FAULTS
from tests.chaos.plan import TWO
from tests.chaos.result import HEADER, Result, read, rows

_INTRODUCTION = """\
# Reliability

The real program was started shortly before its slot, on a lakehouse of embedded parts with real engines: S3, an Iceberg
catalog, ClickHouse, PostgreSQL, Spark. At a random instant of the night something happened to it. Afterwards everything
was looked up by other means than the program's own: the rows of each table, column by column; the files that any
snapshot refers to; each audit's counts, counted again; what the ledger says of runs, tasks and outcomes; and the
processes that were left.

`make chaos RUNS=200 SEED=1` plays it again; `python -m tests.chaos --replay SEED` plays one run of it.
"""


def page(results: list[Result], answers: Mapping[str, str]) -> str:
    """The page, from at least one result. `answers`: by seed, what was behind a run that went wrong."""
    return "\n".join(
        (
            _INTRODUCTION,
            "## What came of it",
            "",
            *_table(results),
            "",
            _in_words(results),
            "",
            "## What happened",
            "",
            "| fault | what it is |",
            "| --- | --- |",
            *(f"| {kind.name} | {_sentence(kind.__doc__)} |" for kind in FAULTS),
            f"| {TWO} | Two of them in one night. |",
            "",
            *_violations(results, answers),
        )
    )


def _table(results: Iterable[Result]) -> list[str]:
    lines = [HEADER, tuple("---" if number == 0 else "---:" for number in range(len(HEADER))), *rows(results)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _in_words(results: list[Result]) -> str:
    wrong = sum(not result.recovered for result in results)
    struck = sum(result.struck for result in results)
    seeds = f"seeds {min(result.seed for result in results)} to {max(result.seed for result in results)}"
    text = f"{len(results)} runs ({seeds}); in {struck} of them the fault struck before the night was over."
    if wrong:
        return f"{text} {wrong} went wrong."
    # The rule of three: of n tries without a failure, the 95 % upper bound of its probability.
    return f"{text} None went wrong: with 95 % confidence fewer than {3 / len(results):.1%} of such nights would."


def _violations(results: Iterable[Result], answers: Mapping[str, str]) -> list[str]:
    wrong = [result for result in results if not result.recovered]
    if not wrong:
        return []
    lines = [
        f"- seed {result.seed}, {result.name}: {each.text}. {answers.get(str(result.seed), 'Not explained yet.')}"
        for result in wrong
        for each in result.violations
    ]
    return ["## What went wrong", "", *lines, ""]


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split())


@click.command(help="Prints a page of Markdown about the results of campaigns (`--out` of tests.chaos).")
@click.argument("campaigns", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--answers",
    type=click.Path(exists=True, path_type=Path),
    help="A JSON object: by seed, what was behind a run that went wrong.",
)
def main(campaigns: tuple[Path, ...], answers: Path | None) -> None:
    explanations = json.loads(answers.read_text(encoding="utf-8")) if answers is not None else {}
    click.echo(page(read(campaigns), explanations), nl=False)


if __name__ == "__main__":
    main()
