"""`python -m tests.damage --runs 100 --seed 1`: plays seeds; exits 1 if an audit was wrong."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from datetime import timedelta
from pathlib import Path

import click

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.sandbox import Sandbox
from icekeeper.settings.model import DEFAULT_PACKAGES
from tests.conftest import SPARK, nights
from tests.damage.campaign import Result, derive, play


@click.command(help="Damages tables at random, and judges what their audits say of it.")
@click.option("--runs", default=20, help="How many; their seeds follow each other.")
@click.option("--seed", default=1, help="The first one's.")
@click.option("--out", type=click.Path(path_type=Path), help="A line of JSON per run is added to this file.")
def main(runs: int, seed: int, out: Path | None) -> None:
    results = asyncio.run(_play(range(seed, seed + runs), out))
    kinds = Counter(each.kind for result in results for day in result.days for each in day.planted)
    clean = sum(not day.planted for result in results for day in result.days)
    wrong = sum(len(result.wrong) for result in results)
    for kind, times in sorted(kinds.items()):
        click.echo(f"{times:5} {kind}")
    click.echo(f"{clean:5} days without damage\n{len(results)} seeds, {wrong} wrong audits")
    raise SystemExit(1 if wrong else 0)


async def _play(seeds: range, out: Path | None) -> list[Result]:
    results = []
    with tempfile.TemporaryDirectory() as place, Sandbox.start() as box:
        directory = Path(place)
        engine = SparkEngine(
            SparkOptions(
                master="local[2]",
                driver_memory="1g",
                state_dir=directory / "spark",
                packages=SPARK.get("packages", DEFAULT_PACKAGES),
                conf=SPARK["conf"],
            )
        )
        try:
            for plan in map(derive, seeds):
                # The connections of each night are closed before the next one.
                async with nights(box, engine, directory) as make_night:
                    result = await play(plan, make_night)
                results.append(result)
                _show(result)
                if out is not None:
                    with out.open("a") as file:
                        file.write(result.to_json() + "\n")
        finally:
            async with asyncio.timeout(timedelta(minutes=1).total_seconds()):
                await engine.stop()
    return results


def _show(result: Result) -> None:
    plan = result.plan
    how = f"{plan.proof} and keys" if plan.keyed else plan.proof
    click.echo(f"seed {plan.seed}: {plan.table} by {how}: {'; '.join(map(', '.join, plan.kinds))}")
    for day in result.days:
        for wrong in day.wrong:
            click.secho(f"  {wrong}\n  it said: {day.said}", fg="red")


if __name__ == "__main__":
    main()
