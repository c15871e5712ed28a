"""Days that are audited again: which, in what order, what their verdicts mean, and when Iceberg's side is not read."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from structlog.typing import EventDict

from icekeeper.core.audit.lookback import has_expired, is_left_alone, is_worse, may_be_reused, older_days
from icekeeper.core.audit.records import (
    AuditResult,
    BadFile,
    FileFault,
    Finding,
    FindingKind,
    Fingerprint,
    KeyComparison,
    SourceCount,
    SourceTtl,
)
from icekeeper.core.calendar import Window, window_of
from icekeeper.core.enums import NIGHT, AuditStatus, Proof, RunOutcome, Stage, Trigger
from icekeeper.core.events import OlderDayAudited
from icekeeper.core.history import PastRun
from icekeeper.core.notifications import Occasion, failure
from icekeeper.core.policy import AuditPolicy, KeyPolicy, RunPolicy, TablePolicy
from icekeeper.core.reasons import Reason
from icekeeper.core.resuming import EarlierWork, earlier_work
from icekeeper.core.run_history import failure_is_open, is_night, past_of
from icekeeper.core.runs import OlderDays, RunReport
from icekeeper.core.tables.rewrites import ProvenBy
from icekeeper.night.order import Order
from icekeeper.night.run import run_night
from icekeeper.night.stages import audit as audit_stage
from icekeeper.night.stages.context import Progress, ProvenRewrite
from tests.unit.builders import DAY, HOUR, SLOT, audit_policy, table_policy
from tests.unit.fakes import RUN_ID, FakeTable, Step, World, fails, permanent, transient
from tests.unit.reports import AUDIT

pytestmark = pytest.mark.usefixtures("logs")

OWN = window_of(SLOT)
A, B = "cold.a", "cold.b"
OK, WARNING, MISSING, ERROR = AuditStatus.OK, AuditStatus.WARNING, AuditStatus.MISSING_DATA, AuditStatus.ERROR


def back(days: int) -> Window:
    return Window(OWN.start - days * DAY, OWN.end - days * DAY)


def verdict(status: AuditStatus, **changes: Any) -> AuditResult:
    """An audit of the day before the night's own, of the night before."""
    day = back(1)
    plain = replace(AUDIT, window_start=day.start, window_end=day.end, slot=SLOT - DAY, delta=0, findings=())
    return replace(plain, status=status, **{"reason": None, **changes})


UNCOUNTED = verdict(ERROR, reason=Reason.SOURCE_DOWN, ch_row_count=None, iceberg_row_count=None, delta=None)
EMPTY = verdict(OK, reason=Reason.SOURCE_EMPTY, ch_row_count=0)
BAD_FILE = verdict(ERROR, reason=Reason.FILE_MISSING, bad_file_rows=10)
MORE_BAD_FILES = verdict(ERROR, reason=Reason.FILE_MISSING, bad_file_rows=11)
LACKS_5, LACKS_6 = (verdict(MISSING, delta=-rows) for rows in (5, 6))
LACKS_6_BY_MINUTE = verdict(
    MISSING, delta=0, findings=(Finding(FindingKind.MISSING, OWN.start, OWN.end, 6),)
)  # as many rows are surplus elsewhere
ESTIMATED_800 = replace(
    LACKS_5,
    key_comparison=KeyComparison(("id",), (), False, 2400, 2395, equal=False, missing=5, explored=10, unexplored=1600),
)


