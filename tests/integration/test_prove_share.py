"""What the comparison of content costs a night: nights of the same rewrites with and without it, in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import psutil
import pytest

from icekeeper.adapters.iceberg.warm_up import warm_up
from icekeeper.core.enums import Stage, TaskOutcome, Trigger
from icekeeper.core.tables.content import Content
from icekeeper.execution.execute import make_order
from icekeeper.execution.standalone import run_standalone
from tests.conftest import COINBASE, SLOT, MakeNight, Night
from tests.integration.odd import Odd, create, insert

TABLES = tuple(f"cold.share{number}" for number in range(5))
NIGHTS = 8
SHARE = Decimal(10)
ROWS = (
    "id, concat('s', id % 300), CAST(id * 7919 % 1000003 / 256D AS DECIMAL(38, 8)), "
    "CAST(id * 104729 % 999983 / 256D AS DECIMAL(38, 8)), timestamp'2026-02-10' + make_interval(0, 0, 0, int(id % 2))"
)
SCHEMA = "id BIGINT, symbol STRING, price DECIMAL(38, 8), quantity DECIMAL(38, 8), ts TIMESTAMP"


@dataclass
class Cost:
    """Of some nights: the CPU of Spark's JVM and ours (s), the time of their compactions (s), how many rewrites, and in
    how many of them content was compared to the end."""

    cpu: float = 0.0
    seconds: float = 0.0
    rewrites: int = 0
    compared: int = 0


@dataclass
class Timed:
    """The adapter's reading of content, and how long it took each time (s)."""

    read: Any
    taken: list[float]

    async def __call__(
        self, table: str, snapshot_id: int, partitions: Sequence[str], by_column: bool, timeout: timedelta
    ) -> Content:
        began = time.monotonic()
        try:
            return await self.read(table, snapshot_id, partitions, by_column, timeout)  # type: ignore[no-any-return]
        finally:
            self.taken.append(time.monotonic() - began)


def cpu_s(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def one_night(night: Night, percent: Decimal, cost: Cost, heads: dict[str, int], slot: datetime) -> None:
    """Rewrites all tables, and takes that back."""
    processes = [psutil.Process(), psutil.Process(night.services.engine.jvm_pid)]
    order = make_order(night.settings, slot, Trigger.MANUAL, stages=(Stage.COMPACT,))
    policies = tuple(replace(one, compact=replace(one.compact, prove_pct=percent)) for one in order.tables)
    before = cpu_s(processes)
    done = await run_standalone(night.services, replace(order, tables=policies), night.events.append)
    cost.cpu += cpu_s(processes) - before
    for task in done.report.tasks:
        assert (task.outcome, task.error) == (TaskOutcome.DONE, None)
        assert "rewrote" in task.note
        cost.seconds += task.duration_s
        cost.rewrites += 1
        cost.compared += "is the same" in task.note
    for table, head in heads.items():
        await night.sql(f"CALL {{c}}.system.rollback_to_snapshot('{table}', {head})")


@pytest.mark.full
@pytest.mark.timeout(1800)
async def test_comparing_content_takes_no_more_than_its_share(
    make_night: MakeNight, monkeypatch: pytest.MonkeyPatch
) -> None:
    def only_these(document: dict[str, Any]) -> None:
        document["tables"] = [{"name": table, "compact": {"min_input_files": 2}} for table in TABLES]

    night = await make_night(COINBASE, old_snapshots=0, days=0.25, commits_per_day=4, change=only_these)
    for table in TABLES:
        await create(night, table, Odd((insert(ROWS, rows=100_000, files=12),), SCHEMA, "PARTITIONED BY (days(ts))"))
    heads = {table: (await night.state(table)).health.snapshot_id or 0 for table in TABLES}
    timed = Timed(night.services.lakehouse.content, [])
    monkeypatch.setattr(night.services.lakehouse, "content", timed)

    await warm_up(night.services.engine, lambda: True)  # as a daemon has it
    await one_night(night, Decimal(0), Cost(), heads, SLOT)
    without, with_share = Cost(), Cost()
    for number in range(NIGHTS):
        for percent, cost in [(Decimal(0), without), (SHARE, with_share)][:: -1 if number % 2 else 1]:
            await one_night(night, percent, cost, heads, SLOT + number * timedelta(days=1))

    read = sum(timed.taken)
    print(
        f"{with_share.rewrites} rewrites, {with_share.compared} of them compared, {len(timed.taken)} tried: "
        f"{', '.join(f'{taken:.1f}' for taken in timed.taken)} s, "
        f"{read / (with_share.seconds - read):.1%} of the {with_share.seconds - read:.1f} s of the rest; "
        f"without: {without.seconds:.1f} s; CPU {with_share.cpu:.1f} s and {without.cpu:.1f} s: "
        f"{with_share.cpu / without.cpu:.3f} times"
    )
    assert with_share.compared, "nothing was compared"
    assert read <= float(SHARE / 100) * (with_share.seconds - read), "more than its share"
