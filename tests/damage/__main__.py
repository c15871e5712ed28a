"""`python -m tests.damage --runs 100 --seed 1`: plays seeds; exits 1 if an audit was wrong."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import click

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.adapters.spark.options import SparkOptions
from icekeeper.core.catalogs.packages import IMAGE_PACKAGES
from icekeeper.sandbox import Sandbox
from icekeeper.settings.systems import Spark
from tests.conftest import SPARK, nights
from tests.damage.campaign import Result, derive, play

# A session keeps the JDBC catalog of each world that it saw, and with it two of PostgreSQL's connections.
SEEDS_A_SESSION = 30


@click.command(help="Damages tables at random, and judges what their audits say of it.")
@click.option("--runs", default=20, help="How many; their seeds follow each other.")
@click.option("--seed", default=1, help="The first one's.")
@click.option("--out", type=click.Path(path_type=Path), help="A line of JSON per run is added to this file.")
def main(runs: int, seed: int, out: Path | None) -> None:
    results = asyncio.run(_play(range(seed, seed + runs), out))
    kinds = Counter(each.kind for result in results for day in result.days for each in day.planted)
    clean = sum(not day.planted for result in results for day in result.days)
    certified = [day for result in results for day in result.days if day.certified]
    later = sum(bool(day.later) for day in certified)
    wrong = sum(len(result.wrong) for result in results)
    for kind, times in sorted(kinds.items()):
        click.echo(f"{times:5} {kind}")
    click.echo(f"{clean:5} days without damage\n{len(certified):5} days certified, {later} of them damaged later")
    click.echo(f"{len(results)} seeds, {wrong} wrong audits or certificates")
    raise SystemExit(1 if wrong else 0)


async def _play(seeds: range, out: Path | None) -> list[Result]:
    results = []
    with tempfile.TemporaryDirectory() as place, Sandbox.start() as box:
        directory = Path(place)
        for first in range(0, len(seeds), SEEDS_A_SESSION):
            async with _session(directory) as engine:
                for plan in map(derive, seeds[first : first + SEEDS_A_SESSION]):
                    # The connections of each night are closed before the next one.
                    async with nights(box, engine, directory) as make_night:
                        result = await play(plan, make_night)
                    results.append(result)
                    _show(result)
                    if out is not None:
                        with out.open("a") as file:
                            file.write(result.to_json() + "\n")
    return results


@asynccontextmanager
async def _session(directory: Path) -> AsyncIterator[SparkEngine]:
    engine = SparkEngine(
        SparkOptions(
            master=Spark(driver_memory="1g").resolved_master,
            driver_memory="1g",
            state_dir=directory / "spark",
            packages=SPARK.get("packages", IMAGE_PACKAGES),
            conf=SPARK["conf"],
        )
    )
    try:
        yield engine
    finally:
        async with asyncio.timeout(timedelta(minutes=1).total_seconds()):
            await engine.stop()


def _show(result: Result) -> None:
    plan = result.plan
    how = f"{plan.proof} and keys" if plan.keyed else plan.proof
    click.echo(f"seed {plan.seed}: {plan.table} by {how}: {'; '.join(map(', '.join, plan.kinds))}")
    for day in result.days:
        for wrong in day.wrong:
            click.secho(f"  {wrong}\n  it said: {day.said}", fg="red")


if __name__ == "__main__":
    main()