@pytest.mark.parametrize(
    ("now", "before", "worse"),
    [
        # A first verdict is judged as any.
        (verdict(OK), None, False),
        (verdict(WARNING), None, True),
        (LACKS_5, None, True),
        (BAD_FILE, None, True),
        (UNCOUNTED, None, False),
        # From the mildest on.
        (verdict(OK), verdict(OK), False),
        (verdict(WARNING), verdict(OK), True),
        (LACKS_5, verdict(OK), True),
        (LACKS_5, verdict(WARNING), True),
        (BAD_FILE, verdict(OK), True),
        (BAD_FILE, LACKS_6, True),
        (verdict(OK), verdict(WARNING), False),
        (verdict(OK), LACKS_5, False),
        (verdict(WARNING), LACKS_5, False),
        (LACKS_6, BAD_FILE, False),
        (verdict(OK), BAD_FILE, False),
        # The same again is no news; more of it is.
        (verdict(WARNING, delta=-2), verdict(WARNING, delta=-1), False),
        (LACKS_5, LACKS_5, False),
        (LACKS_5, LACKS_6, False),
        (LACKS_6, LACKS_5, True),
        (LACKS_6_BY_MINUTE, LACKS_5, True),
        (LACKS_6, LACKS_6_BY_MINUTE, False),
        (BAD_FILE, BAD_FILE, False),
        (MORE_BAD_FILES, BAD_FILE, True),
        # Ten rows of a bad file are gone with it, or more than these.
        (verdict(MISSING, delta=-10), BAD_FILE, False),
        (verdict(MISSING, delta=-11), BAD_FILE, True),
        (verdict(OK, delta=-1), BAD_FILE, False),
        # Few rows are tolerated, and revoke a certificate all the same.
        (verdict(OK, delta=-1), verdict(OK), True),
        (verdict(OK, delta=-2), verdict(OK, delta=-1), False),
        # Of keys that were not all explored it is only estimated how many are missing.
        (ESTIMATED_800, LACKS_5, False),
        # What could not be counted is no verdict, neither then nor now.
        (UNCOUNTED, verdict(OK), False),
        (UNCOUNTED, LACKS_5, False),
        (UNCOUNTED, UNCOUNTED, False),
        (LACKS_5, UNCOUNTED, True),
        (verdict(OK), UNCOUNTED, False),
        (EMPTY, LACKS_5, False),
        (LACKS_5, EMPTY, True),
    ],
)
def test_a_verdict_is_worse_than_another_one(now: AuditResult, before: AuditResult | None, worse: bool) -> None:
    assert is_worse(now, before) is worse


EXPIRED = verdict(ERROR, reason=Reason.SOURCE_EXPIRED)
EXPIRED_AND_BAD = replace(BAD_FILE, source_ttl_s=86_400, run_timestamp=SLOT)


@pytest.mark.parametrize(
    ("now", "before", "left_alone"),
    [
        (EXPIRED, None, True),
        (EXPIRED, verdict(OK), True),
        (EXPIRED_AND_BAD, verdict(OK), True),
        (replace(EXPIRED_AND_BAD, source_ttl_s=864_000), verdict(OK), False),
        (UNCOUNTED, verdict(OK), True),
        (UNCOUNTED, None, True),
        (EMPTY, verdict(OK), True),
        (EMPTY, None, False),
        (LACKS_5, verdict(OK), False),
        (BAD_FILE, verdict(OK), False),
        (verdict(OK), LACKS_5, False),
    ],
)
def test_a_day_that_can_not_be_judged_any_more_is_left_alone(
    now: AuditResult, before: AuditResult | None, left_alone: bool
) -> None:
    assert is_left_alone(now, before) is left_alone


def test_a_day_has_expired_when_its_beginning_has() -> None:
    assert has_expired(OWN, OWN.start + 3 * DAY + HOUR, 3 * DAY)
    assert not has_expired(OWN, OWN.start + 3 * DAY, 3 * DAY)
    assert not has_expired(OWN, OWN.start + 300 * DAY, None)


def looking_back(name: str = A, days: int = 3, **audit: Any) -> TablePolicy:
    return table_policy(name, audit=replace(audit_policy(**audit), lookback=days * DAY), source_ttl=10 * DAY)


def test_the_oldest_days_of_all_tables_come_first() -> None:
    tables = [looking_back(A, 1), looking_back(B, 3), table_policy("cold.c"), table_policy("cold.d", audit=None)]
    found = [(policy.name, day) for policy, day in older_days(tables, OWN)]
    assert found == [(B, back(3)), (B, back(2)), (A, back(1)), (B, back(1))]


