"""`python -m tests.chaos --runs 20 --seed 1`: plays runs, prints what came of them, exits 1 if anything was wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from tests.chaos.campaign import Campaign
from tests.chaos.faults import FAULTS
from tests.chaos.plan import NAMES, derive
from tests.chaos.result import Result, table


@click.command(help="Hurts the real program at random, and judges what came of it.")
@click.option("--runs", default=20, help="How many; their seeds follow each other.")
@click.option("--seed", default=1, help="The first one's.")
@click.option("--replay", type=int, help="This seed, once, and all that happened in it.")
@click.option("--only", type=click.Choice(NAMES), help="One kind of fault instead of all in turn.")
@click.option("--out", type=click.Path(path_type=Path), help="A line of JSON per run is added to this file.")
@click.option("--keep", type=click.Path(path_type=Path), help="The programs' logs go here, by seed.")
def main(runs: int, seed: int, replay: int | None, only: str | None, out: Path | None, keep: Path | None) -> None:
    console = Console(width=None if sys.stdout.isatty() else 160)
    seeds = range(seed, seed + runs) if replay is None else (replay,)
    impossible = {kind.name: why for kind in FAULTS if (why := kind.impossible()) is not None}
    for name, why in impossible.items():
        console.print(f"left out: {name}: {why}")
    plans = [plan for plan in (derive(each, only) for each in seeds) if not plan.kinds & impossible.keys()]

    def tell(result: Result) -> None:
        closed = "still open" if result.closed_s is None else f"{result.outcome} after {result.closed_s:.0f} s"
        verdict = "" if result.struck else " (over before it struck)"
        console.print(f"seed {result.seed}: {result.name}{verdict}: {closed}", highlight=False)
        if replay is not None or result.violations:
            console.print(f"  {result.plan}", *result.happened, sep="\n  ", highlight=False, markup=False)
        for violation in result.violations:
            console.print(f"  {violation.wrong}: {violation.text}", style="red", highlight=False, markup=False)
        if result.violations and replay is None:
            again = f" --only '{only}'" if only else ""
            console.print(f"  again: python -m tests.chaos --replay {result.seed}{again}", highlight=False)
        if out is not None:
            with out.open("a") as file:
                file.write(result.to_json() + "\n")

    results = Campaign(keep).play(plans, tell)
    console.print(table(results))
    raise SystemExit(0 if all(result.recovered for result in results) else 1)


if __name__ == "__main__":
    main()
