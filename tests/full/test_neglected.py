"""Tables that nobody has looked after for a month: 40,000 files, worked off by the real program with a small heap.

Not among the tests of every run (`make test-full`): the worlds alone take minutes to build. They are kept in .cache.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from icekeeper.sandbox import Sandbox, World, WorldSpec
from tests.conftest import COINBASE, SLOT, write_settings
from tests.process.program import children, document, icekeeper, running

pytestmark = [pytest.mark.full, pytest.mark.timeout(3600)]

CACHE = Path(__file__).parents[2] / ".cache" / "worlds"
MIB = 1024**2
# The heap, what a JVM needs beside it (code, threads, S3's buffers), and no more.
HEAP_MIB, BESIDE_MIB, PYTHON_MIB = 1024, 600, 300


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """30 days of 15-minute commits, 14 files each: 2,880 snapshots and manifests, 40,320 files."""
    spec = WorldSpec(
        now=SLOT, days=30, name="neglected", tables=(COINBASE,), files_per_commit=14, rows_per_file=10,
        symbols=34, old_snapshots=0,
    )  # fmt: skip
    with Sandbox.from_cache(CACHE, spec) as box:
        yield box.worlds["neglected"]


@dataclass(frozen=True)
class Watched:
    """A run of the program: its report, how long it took, and its memory once a second as (seconds, JVM, Python)."""

    report: dict[str, Any]
    seconds: float
    memory: list[tuple[float, int, int]]

    def show(self, title: str) -> None:
        jvm, python = max(line[1] for line in self.memory), max(line[2] for line in self.memory)
        print(f"\n{title}: {self.seconds:.0f} s, peak JVM {jvm} MiB, Python {python} MiB")
        for task in self.report["tasks"]:
            before, after = task["before"] or {}, task["after"] or {}
            print(
                f"  {task['stage']} {task['outcome']} {task['reason'] or ''} {task['duration_s']:.0f} s, "
                f"files {before.get('data_files')} -> {after.get('data_files')}, "
                f"snapshots {before.get('snapshots')} -> {after.get('snapshots')}: {task['note']}"
            )
        every = max(1, len(self.memory) // 30)
        print("  memory (s: JVM/Python MiB): " + ", ".join(f"{t:.0f}: {j}/{p}" for t, j, p in self.memory[::every]))


def night(config: Path, directory: Path, *stages: str) -> Watched:
    """`icekeeper run` on the stages, watched."""
    out, log, began = directory / "report.json", directory / "stderr", time.monotonic()
    memory: list[tuple[float, int, int]] = []
    chosen = [word for stage in stages for word in ("--stage", stage)]
    arguments = ("run", "--slot", SLOT.isoformat(), "--json", *chosen)
    with running(*arguments, config=config, log=log, out=out) as process:
        program = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                jvm = sum(child.memory_info().rss for child in children(process.pid))
                memory.append((time.monotonic() - began, jvm // MIB, program.memory_info().rss // MIB))
            except psutil.NoSuchProcess:
                pass
            time.sleep(1)
    assert out.read_text(), log.read_text()[-3000:]
    return Watched(json.loads(out.read_text()), time.monotonic() - began, memory)


def settings(world: World, directory: Path, **blocks: Any) -> Path:
    """The world's settings with icekeeper's own limits: a small heap is all that is asked of it."""
    path = write_settings(world, directory / "icekeeper.yaml", directory / "state")
    changed = yaml.safe_load(path.read_text())
    changed["spark"] = {"driver_memory": f"{HEAP_MIB}m"}
    path.write_text(yaml.safe_dump({**changed, **blocks}))
    assert icekeeper("migrate", config=path).returncode == 0
    return path


def test_a_neglected_table_reaches_its_shape_in_bounded_nights(world: World, tmp_path: Path) -> None:
    config = settings(world, tmp_path)  # default timeouts; what a deadline cuts off, the next night goes on with
    (table,) = world.spec.tables
    rows, files, nights = world.rows_iceberg(table), 40_320, 0
    while True:
        done = night(config, tmp_path, "compact")
        done.show(f"{table}, night {nights + 1}")
        (task,) = done.report["tasks"]
        assert task["reason"] in (None, "deadline", "too_few_files", "nothing_small"), task["error"]
        assert world.rows_iceberg(table) == rows
        left = task["after"]["data_files"]
        if task["outcome"] == "skipped":
            break
        assert left < files, "a night that finishes nothing would go on for ever"
        assert max(line[1] for line in done.memory) < HEAP_MIB + BESIDE_MIB
        assert max(line[2] for line in done.memory) < PYTHON_MIB
        files, nights = left, nights + 1
    assert nights <= 3
    assert left <= 4 * 31

    done = night(config, tmp_path, "expire")
    done.show(f"{table}, expiry")
    (task,) = done.report["tasks"]
    assert task["outcome"] == "done", task["error"]
    assert task["after"]["snapshots"] < 2_880 - 2_000
    assert world.rows_iceberg(table) == rows

    quiet = icekeeper("run", "--slot", SLOT.isoformat(), "--stage", "compact", "--json", config=config)
    (task,) = document(quiet)["tasks"]
    assert task["outcome"] == "skipped"
    assert task["duration_s"] < 30, "a table in its shape is known by its metadata, in a JVM just started"