# --- the night


@pytest.fixture
def world() -> World:
    """Two tables with four days of rows on both sides."""
    world = World()
    for policy in (looking_back(A), looking_back(B)):
        table = world.add(policy)
        table.hours = {back(3).start + hour * HOUR: 100 for hour in range(4 * 24)}
        world.source.hours[str(policy.source)] = dict(table.hours)
    return world


def order(*policies: TablePolicy, budget: timedelta = 4 * HOUR, **changes: Any) -> Order:
    plain = Order(
        run_id=RUN_ID,
        slot=SLOT,
        trigger=Trigger.SCHEDULE,
        tables=policies or (looking_back(A), looking_back(B)),
        stages=NIGHT,
        policy=RunPolicy(max_duration=budget),
    )
    return replace(plain, **changes)


async def night(world: World, asked: Order | None = None) -> RunReport:
    return await run_night(asked or order(), world.ports, world.events.append)


def audited(report: RunReport) -> list[tuple[str, Window, AuditStatus, bool | None]]:
    return [(one.iceberg_table, one.window, one.status, one.worse) for one in report.audits]


def lose(world: World, table: str, days_back: int, rows: int = 50) -> None:
    """Iceberg loses so many of the 2400 rows of a day."""
    world.lakehouse.tables[table].hours[back(days_back).start] -= rows


def know(world: World, *tables: str, status: AuditStatus = OK, **changes: Any) -> None:
    """The ledger has audits of the three days before."""
    for table in tables or (A, B):
        for days in (1, 2, 3):
            day = back(days)
            audit = verdict(status, iceberg_table=table, window_start=day.start, window_end=day.end, **changes)
            world.findings.audited[table, day] = audit


async def test_the_nights_own_days_come_first_and_then_the_oldest_of_all_tables(world: World) -> None:
    know(world)
    report = await night(world)
    assert audited(report) == [
        (A, OWN, OK, None),
        (B, OWN, OK, None),
        *((table, back(days), OK, False) for days in (3, 2, 1) for table in (A, B)),
    ]
    assert report.outcome is RunOutcome.SUCCESS
    assert [event.audit for event in world.emitted(OlderDayAudited)] == list(report.audits[2:])
    assert [(task.stage, task.table) for task in report.tasks if task.stage is Stage.AUDIT] == [
        (Stage.AUDIT, A),
        (Stage.AUDIT, B),
    ], "older days are no tasks"


@pytest.mark.parametrize(
    "asked", [order(window=OWN), order(stages=(Stage.COMPACT,)), order(table_policy(A), table_policy(B))]
)
async def test_nothing_is_looked_back_at_where_it_is_off_or_a_window_was_chosen(world: World, asked: Order) -> None:
    report = await night(world, asked)
    assert {one.window for one in report.audits} <= {OWN}
    assert report.older_days is None
    assert world.called("last_audits") == []


async def test_a_late_loss_fails_the_night_once_and_a_known_one_does_not(world: World) -> None:
    know(world)
    lose(world, A, 3, rows=500)
    report = await night(world)
    assert (A, back(3), MISSING, True) in audited(report)
    assert report.outcome is RunOutcome.FAILED
    (found,) = [one for one in report.audits if one.status is MISSING]
    world.findings.audited[A, back(3)] = replace(found, slot=SLOT - DAY)
    report = await night(world)
    assert (A, back(3), MISSING, False) in audited(report)
    assert report.outcome is RunOutcome.SUCCESS


async def test_an_older_day_without_a_verdict_is_judged_as_any(world: World) -> None:
    lose(world, B, 2, rows=500)
    report = await night(world)
    assert (B, back(2), MISSING, True) in audited(report)
    assert report.outcome is RunOutcome.FAILED


