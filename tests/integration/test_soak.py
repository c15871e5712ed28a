"""Night after night in one process and one session: memory stays where it is. `make soak` plays 200 and draws them."""

from __future__ import annotations

import asyncio
import gc
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from icekeeper.adapters.spark.engine import SparkEngine
from icekeeper.core.enums import RunOutcome, Stage, TaskOutcome
from icekeeper.sandbox.offload import Offload
from tests.conftest import COINBASE, MakeNight, outcomes

MIB = 1024**2
FEW, MANY = 6, int(os.environ.get("NIGHTS", "200"))
# A JVM takes what its heap allows before it collects: what it may grow by after the first nights.
JVM_ROOM_MIB, PYTHON_ROOM_MIB = 200, 25


async def nights(make_night: MakeNight, engine: SparkEngine, many: int) -> list[tuple[float, float]]:
    """Runs so many nights, each after a day of commits; MiB of the Python process and of the JVM after each."""

    def short(document: dict[str, Any]) -> None:
        document["expire"] = {"older_than": "1h"}

    def ahead() -> datetime:
        # A compaction's snapshots are stamped by the JVM's clock, which is not ours to set. By this one they are an
        # hour old when the next night comes, and are expired.
        return datetime.now(UTC) + timedelta(hours=1)

    first = datetime.now(UTC).replace(hour=2, minute=0, second=0, microsecond=0) - timedelta(days=many + 30)
    night = await make_night(COINBASE, change=short, clock=ahead, now=first, days=1, commits_per_day=6, old_snapshots=0)
    offload, python, seen = Offload(night.world), psutil.Process(), []
    for number in range(1, many + 1):
        await asyncio.to_thread(offload.advance, first + timedelta(days=number))
        report = await night.run(slot=ahead().replace(microsecond=0))
        assert report.outcome is RunOutcome.SUCCESS
        assert outcomes(report, Stage.COMPACT) == {COINBASE: TaskOutcome.DONE}
        night.events.clear()
        gc.collect()
        jvm = psutil.Process(engine.jvm_pid)
        seen.append((python.memory_info().rss / MIB, jvm.memory_info().rss / MIB))
    return seen


@pytest.mark.long
async def test_a_few_nights_leave_memory_where_it_was(make_night: MakeNight, engine: SparkEngine) -> None:
    seen = await nights(make_night, engine, FEW)
    settled = seen[FEW // 2]
    assert seen[-1][0] - settled[0] < PYTHON_ROOM_MIB
    assert seen[-1][1] - settled[1] < JVM_ROOM_MIB


@pytest.mark.full
@pytest.mark.timeout(7200)
async def test_two_hundred_nights_leave_memory_where_it_was(
    make_night: MakeNight, engine: SparkEngine, tmp_path: Path
) -> None:
    seen = await nights(make_night, engine, MANY)
    await asyncio.to_thread(Path(os.environ.get("SOAK_OUT", tmp_path / "soak.md")).write_text, drawn(seen))
    settled = seen[len(seen) // 4]
    assert max(python for python, _ in seen) - settled[0] < PYTHON_ROOM_MIB
    assert max(jvm for _, jvm in seen) - settled[1] < JVM_ROOM_MIB


def drawn(seen: list[tuple[float, float]], points: int = 25) -> str:
    """A page of Markdown with a chart, as docs/soak.md."""
    every = max(len(seen) // points, 1)
    chosen = [number for number in range(1, len(seen) + 1) if number == 1 or number % every == 0]
    python = [round(seen[number - 1][0]) for number in chosen]
    jvm = [round(seen[number - 1][1]) for number in chosen]
    quarter = len(seen) // 4
    growth = [max(one[part] for one in seen) - seen[quarter][part] for part in (0, 1)]
    return "\n".join(
        [
            f"# {len(seen)} nights",
            "",
            "One process and one Spark session, a heap of 1 GiB, run night after night (compact, expire, audit) on a",
            "small table to which the offload has brought a day before each. Resident memory after each night, as",
            "`make soak` drew it. The most that either grew by after the first quarter:",
            f"Python {growth[0]:.0f} MiB, the JVM {growth[1]:.0f} MiB.",
            "",
            "```mermaid",
            "xychart-beta",
            '  title "MiB after each night: the JVM (upper) and Python (lower)"',
            f'  x-axis "night" {chosen}',
            f'  y-axis "MiB" 0 --> {-(-max(jvm + python) // 100) * 100}',
            f"  line {jvm}",
            f"  line {python}",
            "```",
            "",
        ]
    )
