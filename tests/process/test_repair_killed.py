"""`icekeeper repair --yes` killed at random instants and given again, while an offload goes on: each row comes once."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from icekeeper.sandbox import Offload, Sandbox, World, WorldSpec
from icekeeper.sandbox.table_shapes import SHAPES
from icekeeper.sandbox.world_spec import to_micros
from tests.conftest import COINBASE, SLOT, write_settings
from tests.process.program import children, document, icekeeper, running, wait_for

# `WORLDS=5 KILLS=10 pytest ...` is the campaign of docs/audit.md: a world is over, too, when all its rows are back.
WORLDS, KILLS = int(os.environ.get("WORLDS", "1")), int(os.environ.get("KILLS", "2"))
DAYS, HOURS_A_DAY = 2, 5
MIDNIGHT = SLOT.replace(hour=0)
KEY = ("symbol", "sequence_number")


def lost_hours() -> list[datetime]:
    return [
        MIDNIGHT - timedelta(days=day) + timedelta(hours=2 + 4 * number)
        for day in range(1, DAYS + 1)
        for number in range(HOURS_A_DAY)
    ]


class GoesOn:
    """An offload whose cycles of the time after the lost days go on, until the block ends."""

    def __init__(self, world: World) -> None:
        self._offload, self._stop, self.cycles = Offload(world), threading.Event(), 0
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        at = SLOT
        while not self._stop.wait(1.0):
            at += timedelta(minutes=15)
            self._offload.run(at=at)
            self.cycles += 1

    def __enter__(self) -> GoesOn:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()


def keys_of_both(world: World) -> tuple[Counter[tuple[Any, ...]], Counter[tuple[Any, ...]]]:
    """The rows of the lost days by key, by ClickHouse and by pyiceberg."""
    shape = SHAPES[COINBASE]
    low, high = MIDNIGHT - timedelta(days=DAYS), MIDNIGHT
    there = world.read(shape, to_micros(low) - 1, to_micros(high) - 1).select([*KEY, "price"])
    table = world.pyiceberg_catalog().load_table(shape.identifier)
    within = f"{shape.timestamp} >= '{low.isoformat()}' AND {shape.timestamp} < '{high.isoformat()}'"
    ours = table.scan(within, selected_fields=(*KEY, "price")).to_arrow().select([*KEY, "price"])
    return tuple(Counter((*(str(row[name]) for name in KEY), row["price"].normalize()) for row in rows.to_pylist())
                 for rows in (there, ours))  # type: ignore[return-value] # fmt: skip


def has_come_to(log: Path, size: int, commits: int, program: Any) -> bool:
    """Whether the program that has written to its log from there on has added rows so many times, or has ended."""
    lines = log.read_bytes()[size:]
    return program.poll() is not None or (b"run_started" in lines and lines.count(b"rows_added") >= commits)


@pytest.mark.long
@pytest.mark.timeout(600 * (1 + KILLS // 4))
@pytest.mark.parametrize("seed", range(1, WORLDS + 1))
def test_killed_again_and_again_it_writes_no_row_twice(box: Sandbox, tmp_path: Path, seed: int) -> None:
    spec = WorldSpec(
        now=SLOT, days=DAYS + 0.2, tables=(COINBASE,), commits_per_day=24, rows_per_file=20, symbols=6, old_snapshots=0,
        lost=tuple((COINBASE, hour) for hour in lost_hours()),
    )  # fmt: skip
    world = box.world(spec)

    def keyed(settings: dict[str, Any]) -> None:
        settings["tables"][0] |= {"audit": {"key": list(KEY)}, "source_ttl": "none"}

    config, log = write_settings(world, tmp_path / "icekeeper.yaml", tmp_path / "state", keyed), tmp_path / "stderr"
    assert icekeeper("migrate", config=config).returncode == 0
    days = (f"{MIDNIGHT - timedelta(days=DAYS):%Y-%m-%d}", f"{MIDNIGHT - timedelta(days=1):%Y-%m-%d}")
    audited = icekeeper("audit", "--from", days[0], "--to", days[1], "--json", config=config, timeout=900)
    found = [one for run in document(audited) for audit in run["audits"] for one in audit["findings"]]
    assert [one["kind"] for one in found] == ["missing"] * len(lost_hours()), audited.stdout
    there, ours = keys_of_both(world)
    assert sum((there - ours).values()) == sum(one["rows"] for one in found)

    chance, killed_at = random.Random(seed), list[tuple[int, float]]()
    with GoesOn(world) as offload:
        while len(killed_at) < KILLS:
            size = log.stat().st_size if log.exists() else 0
            with running("repair", "--yes", config=config, log=log) as program:
                # Near the commits, and not only while Spark warms up.
                commits, after = chance.randrange(4), chance.uniform(0, 4)
                reached = partial(has_come_to, log, size, commits, program)
                wait_for("the run", reached, 300)
                time.sleep(after)
                if program.poll() is None:
                    family = children(program.pid)
                    program.kill()
                    killed_at.append((commits, round(after, 1)))
                    for member in family:
                        member.wait(30)
            there, ours = keys_of_both(world)
            assert not ours - there, f"rows came twice, killed after {killed_at}"
            if program.poll() == 0:
                break
        done = icekeeper("repair", "--yes", "--json", config=config, timeout=900)
        assert offload.cycles > 1
    assert done.returncode == 0, done.stderr
    there, ours = keys_of_both(world)
    assert ours == there
    states = world.postgres.execute(
        world.postgres_database, "SELECT count(*), sum(rows) FROM maintenance_repairs WHERE state = 'repaired'"
    )
    print(f"{len(killed_at)} kills (commits, s after them): {killed_at}; {offload.cycles} cycles; {states}")