async def test_a_slots_own_rows_are_no_verdict_of_before(world: World) -> None:
    """An operator's second run of a slot says the same as its first."""
    know(world, slot=SLOT, status=MISSING)
    lose(world, A, 3, rows=500)
    assert (A, back(3), MISSING, True) in audited(await night(world))


async def test_days_past_the_ttl_are_not_even_counted(world: World) -> None:
    know(world)
    policies = replace(looking_back(A), source_ttl=3 * DAY), replace(looking_back(B), source_ttl="auto")
    world.source.ttls["b"] = SourceTtl(4 * DAY, 4 * DAY)
    report = await night(world, order(*policies))
    assert {one.window for one in report.audits if one.iceberg_table == A} == {OWN, back(1)}
    assert {one.window for one in report.audits if one.iceberg_table == B} == {OWN, back(1), back(2)}
    assert report.outcome is RunOutcome.SUCCESS
    assert len(world.called("source.count", "b")) == 3


async def test_a_day_whose_ttl_only_its_count_tells_gets_no_row(world: World) -> None:
    """The night's own audit was an earlier run's, and the ledger knows no TTL."""
    know(world)
    world.source.ttls["a"] = SourceTtl(3 * DAY, 3 * DAY)
    earlier = EarlierWork(counted=frozenset({(A, OWN), (B, OWN)}))
    report = await night(world, order(replace(looking_back(A), source_ttl="auto"), earlier=earlier))
    assert audited(report) == [(A, back(1), OK, False)]


async def test_a_day_that_can_not_be_counted_now_keeps_its_verdict(world: World) -> None:
    know(world)
    world.source.script("source.count", "a", Step(), fails(permanent(Reason.SOURCE_TYPE)))
    report = await night(world)
    assert report.outcome is RunOutcome.SUCCESS
    assert {one.window for one in report.audits if one.iceberg_table == A} == {OWN, back(2), back(1)}


async def test_a_system_that_went_down_ends_it(world: World) -> None:
    know(world)
    world.source.script("source.count", "a", Step(), fails(transient(Reason.SOURCE_DOWN)))
    report = await night(world)
    assert audited(report) == [(A, OWN, OK, None), (B, OWN, OK, None)]
    assert report.outcome is RunOutcome.SUCCESS
    assert report.older_days == OlderDays(not_audited=6, reason=Reason.SOURCE_DOWN)


async def test_it_ends_with_the_budget_and_that_fails_nothing(world: World, logs: list[EventDict]) -> None:
    know(world)
    world.source.script("source.count", "b", Step(), Step(takes=5 * HOUR))
    report = await night(world)
    assert [one.worse for one in report.audits] == [None, None, False]
    assert report.outcome is RunOutcome.SUCCESS
    (cut,) = [line for line in logs if line["event"] == "lookback_cut_short"]
    assert (cut["days_left"], cut["reason"]) == (4, Reason.BUDGET)
    assert report.older_days == OlderDays(1, 0, 5, Reason.BUDGET)
    assert str(report.older_days) == "older days: 1 audited again, 5 not audited (budget)"


async def test_without_the_ledger_no_known_loss_is_reported_again(world: World, logs: list[EventDict]) -> None:
    world.findings.down = transient(Reason.LEDGER_DOWN)
    lose(world, A, 3, rows=500)
    report = await night(world)
    assert audited(report) == [(A, OWN, OK, None), (B, OWN, OK, None)]
    assert "lookback_left_out" in [line["event"] for line in logs]
    assert report.older_days == OlderDays(not_audited=6, reason=Reason.LEDGER_DOWN)


async def test_a_bug_or_a_row_of_another_version_costs_the_night_nothing(world: World, logs: list[EventDict]) -> None:
    know(world)
    lose(world, A, 3, rows=500)
    world.findings.audited[A, back(3)] = None
    report = await night(world)
    assert (report.outcome, len(report.audits)) == (RunOutcome.SUCCESS, 7)
    world.findings.script("last_audits", A, Step(RuntimeError("a bug"), acts=False))
    report = await night(world)
    assert (report.outcome, len(report.audits)) == (RunOutcome.SUCCESS, 2)
    assert "lookback_crashed" in [line["event"] for line in logs]
    assert report.older_days == OlderDays(not_audited=6, reason=Reason.UNEXPECTED)


