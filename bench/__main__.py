"""`python -m bench`: measures, keeps every sample, and writes docs/performance.md with its plots from them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from bench import plan, plots, record, report
from bench.compare import Samples
from bench.record import STORES
from bench.targets import Verdict, judge


class Several(click.ParamType[tuple[str, ...]]):
    """Some of a few names, by commas."""

    name = "a,b"

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        asked = tuple(part.strip() for part in value.split(","))
        for name in asked:
            if name not in self._names:
                self.fail(f"{name!r} is none of {', '.join(self._names)}", param, ctx)
        return tuple(name for name in self._names if name in asked)


@click.command(help="Plays icekeeper and its rivals side by side, and writes what came of it as a page with plots.")
@click.option(
    "--parts", type=Several((*plan.PARTS, plan.AUDIT)), default=",".join(plan.PARTS), help="What is measured."
)
@click.option("--stores", type=Several(STORES), default=",".join(STORES), help="On which stores.")
@click.option("--shapes", type=Several(plan.SHAPES), default=",".join(plan.SHAPES), help="Which worlds are compacted.")
@click.option("--rounds", type=click.IntRange(min=1), help="Instead of each part's own number.")
@click.option("--rows", type=click.IntRange(min=1000), default=plan.AUDIT_ROWS, help="Of the day that is audited.")
@click.option("--minutes", type=float, default=plan.BUDGET_S / 60, help="Rounds are left out where this would not do.")
@click.option(
    "--keep",
    type=click.Path(path_type=Path),
    help="Samples are added to this file; what it holds isn't measured again.",
)
@click.option("--from", "source", type=click.Path(exists=True, path_type=Path), help="Draws a kept file; no measuring.")
@click.option("--out", type=click.Path(path_type=Path), default="docs/performance.md", help="The page.")
def main(
    parts: tuple[str, ...],
    stores: tuple[record.Store, ...],
    shapes: tuple[str, ...],
    rounds: int | None,
    rows: int,
    minutes: float,
    keep: Path | None,
    source: Path | None,
    out: Path,
) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if source is None:
        from bench import campaign  # a page from samples needs no engine

        planned = plan.contests(parts, stores, shapes, rounds, rows)
        machine, measured = asyncio.run(campaign.play(planned, minutes * 60, console, keep))
    else:
        machines, measured = record.read(source)
        if not machines:
            raise click.UsageError(f"{source} does not say where it was measured")
        machine = machines[-1]
    samples = Samples(measured)
    images = out.parent / "images"
    plots.draw(samples, images)
    out.write_text(report.page(machine, samples), encoding="utf-8")
    verdicts = [each.verdict for each in judge(samples)]
    summary = ", ".join(f"{verdicts.count(verdict)} {verdict}" for verdict in Verdict)
    console.print(f"{out}: targets: {summary}", markup=False)


if __name__ == "__main__":
    main()
