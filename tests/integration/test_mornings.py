"""A week in which rows are lost, come late and expire: what each morning's calendar says is what the days are worth."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from icekeeper.core.audit.records import AuditResult
from icekeeper.core.audit.repair import Way
from icekeeper.core.calendar import Window
from icekeeper.core.enums import Stage, TaskOutcome, Trigger
from icekeeper.core.tables.plan import Plan
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from icekeeper.pages.audited_days import Cell
from icekeeper.sandbox import Offload
from icekeeper.status.audit_schemas import AuditedDay
from tests.conftest import COINBASE, GOLD, SILVER, MakeNight, Night
from tests.damage.scene import KEYS

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
TABLES = (COINBASE, SILVER, GOLD)
FIRST = datetime(2026, 2, 11, 2, 0, tzinfo=UTC)
TTL = timedelta(days=3)


def settings(document: dict[str, Any]) -> None:
    """Gold has no key, and its source merges rows: it is never certified. The source of Coinbase keeps three days."""
    for table in document["tables"]:
        if table["name"] != GOLD:
            key, compare = KEYS[table["name"]]
            table["audit"] = {"key": list(key), "compare": list(compare)}
        if table["name"] == COINBASE:
            table["source_ttl"] = "3d"


def slot_of(day: int) -> datetime:
    """The slot that audits this day of February."""
    return FIRST.replace(day=day + 1)


def day_of(day: int) -> Window:
    start = datetime(2026, 2, day, tzinfo=UTC)
    return Window(start, start + DAY)


class Mornings:
    """The world's days, and what is known of them."""

    def __init__(self, night: Night) -> None:
        self.night = night
        self.offload = Offload(night.world)
        night.world.repair_requests.create()

    async def night_of(self, day: int, lost: Sequence[int] = ()) -> dict[str, AuditResult]:
        """The offload brings the day's rows, of Coinbase none of these hours, and then the night audits it."""
        slot = slot_of(day)
        hours = [day_of(day).start + hour * HOUR for hour in lost]
        for table in TABLES:
            at = slot - timedelta(minutes=15)
            await asyncio.to_thread(self.offload.run, table, at=at, lose=hours if table == COINBASE else ())
        self.night.travel(slot + timedelta(minutes=3))
        report = await self.night.run(Stage.AUDIT, trigger=Trigger.SCHEDULE, slot=slot)
        return {audit.iceberg_table: audit for audit in report.audits}

    async def audit_again(self, table: str, day: int) -> AuditResult:
        (audit,) = (await self.night.run(Stage.AUDIT, tables=(table,), window=day_of(day), slot=self.now)).audits
        return audit

    @property
    def now(self) -> datetime:
        now = self.night.services.ports.clock()
        self.night.travel(now + timedelta(minutes=5))  # each audit has an instant of its own
        return now

    async def repair(self, day: int) -> None:
        stages = (Stage.REPAIR, Stage.AUDIT)
        report = await self.night.run(*stages, tables=(COINBASE,), window=day_of(day), slot=self.now)
        assert report.tasks[0].outcome is TaskOutcome.DONE, report.tasks[0]

    async def repair_by_offload(self, day: int) -> None:
        """As `icekeeper repair --by offload --yes` asks for it; then the offload's next cycle does it."""
        services = self.night.services
        window, stages = day_of(day), (Stage.REPAIR,)
        order = make_order(
            self.night.settings, self.now, Trigger.MANUAL, stages=stages, tables=(COINBASE,), window=window
        )
        (plan,), _ = await make_plans(order, services.ports)
        await self._ask(plan)
        assert await asyncio.to_thread(self.offload.repair) == sum(each.rows for each in plan.repairs)
        await self.audit_again(COINBASE, day)

    async def _ask(self, plan: Plan) -> None:
        services = self.night.services
        (source,) = (policy.source for policy in self.night.settings.policies() if policy.name == COINBASE)
        assert source is not None
        findings = {one.id: one for one in await services.repairs.findings(COINBASE, plan.window or day_of(12))}
        for each in plan.repairs:
            assert await services.repairs.claim(COINBASE, findings[each.finding_id], None, Way.OFFLOAD) is None
            await services.repair_requests.request(COINBASE, source, each)

    async def words(self, table: str) -> dict[int, str]:
        """The calendar of a table: the word of each day that was audited."""
        rows = await self.night.services.history.days([table], day_of(10).start)
        cells = [Cell(row["day"], AuditedDay.model_validate(row)) for row in rows]
        return {cell.day.day: cell.word for cell in cells}

    async def expires(self) -> datetime | None:
        """When ClickHouse begins to drop rows of a day of Coinbase that is not certified."""
        now = self.night.services.ports.clock()
        return (await self.night.services.certificates.of_tables([COINBASE], now))[COINBASE].expires

    def drop_expired(self) -> None:
        world, limit = self.night.world, self.night.services.ports.clock() - TTL
        statement = f"ALTER TABLE bronze_trades_coinbase DELETE WHERE exchange_timestamp < '{limit:%Y-%m-%d %H:%M:%S}'"
        world.clickhouse.execute(statement, database=world.clickhouse_database, settings={"mutations_sync": 1})


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_each_morning_the_calendar_says_what_the_days_are_worth(make_night: MakeNight) -> None:
    night = await make_night(
        *TABLES, change=settings, now=FIRST - HOUR, days=1.25, commits_per_day=8, files_per_commit=1,
        rows_per_file=60, old_snapshots=0,
    )  # fmt: skip
    week = Mornings(night)

    await week.night_of(10)
    assert await week.words(COINBASE) == await week.words(SILVER) == {10: "certified"}
    assert await week.words(GOLD) == {10: "ok"}
    assert await week.expires() is None

    # The offload loses two hours, and icekeeper brings them back in the morning.
    await week.night_of(11, lost=(9, 10))
    assert await week.words(COINBASE) == {10: "certified", 11: "missing_data"}
    assert await week.expires() == day_of(11).start + TTL
    await week.repair(11)
    assert await week.words(COINBASE) == {10: "certified", 11: "certified"}
    assert await week.expires() is None

    # The same once more, and an offload that repairs is asked for them.
    await week.night_of(12, lost=(4, 5))
    assert (await week.words(COINBASE))[12] == "missing_data"
    await week.repair_by_offload(12)
    assert (await week.words(COINBASE))[12] == "certified"

    # Rows come late, behind the watermark: the certificate ends when they are seen.
    await week.night_of(13)
    await asyncio.to_thread(night.world.late_rows, SILVER, day_of(13).start + 10 * HOUR, 5)
    assert (await week.words(SILVER))[13] == "certified"
    late = await week.audit_again(SILVER, 13)
    assert late.delta == -5
    assert (await week.words(SILVER))[13] == "warning"
    assert await week.words(SILVER) == {10: "certified", 11: "certified", 12: "certified", 13: "warning"}

    # Two hours are lost and not repaired, until ClickHouse drops its rows: two days before, it is known when.
    await week.night_of(14, lost=(15, 16))
    await week.night_of(15)
    assert await week.expires() == day_of(14).start + TTL
    await week.night_of(16)
    week.drop_expired()
    again = await week.audit_again(COINBASE, 14)
    assert (again.status, again.reason) == ("error", "source_expired")
    # What is certified stays so, whatever ClickHouse still holds.
    assert (await week.audit_again(COINBASE, 11)).status == "error"
    assert await week.words(COINBASE) == {
        10: "certified", 11: "certified", 12: "certified", 13: "certified", 14: "missing_data", 15: "certified",
        16: "certified",
    }  # fmt: skip
    assert set((await week.words(GOLD)).values()) == {"ok"}