async def test_a_day_that_no_audit_has_judged_is_left_for_another_night_where_it_can_not_be_counted(
    world: World,
) -> None:
    world.source.script("source.count", "a", Step(), fails(transient(Reason.SOURCE_DOWN)))
    report = await night(world)
    assert audited(report) == [(A, OWN, OK, None), (B, OWN, OK, None)]
    assert report.outcome is RunOutcome.SUCCESS


async def test_a_resumed_run_audits_no_window_again(world: World) -> None:
    know(world)
    first = await night(world)
    past = PastRun(
        RUN_ID, SLOT, Trigger.SCHEDULE, SLOT, RunOutcome.INTERRUPTED, tasks=first.tasks, audits=first.audits[:5]
    )
    report = await night(world, order(earlier=earlier_work([past]), trigger=Trigger.RESUME))
    assert [(one.iceberg_table, one.window) for one in report.audits] == [(B, back(2)), (A, back(1)), (B, back(1))]


async def test_a_slot_whose_runs_die_again_and_again_does_not_look_back(world: World, logs: list[EventDict]) -> None:
    past = [PastRun(UUID(int=n), SLOT, Trigger.RESUME, SLOT, RunOutcome.INTERRUPTED) for n in (1, 2)]
    report = await night(world, order(earlier=earlier_work(past)))
    assert [line["reason"] for line in logs if line["event"] == "lookback_left_out"] == [Reason.PROCESS_DIED]
    assert audited(report) == [(A, OWN, OK, None), (B, OWN, OK, None)]


async def test_a_cancelled_run_keeps_what_it_has_looked_at(world: World) -> None:
    know(world)
    counting = asyncio.Event()
    world.source.script("source.count", "b", Step(), Step(first=counting.set, until=asyncio.Event()))
    running = asyncio.create_task(night(world))
    await counting.wait()
    running.cancel()
    report = await running
    assert report.outcome is RunOutcome.SUCCESS, "its tasks are done"
    assert audited(report)[2:] == [(A, back(3), OK, False)]


# --- what is not read again

FINGERPRINT = Fingerprint(2400, (1, 2))
KEYS = KeyPolicy(("id",))
EQUAL = KeyComparison(("id",), (), False, 2400, 2400, equal=True, fingerprint=FINGERPRINT.text)
QUERY = "SELECT count() FROM a"
BEFORE = verdict(OK, ch_query=QUERY, ch_row_count=2400, iceberg_row_count=2400, ch_final=False)
NOW = SourceCount(2400, QUERY, final=False, fingerprint=FINGERPRINT)


@pytest.mark.parametrize(
    ("before", "now", "keys", "reused"),
    [
        (BEFORE, NOW, None, True),
        (replace(BEFORE, key_comparison=EQUAL), NOW, KEYS, True),
        (replace(BEFORE, status=WARNING), NOW, None, False),
        (replace(BEFORE, delta=-1), NOW, None, False),
        (replace(BEFORE, delta=None, iceberg_row_count=None), NOW, None, False),
        (replace(BEFORE, findings=LACKS_6_BY_MINUTE.findings), NOW, None, False),
        (BEFORE, replace(NOW, rows=2401), None, False),
        (BEFORE, replace(NOW, query="SELECT count() FROM other"), None, False),
        (BEFORE, replace(NOW, final=True), None, False),
        # A key that was not compared then, or is another one, or not equal.
        (BEFORE, NOW, KEYS, False),
        (replace(BEFORE, key_comparison=EQUAL), NOW, None, False),
        (replace(BEFORE, key_comparison=EQUAL), NOW, KeyPolicy(("symbol",)), False),
        (replace(BEFORE, key_comparison=EQUAL), NOW, KeyPolicy(("id",), ("price",)), False),
        (replace(BEFORE, key_comparison=replace(EQUAL, equal=False)), NOW, KEYS, False),
        (replace(BEFORE, key_comparison=replace(EQUAL, distinct=True)), NOW, KEYS, False),
        (replace(BEFORE, key_comparison=EQUAL), replace(NOW, fingerprint=None), KEYS, False),
        (replace(BEFORE, key_comparison=EQUAL), replace(NOW, fingerprint=Fingerprint(2400, (1, 3))), KEYS, False),
    ],
)
def test_what_iceberg_held_is_reused_only_where_both_sides_were_equal_and_clickhouse_is_as_it_was(
    before: AuditResult, now: SourceCount, keys: KeyPolicy | None, reused: bool
) -> None:
    rules: AuditPolicy = replace(audit_policy(proof=Proof.FILES), keys=keys)
    assert may_be_reused(before, now, rules) is reused


