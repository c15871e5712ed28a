"""Nights that audit the days before their own again, on real parts: a late loss, its end, a TTL, a death in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from icekeeper.adapters.spool.spool import Spool
from icekeeper.core.audit.certificates import CertifiedBy, Uncertified
from icekeeper.core.audit.records import AuditResult
from icekeeper.core.enums import AuditStatus, RunOutcome, Stage, Trigger
from icekeeper.core.events import Event, OlderDayAudited
from icekeeper.core.resuming import earlier_work
from icekeeper.core.runs import RunReport
from icekeeper.execution.execute import make_order
from icekeeper.execution.plans import make_plans
from icekeeper.execution.recording import settle_unfinished
from icekeeper.execution.standalone import run_standalone
from icekeeper.sandbox import Offload
from tests.conftest import BINANCE, COINBASE, SILVER, MakeNight, Night
from tests.damage.scene import KEYS

DAY, HOUR = timedelta(days=1), timedelta(hours=1)
# The slot of the first night; it audits the 14th, and looks back at the 13th, 12th and 11th.
FIRST = datetime(2026, 2, 15, 2, tzinfo=UTC)
SAME_FILES = "the same files"


class Death(BaseException):
    """Nothing of the run comes after it, not even its end."""


def look_back(document: dict[str, Any]) -> None:
    """Coinbase's rows stay in ClickHouse; Silver's for three days, of which the oldest has begun to expire by 02:00."""
    document["audit"] = {"lookback": "3d", "retries": 0}
    for table in document["tables"]:
        key, compare = KEYS[table["name"]]
        table["audit"] = {"key": list(key), "compare": list(compare)}
        table["source_ttl"] = "none" if table["name"] == COINBASE else "3d"


def of_day(audits: RunReport, table: str, day: int) -> AuditResult:
    (found,) = [one for one in audits.audits if (one.iceberg_table, one.window_start.day) == (table, day)]
    return found


def audited(report: RunReport, table: str) -> dict[int, tuple[AuditStatus, bool | None]]:
    """By the day of February."""
    return {one.window_start.day: (one.status, one.worse) for one in report.audits if one.iceberg_table == table}


def hours_of(day: int) -> str:
    return (
        f"exchange_timestamp >= timestamp'2026-02-{day} 09:00:00 UTC' "
        f"AND exchange_timestamp < timestamp'2026-02-{day} 12:00:00 UTC'"
    )


async def traded(night: Night, slot: datetime) -> None:
    """The offload has brought what was traded until the night, which begins now."""
    for table in (COINBASE, SILVER):
        await asyncio.to_thread(Offload(night.world).run, table, at=slot - timedelta(minutes=15))
    night.travel(slot + timedelta(minutes=3))


async def night_of(night: Night, slot: datetime) -> RunReport:
    await traded(night, slot)
    return await night.run(Stage.AUDIT, trigger=Trigger.SCHEDULE, slot=slot)


async def is_certified(night: Night, table: str, day: int) -> CertifiedBy | Uncertified | None:
    found = await night.services.certificates.day(table, date(2026, 2, day))
    return found.uncertified or (None if found.certificate is None else found.certificate.by)


@pytest.mark.timeout(600)
@pytest.mark.long
async def test_a_late_loss_is_found_alerts_once_and_is_over_when_its_rows_are_back(make_night: MakeNight) -> None:
    night = await make_night(
        COINBASE, SILVER, change=look_back, now=FIRST - HOUR, days=4.25, commits_per_day=8, files_per_commit=1,
        rows_per_file=60, old_snapshots=0,
    )  # fmt: skip
    ok, missing = AuditStatus.OK, AuditStatus.MISSING_DATA

    # The first night: no older day has a verdict.
    first = await night_of(night, FIRST)
    assert first.outcome is RunOutcome.SUCCESS
    assert audited(first, COINBASE) == {14: (ok, None), 11: (ok, False), 12: (ok, False), 13: (ok, False)}
    assert audited(first, SILVER) == {14: (ok, None), 13: (ok, False)}, "of the 12th rows have expired"
    assert await is_certified(night, COINBASE, 13) is CertifiedBy.KEYS
    assert await is_certified(night, SILVER, 13) is CertifiedBy.KEYS
    order = make_order(night.settings, FIRST + DAY, Trigger.SCHEDULE, stages=(Stage.AUDIT,), tables=(COINBASE,))
    (plan,), _ = await make_plans(order, night.services.ports)
    assert "after all tables 3 older days again, from 2026-02-12 on" in plan.note

    # Nothing has changed: no older day is read again.
    second = await night_of(night, FIRST + DAY)
    assert second.outcome is RunOutcome.SUCCESS
    for day in (12, 13, 14):
        again = of_day(second, COINBASE, day)
        assert SAME_FILES in again.notes
        assert again.key_comparison == of_day(first, COINBASE, day).key_comparison
        assert again.iceberg_row_count == of_day(first, COINBASE, day).iceberg_row_count
    assert SAME_FILES not in of_day(second, COINBASE, 15).notes

    # Three days lose rows; so does a day of which the source has dropped some.
    (before,) = await night.sql(
        f"SELECT snapshot_id FROM {{c}}.{COINBASE}.snapshots ORDER BY committed_at DESC LIMIT 1"
    )
    for day in (13, 14, 15):
        await night.sql(f"DELETE FROM {{c}}.{COINBASE} WHERE {hours_of(day)}")
    await night.sql(f"DELETE FROM {{c}}.{SILVER} WHERE timestamp < timestamp'2026-02-14 00:00:00 UTC'")
    third = await night_of(night, FIRST + 2 * DAY)
    assert third.outcome is RunOutcome.FAILED
    assert audited(third, COINBASE) == {16: (ok, None), **dict.fromkeys((13, 14, 15), (missing, True))}
    assert audited(third, SILVER) == {16: (ok, None), 15: (ok, False)}
    assert await is_certified(night, COINBASE, 13) is Uncertified.REVOKED
    assert await is_certified(night, SILVER, 13) is CertifiedBy.KEYS

    # The rows of the 15th come back; the 14th is known.
    await night.sql(
        f"INSERT INTO {{c}}.{COINBASE} SELECT * FROM {{c}}.{COINBASE} VERSION AS OF {before[0]} WHERE {hours_of(15)}"
    )
    fourth = await night_of(night, FIRST + 3 * DAY)
    assert fourth.outcome is RunOutcome.SUCCESS
    assert audited(fourth, COINBASE) == {17: (ok, None), 16: (ok, False), 15: (ok, False), 14: (missing, False)}
    assert await is_certified(night, COINBASE, 15) is CertifiedBy.KEYS
    assert await is_certified(night, COINBASE, 14) is Uncertified.REVOKED

    await killed_between_windows_and_resumed(night, FIRST + 4 * DAY)


async def killed_between_windows_and_resumed(night: Night, slot: datetime) -> None:
    """A row for each window, whichever of the two runs has counted it."""
    await traded(night, slot)

    def dies(event: Event) -> None:
        if isinstance(event, OlderDayAudited):
            raise Death

    order = make_order(night.settings, slot, Trigger.SCHEDULE, stages=(Stage.AUDIT,))
    with pytest.raises(Death):
        await run_standalone(night.services, order, dies)
    spool = await Spool.open(night.settings.state_dir)
    try:
        await settle_unfinished(spool, night.services.ports.clock)
        runs = await spool.slot_runs(slot)
    finally:
        await spool.close()
    assert [(run.outcome, len(run.audits)) for run in runs] == [(RunOutcome.INTERRUPTED, 3)], "both own days, and one"

    again = make_order(night.settings, slot, Trigger.RESUME, stages=(Stage.AUDIT,), earlier=earlier_work(runs))
    done = await run_standalone(night.services, again, night.events.append)
    assert done.not_shipped is None
    assert done.report.outcome is RunOutcome.SUCCESS
    assert done.report.tasks == ()
    rows = night.ledger("SELECT run_id, iceberg_table, window_start FROM maintenance_audit_log WHERE slot = $1", slot)
    assert Counter((table, start.day) for _, table, start in rows) == Counter(
        [(COINBASE, day) for day in (15, 16, 17, 18)] + [(SILVER, day) for day in (17, 18)]
    )
    assert Counter(str(run_id) for run_id, *_ in rows) == {str(order.run_id): 3, str(again.run_id): 3}


class SparkJobs:
    """How many jobs Spark has started for each older day's audit, seen as the run's events come."""

    def __init__(self, context: Any) -> None:
        self._context, self._before, self.of_day = context, 0, dict[tuple[str, int], int]()

    def observe(self, event: Event) -> None:
        jobs = int(self._context._jsc.sc().dagScheduler().numTotalJobs())
        if isinstance(event, OlderDayAudited):
            day = event.audit.window_start.day
            self.of_day[event.audit.iceberg_table, day] = jobs - self._before
        self._before = jobs


@pytest.mark.timeout(600)
async def test_days_whose_files_a_compaction_has_rewritten_are_read_again_unless_their_rows_were_compared(
    make_night: MakeNight,
) -> None:
    def proven_and_not(document: dict[str, Any]) -> None:
        document["audit"] = {"lookback": "2d", "retries": 0}
        for table in document["tables"]:
            key, compare = KEYS[COINBASE]  # Binance's rows have the same columns
            table |= {"audit": {"key": list(key), "compare": list(compare)}, "source_ttl": "none"}
            table["compact"] = {"min_input_files": 2, "prove": "100 %" if table["name"] == COINBASE else "off"}

    night = await make_night(
        COINBASE, BINANCE, change=proven_and_not, now=FIRST - HOUR, days=2.25, commits_per_day=4, files_per_commit=1,
        rows_per_file=30, old_snapshots=0,
    )  # fmt: skip
    context = await night.services.engine.run(lambda spark: spark.sparkContext, timeout=timedelta(minutes=1))

    async def audited_at(slot: datetime, *stages: Stage) -> tuple[RunReport, dict[tuple[str, int], int]]:
        for table in (COINBASE, BINANCE):
            await asyncio.to_thread(Offload(night.world).run, table, at=slot - timedelta(minutes=15))
        night.travel(slot + timedelta(minutes=3))
        night.services.ports.proofs.saved = HOUR
        jobs = SparkJobs(context)
        order = make_order(night.settings, slot, Trigger.SCHEDULE, stages=stages)
        done = await run_standalone(night.services, order, jobs.observe)
        assert (done.not_shipped, done.report.outcome) == (None, RunOutcome.SUCCESS), done.report
        return done.report, jobs.of_day

    _, jobs = await audited_at(FIRST, Stage.AUDIT)
    assert all(jobs.values())

    second, jobs = await audited_at(FIRST + DAY, Stage.AUDIT)
    assert jobs == {(table, day): 0 for table in (COINBASE, BINANCE) for day in (13, 14)}
    before = {(one.iceberg_table, one.window_start.day): one for one in second.audits}

    third, jobs = await audited_at(FIRST + 2 * DAY, Stage.COMPACT, Stage.AUDIT)
    notes = {task.table: task.note for task in third.tasks if task.stage is Stage.COMPACT}
    assert "proven by content" in notes[COINBASE]
    assert "content" not in notes[BINANCE]
    for table, day in [(table, day) for table in (COINBASE, BINANCE) for day in (14, 15)]:
        again, known = of_day(third, table, day), before[table, day]
        assert again.files_digest != known.files_digest, "the compaction has rewritten the day"
        assert (again.status, again.iceberg_row_count) == (AuditStatus.OK, known.iceberg_row_count)
        assert again.key_comparison == known.key_comparison
        assert (SAME_FILES in again.notes, jobs[table, day] == 0) == (
            (True, True) if table == COINBASE else (False, False)
        )
