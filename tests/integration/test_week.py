"""A week of the platform by its clock: an offload every quarter hour, icekeeper in its slot, a local Hadoop catalog."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, TaskOutcome, Trigger
from icekeeper.core.notifications import PastSlot, occasion_of
from icekeeper.core.reasons import Reason
from icekeeper.core.runs import RunReport
from icekeeper.doctor import Level
from icekeeper.doctor.offload import examine_offload
from icekeeper.sandbox import TABLES, Offload, OffloadClock
from icekeeper.sandbox.hadoop_catalog import HadoopCatalog
from icekeeper.status.gauges import DaemonState
from icekeeper.status.metrics import Metrics
from icekeeper.status.problems import Facts, problems
from tests.conftest import COINBASE, SILVER, MakeNight, Night

HOURLY, DAILY = "cold.gold_ohlcv_1h", "cold.gold_ohlcv_1d"
# The default slot, which falls on the begin of a cycle.
SLOTS = tuple(datetime(2026, 2, day, 2, 0, tzinfo=UTC) for day in range(11, 18))
# The clock begins before the first day that is audited.
BUILT = SLOTS[0] - timedelta(hours=27)
SHORT = (COINBASE, SILVER, HOURLY, DAILY)
ALL = tuple(shape.iceberg for shape in TABLES)
# Where a table has too little to compact: what the plan says then.
NOTHING_TO_DO = {Reason.TOO_FEW_FILES, Reason.NOTHING_SMALL}


class Week:
    """The world's days: cycles of the offload, and nights among them."""

    def __init__(self, night: Night) -> None:
        self.clock = OffloadClock(Offload(night.world), BUILT)
        self._night = night
        self._metrics = Metrics(lambda: night.world.spec.tables)
        self._past: list[PastSlot] = []
        ports = replace(night.services.ports, clock=self.clock.now, sleep=self._sleep)
        night.services = replace(night.services, ports=ports)

    async def _sleep(self, seconds: float) -> None:
        """Time passes only while icekeeper waits; the offload goes on meanwhile."""
        await asyncio.to_thread(self.clock.move, self.clock.now() + timedelta(seconds=seconds))

    async def day_before(self, slot: datetime) -> None:
        """The day's rows in few cycles, and the last half hour's one by one."""
        for hours in (14, 7, 0.5):
            await asyncio.to_thread(self.clock.skip, max(BUILT, slot - timedelta(hours=hours)))
        await asyncio.to_thread(self.clock.move, slot)

    async def night(self, slot: datetime) -> RunReport:
        report = await self._night.run(trigger=Trigger.SCHEDULE, slot=slot)
        catalog = self._night.world.catalog
        assert isinstance(catalog, HadoopCatalog)
        for shape in self._night.world.spec.shapes:
            await asyncio.to_thread(catalog.restamp, shape, self.clock.now())
        return report

    def alarms(self, report: RunReport) -> Iterator[object]:
        """What an operator is sent or shown after the night."""
        for event in self._night.events:
            self._metrics.observe(event)
        self._night.events.clear()
        if (occasion := occasion_of(report.trigger, report.outcome, self._past)) is not None:
            yield occasion
        self._past.insert(0, PastSlot(report.slot, report.outcome))
        state = DaemonState(policies=self._night.settings.policies())
        yield from problems(Facts(state, self._metrics.history, {}, running=False), self.clock.now())

    async def doubts(self) -> list[str]:
        """What the doctor has to say of the offload."""
        checks = await examine_offload(self._night.services, self._night.settings.policies())
        return [check.text for check in checks if check.level is not Level.OK]


def troubled(audit: AuditResult) -> bool:
    return audit.status is not AuditStatus.OK or audit.reason is not None


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("tables", [SHORT, pytest.param(ALL, marks=pytest.mark.full)], ids=["four tables", "all"])
async def test_a_week_of_the_platform_compacts_every_night_and_loses_nothing(
    make_night: MakeNight, tables: tuple[str, ...]
) -> None:
    # The days bring their own commits; before them there are some hours, and snapshots that have to expire.
    few: dict[str, Any] = {"files_per_commit": None, "rows_per_file": 1, "symbols": 3, "old_snapshots": 4}
    night = await make_night(*tables, catalog="hadoop", now=BUILT, days=0.25, commits_per_day=96, **few)
    week = Week(night)
    worked = set()
    for slot in SLOTS:
        await week.day_before(slot)
        left_over = night.ledger("SELECT table_name FROM offload_watermarks WHERE status = 'running'")
        assert {("ohlcv_1h",), ("ohlcv_1d",)} <= set(left_over), "the last cycle brought no candle"

        report = await week.night(slot)

        assert report.outcome is RunOutcome.SUCCESS, [task.error for task in report.tasks if task.error]
        assert [task for task in report.tasks if task.outcome is TaskOutcome.HELD] == []
        compacted = {task.table: task for task in report.tasks if task.stage is Stage.COMPACT}
        idle = {table: task.reason for table, task in compacted.items() if task.outcome is TaskOutcome.SKIPPED}
        assert set(idle) <= {DAILY}, idle
        assert set(idle.values()) <= NOTHING_TO_DO
        assert [(audit.iceberg_table, audit.notes) for audit in report.audits if troubled(audit)] == []
        # The cycle that begins with the slot has ended first; the next one had not to be waited for.
        assert timedelta(seconds=20) <= week.clock.now() - slot < timedelta(minutes=15)
        assert list(week.alarms(report)) == []
        assert await week.doubts() == []
        worked |= {(task.stage, task.table) for task in report.tasks if task.outcome is TaskOutcome.DONE}
        await asyncio.to_thread(week.clock.move, slot + timedelta(minutes=31))
        assert await week.doubts() == []

    assert worked >= {(Stage.COMPACT, table) for table in tables}
    assert worked >= {(Stage.EXPIRE, table) for table in tables if table != DAILY}
    for table in tables:
        end = night.world.traded_until()
        rows = night.world.rows_iceberg(table, BUILT, end)
        assert rows == night.world.rows_clickhouse(table, BUILT, end) > 0, table