def test_rows_that_were_not_read_are_read_once_they_are_to_be() -> None:
    rules = audit_policy(proof=Proof.ROWS)
    assert not may_be_reused(replace(BEFORE, proof=Proof.FILES), NOW, rules)
    assert may_be_reused(replace(BEFORE, proof=Proof.ROWS), NOW, rules)
    assert may_be_reused(replace(BEFORE, proof=Proof.ROWS), NOW, audit_policy(proof=Proof.FILES))


def rewritten(table: FakeTable, partition: str) -> ProvenRewrite:
    parent = table.head
    removed = [file for file in table.files if file.partition == partition]
    merged = replace(removed[0], size=sum(file.size for file in removed), rows=sum(file.rows for file in removed))
    snapshot_id = table.commit(SLOT, "replace", added=[merged], removed=removed)
    assert parent is not None
    return ProvenRewrite(snapshot_id, parent, ProvenBy.CONTENT)


OTHER = "day=2026-02-01"
THE_DAY = f"day={back(1).start:%Y-%m-%d}"


@pytest.mark.parametrize("proof", [Proof.FILES, Proof.ROWS])
@pytest.mark.parametrize(
    ("changes", "how", "read"),
    [
        ((), None, False),
        (("append other",), None, False),
        (("append",), None, True),
        (("rewrite",), ProvenBy.CONTENT, False),
        (("rewrite",), ProvenBy.METRICS, True),
        (("rewrite",), ProvenBy.UNPROVEN, True),
        (("rewrite",), None, True),
        (("append other", "rewrite other", "rewrite"), ProvenBy.CONTENT, False),
        (("append", "rewrite"), ProvenBy.CONTENT, True),
        (("rewrite", "append"), ProvenBy.CONTENT, True),
    ],
)
async def test_a_day_whose_files_are_the_same_but_for_proven_rewrites_is_not_read_again(
    world: World, changes: tuple[str, ...], how: ProvenBy | None, read: bool, proof: Proof
) -> None:
    """What is proven by metrics has as many rows as a whole, and perhaps other ones of this day."""
    policy = looking_back(proof=proof)
    table = world.lakehouse.tables[A]
    table.append(SLOT - DAY, 3, THE_DAY)
    context = replace(world.context(), window=back(1))
    first = (await audit_stage.run(policy, context, Progress())).audit
    assert first is not None
    assert first.files_digest
    for change in changes:
        what, _, where = change.partition(" ")
        partition = OTHER if where else THE_DAY
        if what == "append":
            table.append(SLOT, 1, partition)
        elif what == "rewrite":
            rewrite = rewritten(table, partition)
            if how is not None:
                context.proven.setdefault(A, []).append(replace(rewrite, how=how))
    world.calls.clear()
    again = (await audit_stage.run(policy, replace(context, before=first), Progress())).audit
    assert again is not None
    assert (again.status, again.iceberg_row_count, again.snapshot_id) == (OK, 2400, table.head)
    assert bool(world.called("count")) is read
    assert again.proof is proof
    assert ("the same files" in again.notes) is not read


async def test_a_rewrite_that_can_not_be_followed_has_the_rows_read(world: World) -> None:
    policy, table = looking_back(proof=Proof.FILES), world.lakehouse.tables[A]
    table.append(SLOT - DAY, 3, THE_DAY)
    context = replace(world.context(), window=back(1))
    first = (await audit_stage.run(policy, context, Progress())).audit
    context.proven[A] = [rewritten(table, THE_DAY)]
    world.lakehouse.script("prove_files", A, Step(), fails(permanent(Reason.SNAPSHOT_EXPIRED)))
    world.calls.clear()
    again = (await audit_stage.run(policy, replace(context, before=first), Progress())).audit
    assert again is not None
    assert (again.status, len(world.called("count"))) == (OK, 1)


async def test_a_day_that_is_not_read_again_still_has_its_files_proven(world: World) -> None:
    policy, table = looking_back(proof=Proof.FILES), world.lakehouse.tables[A]
    context = replace(world.context(), window=back(1))
    first = (await audit_stage.run(policy, context, Progress())).audit
    assert first is not None
    table.bad_files = (BadFile("s3://w/a.parquet", THE_DAY, "data", FileFault.MISSING, 100, 1000),)
    again = (await audit_stage.run(policy, replace(context, before=first), Progress())).audit
    assert again is not None
    assert (again.status, again.reason) == (ERROR, Reason.FILE_MISSING)


# --- what is said of it


def a_night(*audits: AuditResult, outcome: RunOutcome = RunOutcome.FAILED) -> RunReport:
    return RunReport(RUN_ID, SLOT, Trigger.SCHEDULE, outcome, SLOT, SLOT + HOUR, "", (), audits)


KNOWN = replace(LACKS_5, iceberg_table=A, worse=False, slot=SLOT)
LATE = replace(LACKS_6, iceberg_table=B, worse=True, slot=SLOT, window_start=back(3).start, window_end=back(3).end)
OWN_DAY = replace(verdict(OK), iceberg_table=A, slot=SLOT, window_start=OWN.start, window_end=OWN.end)


def test_a_message_names_the_older_day_that_has_become_worse_and_no_other() -> None:
    run = PastRun(RUN_ID, SLOT, Trigger.SCHEDULE, SLOT, RunOutcome.FAILED, audits=(OWN_DAY, KNOWN, LATE))
    text = failure(run, [run], Occasion.FAILED, "http://ice1").body
    assert f"audit {B} of 2026-02-14, worse than before: missing_data" in text
    assert A not in text


def test_a_night_has_left_something_to_settle_where_a_day_became_worse_and_its_newest_days_are_its_own() -> None:
    report = a_night(OWN_DAY, KNOWN, LATE)
    past = past_of(report, night=True)
    assert [set(seen) for seen in (past.nights[0].audited, past.nights[0].found, past.nights[0].older)] == [
        {A},
        set(),
        {B},
    ]
    assert set(past.days) == {(A, OWN.start), (A, back(1).start), (B, back(3).start)}
    assert past.audits[A].day == OWN.start
    by_hand = replace(report, trigger=Trigger.MANUAL)
    assert is_night(by_hand, NIGHT, [A, B], [A, B])
    assert not is_night(replace(by_hand, audits=(replace(KNOWN, worse=None),)), NIGHT, [A, B], [A, B])


def test_a_night_stays_open_for_an_older_day_whatever_its_resumed_run_finds_of_the_own() -> None:
    first = a_night(replace(OWN_DAY, status=ERROR), replace(LATE, iceberg_table=A), outcome=RunOutcome.INTERRUPTED)
    second = replace(a_night(OWN_DAY), run_id=UUID(int=9), started_at=SLOT + HOUR)
    past = past_of(second, night=True).joined(past_of(first, night=True))
    assert failure_is_open(past, {second.run_id}, {A})
    assert not failure_is_open(past, {second.run_id}, set())
